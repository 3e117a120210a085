"""`sam-automatic`: SAM's masks as its own package gives them, and the white cells picked out of all masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam, SamAutomatic, automatic_masks
from cellfeat_lora_sam.automatic_cells import near_nuclei, outline, overlap, white_cells
from cellfeat_lora_sam.automatic_masks import Grid, Mask, every_mask, generator, load_sam
from cellfeat_lora_sam.automatic_stain import Stain, empty_field, stain_of
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from cellfeat_lora_sam.sizes import BUILDS, SamSizes
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from cellfeat import CellfeatError
from cellfeat.detecting import detected
from cellfeat.synthetic import LABORATORIES
from cellfeat.synthetic_smears import SyntheticSmear, draw_smear
from cellfeat.testing import examine, toy_images

SMALL = SamSizes(24, 3, 2, (1,), window=3, prompt_dim=16, decoder_mlp=8, decoder_heads=2, iou_hidden=8)
SIDE = 64
DIAMETER = 48.0
WHOLE = (0, 0, 320, 240)
SEEDS = (0, 3, 5, 11)  # with cells that the border cuts, and that hide each other
SHOWN = 0.05  # of the area of a typical cell: less nucleus is not seen where a cell is cut


def small_sam() -> Sam:
    """The package's own modules, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ImageEncoderViT(
            SIDE,
            16,
            embed_dim=SMALL.embed_dim,
            depth=SMALL.depth,
            num_heads=SMALL.heads,
            out_chans=SMALL.prompt_dim,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=SMALL.window,
            global_attn_indexes=SMALL.global_blocks,
        )
        transformer = TwoWayTransformer(
            SMALL.decoder_depth, SMALL.prompt_dim, num_heads=SMALL.decoder_heads, mlp_dim=SMALL.decoder_mlp
        )
        decoder = MaskDecoder(
            transformer_dim=SMALL.prompt_dim, transformer=transformer, iou_head_hidden_dim=SMALL.iou_hidden
        )
        sam = Sam(encoder, PromptEncoder(SMALL.prompt_dim, (4, 4), (SIDE, SIDE), 16), decoder).eval()
    with torch.no_grad():
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 300
            head.layers[-1].bias *= 0
        decoder.iou_prediction_head.layers[-1].bias += torch.tensor([0.9, 0.2, 0.6, 0.9])
    return sam


@pytest.fixture(scope="module")
def sam():
    return small_sam()


@pytest.fixture
def weights(sam, tmp_path, monkeypatch):
    """A file in Meta's layout."""
    monkeypatch.setitem(BUILDS, "small", SMALL)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture(scope="module")
def smear():
    return draw_smear("lab-a", np.random.default_rng(2), (320, 240), 5, DIAMETER)


def tensor(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("layers", [0, 1])
def test_masks_are_those_of_the_package_where_it_is_asked_everywhere(sam, weights, smear, layers):
    settings = {"points_per_side": 4, "pred_iou_thresh": 0.15, "stability_score_thresh": 0.003, "crop_n_layers": layers}
    wanted = SamAutomaticMaskGenerator(sam, **settings).generate(smear.image)
    loaded = load_sam(weights, SIDE, "small")
    asking = generator(loaded, np.ones((240, 320), bool), Grid(4, 0.15, 0.003, layers), DIAMETER)
    found = every_mask(asking, smear.image)
    assert len(found) == len(wanted) > 2
    for mask, record in zip(found, wanted, strict=True):
        left, top, right, bottom = mask.box
        assert np.array_equal(mask.inside, record["segmentation"][top:bottom, left:right])
        assert mask.inside.sum() == record["area"], "nothing of it is outside of its box"


def test_only_points_of_the_region_are_asked_and_crops_without_any_are_not_encoded(weights, smear, monkeypatch):
    region = np.zeros((240, 320), bool)
    region[:100, :100] = True
    asking = generator(load_sam(weights, SIDE, "small"), region, Grid(8, 0.0, 0.0, 1), DIAMETER)
    asked = asking.questions()
    assert [crop[:2] for crop, _ in asked] == [[0, 0], [0, 0], [0, 80]], "the whole, and two of four, which overlap"
    for (left, top, right, bottom), points in asked:
        assert ((points * (right - left, bottom - top) + (left, top)) < 100).all()
    encoded = []
    encode = asking.predictor.set_image
    monkeypatch.setattr(asking.predictor, "set_image", lambda image: (encoded.append(image.shape), encode(image))[1])
    assert every_mask(asking, smear.image)
    assert len(encoded) == len(asked)
    nowhere = generator(asking.predictor.model, np.zeros((240, 320), bool), Grid(8, 0.0, 0.0, 1), DIAMETER)
    assert (every_mask(nowhere, smear.image), nowhere.cpu_minutes(), len(encoded)) == ([], 0.0, len(asked))


@pytest.mark.parametrize(
    ("longest", "points", "layers"), [(1000, 32, 0), (1100, 32, 1), (2100, 32, 1), (3200, 32, 2), (1600, 99, 1)]
)
def test_a_field_gets_the_crops_that_its_cells_need(longest, points, layers):
    grid = Grid(points, 0.9, 0.9)
    assert grid.layers_for(longest, 48.0, 1024) == layers
    assert replace(grid, layers=3).layers_for(longest, 48.0, 1024) == 3


def all_masks(smear: SyntheticSmear) -> tuple[list[Mask], int]:
    """What a good SAM would give of a drawn smear, and how many of these, the first, are the white cells.

    Beside them: nuclei and their lobes, touching cells as one, red cells one by one and in heaps, the empty field.
    """
    stain, regions = stain_of(smear.image, DIAMETER), []
    cells = [smear.instances == number for number in range(1, len(smear.boxes) + 1)]
    cells = [cell for cell in cells if cell.any()]
    for cell in cells:
        regions += [cell & stain.nuclear, *pieces(cell & stain.nuclear)]
        near = cv2.dilate(cell.astype(np.uint8), np.ones((3, 3))) > 0
        regions += [cell | other for other in cells if other is not cell and (other & near).any()]
    white = cv2.dilate((smear.instances > 0).astype(np.uint8), np.ones((3, 3))) > 0
    red = stain.stained & ~white
    middles = cv2.distanceTransform(red.astype(np.uint8), cv2.DIST_L2, 5) > DIAMETER / 8
    regions += [cv2.dilate(part.astype(np.uint8), np.ones((13, 13))) & red for part in pieces(middles)]
    regions += [*pieces(red), ~stain.stained, np.ones_like(red)]
    return [Mask.of(region > 0) for region in (*cells, *regions) if region.sum() > 20], len(cells)


def pieces(region: np.ndarray) -> list[np.ndarray]:
    count, parts = cv2.connectedComponents(region.astype(np.uint8))
    return [parts == number for number in range(1, count)]


@pytest.mark.parametrize("laboratory", sorted(LABORATORIES))
def test_of_all_masks_white_cells_that_show_a_nucleus_are_kept_and_hardly_anything_else(laboratory):
    shown, missed, wrong = 0, [], []
    for seed in SEEDS:
        smear = draw_smear(laboratory, np.random.default_rng(seed), (480, 360), 8, DIAMETER, touching=0.4)
        masks, cells = all_masks(smear)
        stain = stain_of(smear.image, DIAMETER)
        assert len(masks) > 5 * cells
        assert near_nuclei(stain, DIAMETER)[smear.instances > 0].mean() > 0.98, "SAM is asked nearly all over the cells"
        order = np.random.default_rng(5).permutation(len(masks))
        kept = set(order[white_cells(stain, [masks[place] for place in order], DIAMETER)].tolist())
        nuclear = [(stain.nuclear & (smear.instances == one + 1)).sum() for one in range(cells)]
        seen = {one for one, area in enumerate(nuclear) if area > SHOWN * np.pi * DIAMETER**2 / 4}
        shown += len(seen)
        missed += [(seed, one) for one in sorted(seen - kept)]
        wrong += [(seed, one) for one in sorted(kept - set(range(cells)))]
    assert shown >= 7 * len(SEEDS)
    assert len(missed) <= 1, missed
    assert len(wrong) <= 1, wrong


def disc(y: int, x: int, radius: int) -> np.ndarray:
    """(120, 160) bool."""
    ys, xs = np.ogrid[:120, :160]
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def test_a_cell_full_of_nucleus_is_kept_without_the_pale_cell_beside_it_and_a_nucleus_alone_is_not():
    dark, beside = disc(60, 50, 22), disc(60, 80, 12) & ~disc(60, 50, 22)
    stain = Stain(dark | beside, dark)
    assert white_cells(stain, [Mask.of(dark), Mask.of(dark | beside)], DIAMETER) == [0]
    uneven = disc(60, 60, 26) & ~disc(28, 60, 16)  # its nucleus is rounder
    nucleus = disc(63, 60, 21) & uneven
    assert white_cells(Stain(uneven, nucleus), [Mask.of(nucleus), Mask.of(uneven)], DIAMETER) == [1]


def test_two_cells_one_of_them_half_hidden_are_not_taken_for_one():
    over, under = disc(60, 60, 30), disc(60, 94, 20) & ~disc(60, 60, 30)
    nuclei = disc(60, 60, 20) | disc(60, 100, 10)
    stain = Stain(over | under, nuclei)
    assert white_cells(stain, [Mask.of(over | under), Mask.of(over)], DIAMETER) == [1]


def test_a_nucleus_stands_for_a_cell_whose_whole_was_not_found():
    smear = draw_smear("lab-b", np.random.default_rng(3), (200, 200), 1, DIAMETER, classes=["lymphocyte"])
    stain = stain_of(smear.image, DIAMETER)
    nucleus = Mask.of(max(pieces(stain.nuclear & (smear.instances > 0)), key=np.sum))
    assert white_cells(stain, [nucleus], DIAMETER) == [0]
    assert white_cells(stain, [nucleus, Mask.of(smear.instances == 1)], DIAMETER) == [1]


def test_a_mask_with_empty_field_around_the_cell_gives_way_to_the_cell():
    smear = draw_smear("lab-a", np.random.default_rng(4), (200, 200), 1, DIAMETER, classes=["neutrophil"])
    cell = smear.instances == 1
    wide = cv2.dilate(cell.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    stain = stain_of(smear.image, DIAMETER)
    assert white_cells(stain, [Mask.of(wide), Mask.of(cell)], DIAMETER) == [1]


def test_nuclei_are_found_under_uneven_light():
    smear = draw_smear("lab-c", np.random.default_rng(6), (640, 480), 8, DIAMETER)
    fading = np.linspace(1.0, 0.55, 640)[None, :, None] * np.linspace(1.0, 0.85, 480)[:, None, None]
    image = (smear.image * fading).astype(np.uint8)
    light = np.log(image[..., :2].astype(np.float32) + 1)
    field = empty_field(light, DIAMETER)
    even = empty_field(np.log(smear.image[..., :2].astype(np.float32) + 1), DIAMETER)
    assert np.abs(field - even - np.log(fading)).max() < 0.1
    kept = white_cells(stain_of(image, DIAMETER), all_masks(smear)[0], DIAMETER)
    assert kept == list(range(len(kept)))
    assert len(kept) >= 7


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_in_a_picture_of_one_colour_there_is_no_nucleus(grey):
    stain = stain_of(np.full((60, 80, 3), grey, np.uint8), DIAMETER)
    assert not stain.nuclear.any()
    assert not stain.stained.any()
    assert white_cells(stain, [Mask.of(np.ones((60, 80), bool))], DIAMETER) == []


def test_overlap_and_outline_of_masks():
    square = Mask((10, 10, 20, 20), np.ones((10, 10), bool))
    assert overlap(square, Mask((15, 12, 40, 14), np.ones((2, 25), bool))) == 10
    assert overlap(square, Mask((20, 10, 30, 20), np.ones((10, 10), bool))) == 0
    assert outline(square.inside) == (1.0, 1.0)
    corner = np.ones((10, 10), bool)
    corner[:5, :5] = False
    solidity, length = outline(corner)
    assert solidity == pytest.approx(75 / 87.5, abs=0.03)  # the hull leaves out a triangle of 12.5 px
    assert length == pytest.approx(1.0, abs=0.1)
    assert outline(np.ones((4, 12), bool)) == (1.0, 3.0)


def test_detect_gives_the_boxes_of_white_cells_at_the_scale_of_the_photograph(weights, monkeypatch):
    smear = draw_smear("lab-a", np.random.default_rng(1), (640, 480), 5, 2 * DIAMETER)
    small = replace_instances(smear)
    monkeypatch.setattr(automatic_masks, "every_mask", lambda asking, image: all_masks(small)[0])
    found = detected(SamAutomatic(str(weights), image_size=SIDE), "sam-automatic", smear.image, 2 * DIAMETER)
    assert len(found) == len(smear.boxes)
    nearest = np.abs(found[:, None] - smear.boxes[None]).max(axis=2).min(axis=1)
    assert nearest.max() <= 4, "two pixels of what it saw"


def replace_instances(smear: SyntheticSmear) -> SyntheticSmear:
    """The same at half the size, as the segmenter sees it."""
    half = cv2.resize(smear.image, (320, 240), interpolation=cv2.INTER_AREA)
    return smear._replace(image=half, instances=np.ascontiguousarray(smear.instances[::2, ::2]))


def test_contract(weights):
    params = {"weights": str(weights), "points_per_side": 4, "image_size": SIDE}
    params |= {"pred_iou_threshold": 0.0, "stability_threshold": 0.0}
    promises = ["members", "runs", "shape", "dtype", "blank-images", "detect", "cell-diameter", "facts", "process"]
    report = examine("segmenter", SamAutomatic, params, only=promises, size=SIDE)
    report.raise_failures()
    assert all(finding.passed for finding in report.findings if finding.check in promises), report.findings


def test_it_segments_as_lora_sam_does_and_says_the_same_of_itself(weights, context):
    segmenter, images = SamAutomatic(str(weights), image_size=SIDE, context=context), toy_images(2, SIDE)
    backbone = LoraSam(str(weights))
    assert torch.equal(segmenter.segment(images), backbone.segment(images))
    assert segmenter.weights_sha256 == backbone.weights_sha256
    facts = SamAutomatic.facts(str(weights), context, crops=1)
    assert facts == (None, None, segmenter.weights_sha256, None)


def test_a_long_wait_on_a_cpu_is_told_before(weights, smear, context, monkeypatch):
    segmenter = SamAutomatic(str(weights), image_size=SIDE, context=context)
    monkeypatch.setattr(automatic_masks, "every_mask", lambda asking, image: [])
    segmenter.detect(tensor(smear.image))
    assert not any("automatic masks" in note for note in context.reporter.notes), "seconds are no matter"
    monkeypatch.setattr(automatic_masks, "QUESTION", 1e6)
    segmenter.detect(tensor(smear.image))
    assert [note for note in context.reporter.notes if "min of a CPU core for a field like this one; quicker" in note]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"points_per_side": 0}, "points_per_side is 0; possible are 1 to 256, such as 32"),
        ({"pred_iou_threshold": 1.5}, "pred_iou_threshold is 1.5; possible are 0 to 1, such as 0.88"),
        ({"stability_threshold": -0.1}, "stability_threshold is -0.1; possible are 0 to 1, such as 0.95"),
        ({"crops": 4}, "crops is 4; possible are 0 to 3, such as 1"),
        ({"image_size": 1000}, "image_size is 1000; possible are multiples of 16"),
        ({"weights": "vit_t"}, "the weights 'vit_t' cannot be used: their encoder is MobileSAM's"),
        ({"weights": "cell-tiny"}, "the weights 'cell-tiny' cannot be asked by points: their decoder, of 3 masks"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(params, words):
    with pytest.raises(CellfeatError, match=words):
        SamAutomatic(**params)


def test_fine_tuned_decoders_in_other_files_are_refused_too(sam, tmp_path, monkeypatch, smear):
    monkeypatch.setitem(BUILDS, "small", SMALL)
    state = sam.state_dict()
    state["mask_decoder.mask_tokens.weight"] = state["mask_decoder.mask_tokens.weight"][:2]
    torch.save(state, tmp_path / "two.pth")
    with pytest.raises(CellfeatError, match="cannot be asked by points: their decoder, of 2 masks"):
        SamAutomatic(str(tmp_path / "two.pth")).detect(tensor(smear.image))


def test_cell_tiny_gives_one_answer_wherever_the_point_is():
    """Why it is refused: it was trained without points."""
    smear = draw_smear("lab-a", np.random.default_rng(1), (224, 224), 3, 56.0)
    network = load_network(NAMED_WEIGHTS["cell-tiny"].path, None, 224)
    answers = []
    for point in [*((smear.boxes[:, :2] + smear.boxes[:, 2:]) / 2), np.array([5.0, 5.0])]:
        with torch.inference_mode():
            logits = network.forward_points(
                tensor(smear.image)[None], torch.tensor(point, dtype=torch.float32)[None]
            ).logits
        answers.append(logits[0, 1] > logits[0, 0])
    shares = [float((one & answers[0]).sum() / (one | answers[0]).sum()) for one in answers]
    assert min(shares) > 0.8
