"""LoRA-SAM with weights that tell the nucleus: reading them, pooling by parts, the second look, quality, colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.checkpoints import build_network, fit_positions, read_weights, save_weights
from cellfeat_lora_sam.network import SamNetwork, nucleus_mask, two_class_mask
from cellfeat_lora_sam.pooling import pool_parts
from cellfeat_lora_sam.second_look import BOX_SHARE, LOOK_SIZE, look_again, windows
from cellfeat_lora_sam.shape import shapes
from cellfeat_lora_sam.sizes import BUILDS
from helpers import with_nucleus

from cellfeat import CellfeatError, synthetic
from cellfeat.images import masked_mean
from cellfeat.testing import check_backbone, check_segmenter, toy_images

SIZE = 64
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(with_nucleus(tmp_path_factory.mktemp("weights") / "nucleus.safetensors"))


@pytest.fixture(scope="module")
def cells() -> torch.Tensor:
    rng = np.random.default_rng(3)
    drawn = [
        synthetic.draw_cell(name, "lab-a", rng, size=SIZE).image for name in ("neutrophil", "monocyte", "basophil")
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def test_files_with_three_masks_are_read_with_what_they_say_of_colours(weights, tmp_path):
    read = read_weights(Path(weights))
    assert (read.masks, read.own_colours, read.sizes) == (3, True, BUILDS["tiny"])
    save_weights(tmp_path / "silent.safetensors", read.state, {})
    silent = read_weights(tmp_path / "silent.safetensors")
    assert silent.own_colours is False
    assert [build_network(read, SIZE, own).own_colours for own in (None, False)] == [True, False]
    assert [build_network(silent, SIZE, own).own_colours for own in (None, True)] == [False, True]
    larger = fit_positions(read.state, read.sizes, 320)
    assert larger["image_encoder.pos_embed"].shape == (1, 20, 20, 192)
    assert build_network(read, 320).masks == 3


def test_of_builds_of_one_width_and_depth_the_file_says_which(tmp_path, monkeypatch):
    from dataclasses import replace

    twin = replace(BUILDS["tiny"], heads=6)
    monkeypatch.setitem(BUILDS, "twin", twin)
    state = SamNetwork(twin, SIZE, 3).state_dict()
    for build, wanted in (("twin", twin), ("tiny", BUILDS["tiny"]), (None, BUILDS["tiny"])):
        save_weights(tmp_path / "w.safetensors", state, {} if build is None else {"build": build})
        assert read_weights(tmp_path / "w.safetensors").sizes is wanted


def test_other_numbers_of_masks_are_refused(tmp_path):
    save_weights(tmp_path / "five.safetensors", SamNetwork(BUILDS["tiny"], SIZE, 5).state_dict(), {})
    with pytest.raises(CellfeatError, match=r"and 5 mask tokens; possible are .* with 2, 3 or 4 mask tokens"):
        LoraSam(weights=str(tmp_path / "five.safetensors"))


def enlarged(images: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(images.float(), (size, size), mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize(
    ("params", "width"),
    [
        ({}, 6 * 192),
        ({"pooling": "parts"}, 6 * 192),
        ({"pooling": "cell"}, None),
        ({"passes": 2}, 12 * 192),
        ({"pooling": "cell", "passes": 2}, 2 * 192),
        ({"passes": 2, "own_colours": False}, 12 * 192),
    ],
)
def test_every_way_to_pool_keeps_the_contract(weights, params, width):
    backbone = check_backbone(LoraSam, weights=weights, image_size=SIZE, **params)
    features = backbone.encode(toy_images(2, backbone.image_size))
    assert features.embedding.shape == (2, 192, 4, 4)
    assert (None if width is None else (2, width)) == (None if features.pooled is None else features.pooled.shape)
    check_segmenter(lambda: backbone, 50)


def test_weights_without_a_nucleus_pool_the_cell(tmp_path, cells):
    save_weights(tmp_path / "two.safetensors", SamNetwork(BUILDS["tiny"], SIZE).state_dict(), {})
    plain, twice = (
        LoraSam(weights=str(tmp_path / "two.safetensors"), image_size=SIZE, passes=passes) for passes in (1, 2)
    )
    assert plain.encode(cells).pooled is None
    assert plain.encode(cells).quality is None
    large = enlarged(cells, twice.image_size)
    features = twice.encode(large)
    look = look_again(large, features.mask, features.mask, SIZE)
    with torch.inference_mode():
        again = masked_mean(twice._network.encode(look.images), look.cell)
    wanted = torch.cat((masked_mean(features.embedding, features.mask), again), dim=1)
    torch.testing.assert_close(features.pooled, wanted)


def test_the_second_pass_sees_windows_in_their_own_colours(weights, cells):
    once, twice = (LoraSam(weights=weights, image_size=SIZE, passes=passes) for passes in (1, 2))
    large = enlarged(cells, twice.image_size)
    assert large.shape[-1] == 1.5 * SIZE
    both = twice.encode(large)
    cells = twice._frames(large)
    first = once.encode(cells)
    assert torch.equal(first.embedding, both.embedding)
    with torch.inference_mode():
        logits = twice._network(cells).logits
        assert torch.equal(two_class_mask(logits, large.shape[-1]), both.mask)
        nucleus = nucleus_mask(logits, first.mask)
        assert nucleus.any(dim=(1, 2)).all()
        assert (first.mask & ~nucleus).any(dim=(1, 2)).all()
        torch.testing.assert_close(first.pooled, pool_parts(first.embedding, first.mask, nucleus))
        look = look_again(large, both.mask, nucleus_mask(logits, both.mask), SIZE)
        wanted = pool_parts(twice._network.encode(look.images), look.cell, look.nucleus)
    torch.testing.assert_close(both.pooled[:, 6 * 192 :], wanted)


@pytest.mark.parametrize(("pooling", "passes"), [("auto", 1), ("cell", 1), ("auto", 2)])
def test_shapes_are_appended(weights, cells, pooling, passes):
    given = {"weights": weights, "image_size": SIZE, "pooling": pooling, "passes": passes}
    plain, shaped = LoraSam(**given), LoraSam(**given, shape=True)
    images = enlarged(cells, plain.image_size)
    without, found = plain.encode(images), shaped.encode(images)
    if without.pooled is None:
        without = without._replace(pooled=masked_mean(without.embedding, without.mask))
    torch.testing.assert_close(found.pooled[:, :-75], without.pooled)
    nucleus = shaped.nuclei(images) & found.mask
    wanted = shapes(found.mask.numpy(), nucleus.numpy())
    torch.testing.assert_close(found.pooled[:, -75:], torch.from_numpy(wanted))


def by_hand(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and deviation of tokens (C, h, w), weighed by the share of each patch that the mask covers."""
    side = mask.shape[0] // tokens.shape[1]
    share = np.array(
        [
            [mask[y : y + side, x : x + side].mean() for x in range(0, len(mask), side)]
            for y in range(0, len(mask), side)
        ]
    )
    mean = (tokens * share).sum((1, 2)) / share.sum()
    return np.concatenate([mean, np.sqrt((np.square(tokens - mean[:, None, None]) * share).sum((1, 2)) / share.sum())])


def test_parts_are_means_and_deviations_weighed_by_cover():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 5, 3, 3)).astype(np.float32)
    cell, nucleus = np.zeros((4, 48, 48), bool), np.zeros((4, 48, 48), bool)
    cell[0, 5:40, 9:33] = cell[1, 5:40, 9:33] = cell[2, 5:40, 9:33] = True
    nucleus[0, 10:21, 3:25] = True  # partly outside the cell
    nucleus[2] = cell[2]
    parts = [
        (cell[0], nucleus[0] & cell[0], cell[0] & ~nucleus[0]),
        (cell[1], cell[1], cell[1]),  # no nucleus: the cell stands in
        (cell[2], cell[2], cell[2]),  # no cytoplasm
        (np.ones((48, 48), bool),) * 3,  # no cell: the frame
    ]
    wanted = [np.concatenate([by_hand(one, part) for part in of]) for one, of in zip(tokens, parts, strict=True)]
    got = pool_parts(torch.from_numpy(tokens), torch.from_numpy(cell), torch.from_numpy(nucleus))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.stack(wanted), rtol=1e-4, atol=1e-4)


def disc(frame: int, y: float, x: float, radius: float) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(frame), torch.arange(frame), indexing="ij")
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def test_windows_hold_the_box_at_one_size_and_stay_in_the_frame():
    boxes = torch.zeros((6, 200, 200), dtype=torch.bool)
    boxes[0, 60:100, 80:160] = True  # 40 x 80 px: a window of 100
    boxes[1, 0:80, 150:200] = True  # in a corner
    boxes[2, 5:195, 20:120] = True  # longer than 0.8 of the frame
    boxes[4, 50, 60] = True  # a speck
    boxes[5, 100:180, 10:30] = boxes[5, 120:140, 0:80] = True
    top, left, side = (values.tolist() for values in windows(boxes))
    assert side == pytest.approx([100, 100, 190 / BOX_SHARE, 200, 25, 100])
    assert top == pytest.approx([30, 0, 100 - 95 / BOX_SHARE, 0, 38, 90])
    assert left == pytest.approx([70, 100, 100 - 95 / BOX_SHARE, 0, 48, 0])


def test_every_cell_has_one_size_in_its_window():
    masks = torch.stack([disc(224, *place) for place in ((60, 90, 20), (120, 112, 55), (140, 30, 29), (112, 112, 105))])
    looked = look_again(torch.zeros((4, 3, 224, 224), dtype=torch.uint8), masks, masks)
    assert looked.cell.shape == (4, LOOK_SIZE, LOOK_SIZE)
    heights, widths = looked.cell.any(dim=2).sum(dim=1), looked.cell.any(dim=1).sum(dim=1)
    assert heights.tolist() == pytest.approx([BOX_SHARE * LOOK_SIZE] * 4, abs=2)
    assert widths.tolist() == pytest.approx([BOX_SHARE * LOOK_SIZE] * 4, abs=2)


def test_windows_are_resampled_without_aliasing():
    ys, xs = torch.meshgrid(torch.arange(288), torch.arange(288), indexing="ij")
    checked = 255 * ((ys + xs) % 2).expand(1, 3, -1, -1).byte()
    ramp = torch.stack((ys, xs, torch.full_like(ys, 77)))[None].float() / 2
    nothing, box = torch.zeros((1, 288, 288), dtype=torch.bool), torch.zeros((1, 288, 288), dtype=torch.bool)
    box[0, 100:157, 60:160] = True  # 100 px: a window of 125 px, enlarged, from row 66 and column 47.5
    torch.testing.assert_close(
        look_again(checked, nothing, nothing).images[..., 1:-1, 1:-1], torch.full((1, 3, 142, 142), 127.5)
    )
    seen = look_again(ramp, box, box).images[0]
    places = (torch.arange(LOOK_SIZE) + 0.5) * 125 / LOOK_SIZE
    torch.testing.assert_close(seen[0], ((66 + places - 0.5) / 2)[:, None].expand(-1, LOOK_SIZE), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(seen[1], ((47.5 + places - 0.5) / 2).expand(LOOK_SIZE, -1), rtol=1e-4, atol=1e-3)
    same = torch.randint(0, 256, (1, 3, LOOK_SIZE, LOOK_SIZE), dtype=torch.uint8)
    none = torch.zeros((1, LOOK_SIZE, LOOK_SIZE), dtype=torch.bool)
    torch.testing.assert_close(look_again(same, none, none).images, same.float())


def test_beyond_the_frame_its_border_goes_on():
    image = torch.full((1, 3, 160, 160), 90, dtype=torch.uint8)
    image[..., 0] = 200
    whole = torch.ones((1, 160, 160), dtype=torch.bool)
    seen = look_again(image, whole, whole)
    outside = int(LOOK_SIZE * (1 - BOX_SHARE) / 2) - 2
    assert (seen.images[0, :, :, :outside] > 150).all()
    torch.testing.assert_close(seen.images[0, :, :, 40:], torch.full((3, LOOK_SIZE, LOOK_SIZE - 40), 90.0))


def test_own_colours_make_the_lamp_and_the_camera_no_matter(weights, cells):
    dimmer = cells // 2 + 20
    differences = {}
    for own in (True, False):
        backbone = LoraSam(weights=weights, image_size=SIZE, own_colours=own)
        first, second = backbone.encode(cells).embedding, backbone.encode(dimmer).embedding
        differences[own] = ((first - second).norm() / first.norm()).item()
    assert differences[True] < 0.05 < differences[False]


def test_quality_is_the_cells_predicted_overlap_between_0_and_1(weights, cells):
    backbone = LoraSam(weights=weights, image_size=SIZE)
    with torch.inference_mode():
        wanted = backbone._network(cells).quality[:, 1]
    features = backbone.encode(cells)
    torch.testing.assert_close(features.quality, wanted)
    head = backbone._network.mask_decoder.iou_prediction_head.layers[-1]
    bias = head.bias.clone()
    for shift, limit in ((5.0, 1.0), (-5.0, 0.0)):
        head.bias.copy_(bias + shift)
        assert backbone.encode(cells).quality.tolist() == [limit] * 3
    head.bias.copy_(bias)
    for layer in backbone._network.mask_decoder.output_hypernetworks_mlps:
        layer.layers[-1].weight.zero_()
        layer.layers[-1].bias.zero_()
    features = backbone.encode(cells)
    assert not features.mask.any()
    assert features.quality.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"pooling": "parts"},
            r"pooling is 'parts', but the weights '.*two.safetensors' tell no nucleus.*possible: 'cell' and 'auto'$",
        ),
        ({"shape": True}, r"shape is on, but the weights '.*two.safetensors' tell no nucleus.*possible: off$"),
        ({"passes": 3}, "passes is 3; possible are 1, and 2 for a second look"),
        ({"passes": 0}, "passes is 0"),
    ],
)
def test_impossible_ways_to_pool(params, message, tmp_path):
    save_weights(tmp_path / "two.safetensors", SamNetwork(BUILDS["tiny"], SIZE).state_dict(), {})
    with pytest.raises(CellfeatError, match=message):
        LoraSam(weights=str(tmp_path / "two.safetensors"), image_size=SIZE, **params)
