"""The detector of white cells: tiles, peaks and the shipped head."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import CellDetector, LoraSam
from cellfeat_lora_sam.detector_check import Counted, Scored, best_threshold, counted, matched, photographs, scored
from cellfeat_lora_sam.detector_find import HeadFile, build_head, find_cells, head_bytes
from cellfeat_lora_sam.detector_head import CELL_DIAMETER, TILE, DetectorHead, Told, peaks
from cellfeat_lora_sam.detector_targets import detection_loss, targets
from cellfeat_lora_sam.detector_tiles import OVERLAP, padded, starts, suppressed
from safetensors.torch import save_file

from cellfeat import CellfeatError, Context, find_weights, synthetic_smears
from cellfeat.testing import check_segmenter, toy_images

pytestmark = pytest.mark.usefixtures("one_thread")
RECALL, PRECISION = 0.9, 0.75  # floors below what was measured when the head was shipped
MARK = (255, 0, 0)  # colour of the pixel that `Marked` takes for a cell's middle


class Marked(torch.nn.Module):
    """A head that finds exactly the pixels of one colour, as cells of the usual size."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # says which device the head is on

    def forward(self, tokens: torch.Tensor, images: torch.Tensor) -> Told:
        seen = (images == torch.tensor(MARK, dtype=torch.uint8).view(3, 1, 1)).all(dim=1).float()
        heat = torch.nn.functional.max_pool2d(seen[:, None], 4)[:, 0]
        nothing = torch.zeros(len(heat), 2, *heat.shape[1:])
        return Told(torch.where(heat > 0, 4.0, -9.0), nothing, nothing)


def found(image: np.ndarray) -> np.ndarray:
    """Boxes (K, 4) that `Marked` finds."""
    boxes, _ = find_cells(image, lambda tiles: torch.zeros(len(tiles), 1), Marked(), 0.5)
    return boxes


def test_every_cell_is_found_once_wherever_it_lies_also_where_tiles_meet():
    height, width = 300, 420
    for offset in range(0, 60, 7):
        image = np.full((3, height, width), 200, np.uint8)
        x, y = np.meshgrid(np.arange(20 + offset, width - 20, 61), np.arange(20 + offset // 2, height - 20, 61))
        image[:, y.ravel(), x.ravel()] = np.array(MARK, np.uint8)[:, None]
        boxes = found(image)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert len(middles) == x.size
        away = np.hypot(middles[:, None, 0] - x.ravel(), middles[:, None, 1] - y.ravel())
        assert away.min(axis=0).max() <= 3


def test_a_photograph_smaller_than_a_tile_is_mirrored_and_mirror_images_are_no_cells():
    image = np.full((3, 60, 90), 200, np.uint8)
    image[:, 8, 12] = MARK
    boxes = found(image)
    assert len(boxes) == 1
    assert boxes[0] == pytest.approx([0, 0, 32, 28], abs=3)  # cut by the photograph's border
    whole, before = padded(image)
    assert whole.shape == (3, TILE, TILE)
    assert before == (82, 67)
    assert np.array_equal(whole[:, 82:142, 67:157], image)
    assert np.array_equal(whole[:, 81, 67:157], image[:, 0])


@pytest.mark.parametrize("length", [224, 225, 384, 385, 800, 3001])
def test_tiles_cover_a_side_and_overlap_enough(length):
    begins = starts(length)
    assert begins[0] == 0
    assert begins[-1] == length - TILE
    assert all(later - earlier <= TILE - OVERLAP for earlier, later in pairwise(begins))
    assert len(begins) <= -(-length // (TILE - OVERLAP))


def test_boxes_of_one_cell_become_one_and_touching_cells_stay_two():
    boxes = np.array([[0, 0, 40, 40], [4, 2, 44, 42], [34, 0, 74, 40], [10, 10, 30, 30], [200, 0, 240, 40.0]])
    assert suppressed(boxes, np.array([0.5, 0.9, 0.8, 0.95, 0.1])).tolist() == [3, 2, 4]
    assert suppressed(boxes, np.array([0.5, 0.9, 0.8, 0.2, 0.1])).tolist() == [1, 2, 4]
    assert suppressed(np.zeros((0, 4)), np.zeros(0)).tolist() == []


def test_what_the_targets_say_is_read_back_as_the_boxes():
    boxes = torch.tensor([[[10.0, 20, 50, 70], [60, 20, 90, 44], [150, 180, 224, 224]], [[float("nan")] * 4] * 3])
    wanted, certain = targets(boxes, TILE // 4)
    assert (wanted.heat == 1).sum().item() == 3
    assert not certain[1].any()
    one, none = peaks(wanted._replace(heat=torch.logit(wanted.heat, 1e-4)), 0.9)
    assert len(none.boxes) == 0
    assert sorted(one.boxes.tolist()) == [pytest.approx(box, abs=1e-2) for box in sorted(boxes[0].tolist())]
    assert len(peaks(wanted._replace(heat=torch.full_like(wanted.heat, -2.0)), 0.5)[0].boxes) == 0


def test_the_loss_is_least_for_the_truth_and_blind_where_nothing_is_known():
    boxes = torch.tensor([[[10.0, 20, 50, 70], [float("nan")] * 4]])
    wanted, _ = targets(boxes, TILE // 4)
    everywhere = torch.ones(1, TILE // 4, TILE // 4, dtype=torch.bool)
    right = wanted._replace(heat=torch.logit(wanted.heat, 1e-6))
    assert sum(detection_loss(right, boxes, everywhere).values()) < 0.5
    wrong = right._replace(heat=right.heat.clone())
    wrong.heat[0, 40, 40] = 9.0
    assert detection_loss(wrong, boxes, everywhere)["heat"] > detection_loss(right, boxes, everywhere)["heat"] + 5
    elsewhere = everywhere.clone()
    elsewhere[0, 40, 40] = False
    assert detection_loss(wrong, boxes, elsewhere)["heat"] == pytest.approx(
        detection_loss(right, boxes, elsewhere)["heat"].item()
    )
    shifted = detection_loss(right._replace(size=right.size + 0.5, shift=right.shift - 1), boxes, everywhere)
    assert (shifted["size"].item(), shifted["shift"].item()) == pytest.approx((1.0, 0.6), abs=1e-3)


def test_the_head_tells_five_numbers_at_every_fourth_pixel_and_starts_without_cells():
    torch.manual_seed(0)
    head = DetectorHead(tokens=8, width=4)
    told = head(torch.randn(2, 8, 4, 6), torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    assert [tuple(part.shape) for part in told] == [(2, 16, 24), (2, 2, 16, 24), (2, 2, 16, 24)]
    assert told.heat.sigmoid().max() < 0.1


def test_cells_are_matched_one_to_one_and_thresholds_weighed():
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    assert matched(np.array([[0, 0, 10, 11], [1, 0, 10, 10], [50, 0, 60, 10.0]]), truth) == 1
    assert matched(np.zeros((0, 4)), truth) == 0
    one = Scored(np.array([[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10.0]]), np.array([0.9, 0.5, 0.3]), truth)
    assert counted([one], 0.2) == Counted(2, 2, 1)
    assert counted([one], 0.6) == Counted(2, 1, 0)
    assert counted([one], 0.2).precision == pytest.approx(2 / 3)
    assert 0.3 < best_threshold([one]) <= 0.5


@pytest.fixture(scope="module")
def detector() -> CellDetector:
    return CellDetector()


def test_the_shipped_head_has_its_digest_and_says_what_it_saw(detector, context: Context):
    named = CellDetector.named_weights["cell-detector"]
    path = find_weights("cell-detector", CellDetector.named_weights, offline=True)
    assert path.stat().st_size == pytest.approx(named.size_mb * 1e6, rel=0.1)
    assert path.stat().st_size < 2e6
    assert detector.weights_saw == named.saw
    facts = CellDetector.facts("cell-detector-v1", context=context)
    assert (facts.weights_sha256, facts.weights_saw) == (detector.weights_sha256, detector.weights_saw)
    assert detector.cell_diameter == CELL_DIAMETER


def test_the_shipped_head_finds_the_cells_of_fresh_drawn_smears(detector):
    def find(image):
        boxes = detector.detect(torch.from_numpy(image.copy()))
        return boxes.numpy(), np.ones(len(boxes))

    every = counted(scored(find, 31, 12, 5), 0.5)
    assert every.cells > 60
    assert every.recall > RECALL
    assert every.precision > PRECISION


def test_touching_cells_of_a_crowd_are_told_apart_and_of_an_empty_field_a_few_platelets_are_taken_at_most(detector):
    rng = np.random.default_rng(4)
    smear = synthetic_smears.draw_smear("lab-a", rng, (448, 336), 24, CELL_DIAMETER, touching=0.9)
    assert smear.touching.sum() >= 16
    boxes = detector.detect(torch.from_numpy(smear.image.transpose(2, 0, 1).copy())).numpy()
    assert matched(boxes, smear.boxes[smear.touching]) >= 0.8 * smear.touching.sum()
    empty = synthetic_smears.draw_smear("lab-b", rng, (448, 336), 0, CELL_DIAMETER)
    image = torch.from_numpy(empty.image.transpose(2, 0, 1).copy())
    platelets = detector.detect(image)
    assert len(platelets) <= 4
    assert ((platelets[:, 2:] - platelets[:, :2]) < 0.65 * CELL_DIAMETER).all()


def test_a_threshold_of_ones_own(detector):
    image = torch.from_numpy(next(iter(photographs(8, 1, 6)))[0].copy())
    usual = detector.detect(image)
    assert usual.dtype == torch.float32
    assert len(CellDetector(threshold=0.02).detect(image)) > len(usual) > 0
    assert len(CellDetector(threshold=1.0).detect(image)) == 0


def test_building_a_head_leaves_torchs_random_numbers_alone():
    state = DetectorHead(8, 4).state_dict()
    before = torch.get_rng_state()
    head = build_head(HeadFile(state, {"widths": [8, 4]}))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())


def test_masks_and_tokens_are_those_of_cell_tiny(detector):
    sam, images = LoraSam(), toy_images(2, 224)
    assert torch.equal(detector.segment(images), sam.segment(images))
    assert torch.equal(detector.nuclei(images), sam.nuclei(images))
    torch.testing.assert_close(sam.tokens(images), sam.encode(images).embedding)


def test_contracts(detector):
    check_segmenter(lambda: detector)


def test_mistakes(detector, tmp_path):
    with pytest.raises(CellfeatError, match=r"threshold is 1.5; possible are numbers from 0 to 1"):
        CellDetector(threshold=1.5)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CellfeatError, match=r"other.safetensors is no detector's head; a file made by"):
        CellDetector(str(tmp_path / "other.safetensors"))
    about = {"widths": [192, 4], "threshold": 0.3, "encoder": "cell-tiny-v1", "encoder_sha256": "ab", "saw": []}
    (tmp_path / "own.safetensors").write_bytes(head_bytes(DetectorHead(192, 4), about))
    with pytest.raises(CellfeatError, match=r"was trained with other weights of cell-tiny-v1 \(sha256 ab\) than are"):
        CellDetector(str(tmp_path / "own.safetensors"))
    with pytest.raises(CellfeatError, match=r"an image of shape \(3, 4\) and torch.uint8 was given; detect takes"):
        detector.detect(torch.zeros(3, 4, dtype=torch.uint8))
