"""Photographs brought to a detector's scale, its boxes brought back, clipped, sorted; and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from cellfeat import CellfeatError, hookimpl
from cellfeat.detecting import detected, detectors, in_reading_order
from cellfeat.registry import Registry

WHITE = np.array([[40, 20, 80, 60], [120, 24, 160, 66], [30, 110, 78, 150]])


def photograph(width: int = 200, height: int = 160) -> np.ndarray:
    """Black with white rectangles at WHITE."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in WHITE:
        image[y1:y2, x1:x2] = 255
    return image


class Bright:
    """Finds what is white, and says how large the picture was that it saw."""

    def __init__(self, cell_diameter: float | None = None) -> None:
        if cell_diameter is not None:
            self.cell_diameter = cell_diameter
        self.seen: list[tuple[int, ...]] = []

    def segment(self, images):
        return images[:, 0] > 127

    def detect(self, image):
        self.seen.append(tuple(image.shape))
        assert image.dtype == torch.uint8
        found = cv2.connectedComponentsWithStats((image[0].numpy() > 127).astype(np.uint8))[2][1:]
        boxes = np.column_stack([found[:, :2], found[:, :2] + found[:, 2:4]]).astype(np.float32)
        return torch.from_numpy(boxes[::-1].copy())


class Answering:
    def __init__(self, answer):
        self.answer = answer

    def detect(self, image):
        return self.answer


def test_a_photograph_is_shown_as_it_is_to_a_segmenter_without_a_scale():
    bright = Bright()
    boxes = detected(bright, "bright", photograph())
    assert (boxes.dtype, boxes.tolist()) == (np.float32, WHITE.tolist())
    assert bright.seen == [(3, 160, 200)]
    assert detected(bright, "bright", photograph(), 40.0).tolist() == WHITE.tolist()


@pytest.mark.parametrize(("works_at", "diameter", "seen"), [(20.0, 40.0, (3, 80, 100)), (100.0, 40.0, (3, 400, 500))])
def test_a_photograph_is_brought_to_the_scale_and_the_boxes_brought_back(works_at, diameter, seen):
    bright = Bright(works_at)
    boxes = detected(bright, "bright", photograph(), diameter)
    assert bright.seen == [seen]
    assert np.abs(boxes - WHITE).max() <= diameter / works_at, "a pixel of what it saw"


def test_width_and_height_are_brought_back_each_by_its_own_factor():
    whole = np.array([[0, 0, 67, 53]])  # all of what it is shown: 200 / 3 and 160 / 3, rounded
    segmenter = Answering(whole)
    segmenter.cell_diameter = 20.0
    assert detected(segmenter, "whole", photograph(), 60.0).tolist() == [[0, 0, 200, 160]]


def test_boxes_are_clipped_and_what_is_then_empty_is_left_out():
    answer = [[-5, -4, 20, 30], [190, 150, 230, 190], [210, 10, 240, 30], [50, 50, 50, 60], [60, 70, 55, 90]]
    boxes = detected(Answering(answer), "wide", photograph())
    assert boxes.tolist() == [[0, 0, 20, 30], [190, 150, 200, 160]]
    assert detected(Answering(np.zeros((0, 4))), "none", photograph()).shape == (0, 4)


def test_boxes_are_in_reading_order_however_they_came():
    rows = [[10, 12, 50, 52], [100, 5, 140, 45], [200, 18, 240, 58], [5, 80, 45, 120], [90, 70, 130, 110]]
    wanted = np.array(rows, np.float32)
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert np.array_equal(in_reading_order(rng.permutation(wanted)), wanted)


def test_a_segmenter_without_detect_is_refused_and_those_that_have_it_are_named():
    with pytest.raises(
        CellfeatError, match=r"^the segmenter 'none' finds no cells .* no `detect`\); those installed that do: "
    ) as error:
        detected(SimpleNamespace(segment=None), "none", photograph())
    assert ", ".join(detectors()) in str(error.value)


def test_those_that_detect_are_known_without_being_built():
    class Costly(Bright):
        def __init__(self):
            raise AssertionError("it was built")

    def make():
        return Bright()

    def says():
        return Bright()

    class Bare:
        pass

    says.detects = True
    offers = {"bright": Costly, "plain": Answering, "made": make, "said": says, "bare": Bare}
    registry = Registry()
    registry.add("one", "one", "1", lambda: SimpleNamespace(cellfeat_segmenter=hookimpl(lambda: offers)))
    assert detectors(registry) == ["bright", "plain", "said"]


@pytest.mark.parametrize(
    ("works_at", "diameter", "size", "words"),
    [
        (20.0, None, (200, 160), r"'bright' works where a typical white cell is 20 px wide, so it must be told"),
        (20.0, 3.0, (200, 160), r"^a typical white cell 3 px wide cannot be; possible are 4 px and more"),
        (20.0, float("nan"), (200, 160), r"^a typical white cell nan px wide cannot be"),
        (20.0, float("inf"), (200, 160), r"^a typical white cell inf px wide cannot be"),
        (90.0, 10.0, (200, 160), r"10 px wide is too small for the segmenter 'bright', .* enlarged 8 times at most"),
        (80.0, 10.0, (1000, 800), r"1000 x 800 px would have 51 million px at the scale of 'bright', 8 times its own"),
        (None, None, (8000, 7000), r"8000 x 7000 px would have 56 million px; possible are 50 million. Cut it"),
    ],
)
def test_absurd_scales_and_sizes_are_refused(works_at, diameter, size, words):
    image = np.broadcast_to(np.zeros(3, np.uint8), (size[1], size[0], 3))  # no memory is taken
    with pytest.raises(CellfeatError, match=words):
        detected(Bright(works_at), "bright", image, diameter)


@pytest.mark.parametrize(
    ("answer", "what"),
    [(np.zeros((3, 5)), r"of the shape \(3, 5\)"), (np.full((1, 4), np.nan), "that are no finite numbers")],
)
def test_an_answer_that_is_no_boxes_names_the_segmenter(answer, what):
    with pytest.raises(CellfeatError, match=rf"^the segmenter 'odd' gave boxes {what}, must be .* plugins check odd`$"):
        detected(Answering(answer), "odd", photograph())
