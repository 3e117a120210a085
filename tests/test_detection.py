"""Detected boxes against known cells: matched one to one, and counted by size and crowding."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cellfeat import detection
from cellfeat.detection import Known, compare, overlaps, record, summary
from cellfeat.predicted import wilson


def square(x: float, y: float, side: float = 10.0) -> list[float]:
    return [x, y, x + side, y + side]


def known(*boxes: list[float], touching: tuple[int, ...] = (), cut: tuple[int, ...] = ()) -> Known:
    flags = [np.isin(np.arange(len(boxes)), some) for some in (touching, cut)]
    return Known(np.array(boxes, float).reshape(-1, 4), *flags)


def test_intersection_over_union_of_boxes():
    found = overlaps(np.array([square(0, 0), [0, 0, 0, 0]]), np.array([square(0, 0), square(5, 0), square(10, 0)]))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0], [0, 0, 0]])
    assert overlaps(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@pytest.mark.parametrize(
    ("box", "is_it"),
    [
        (square(5, 0), True),  # IoU 1/3, its centre on the edge
        (square(6, 0), False),  # IoU 0.25, its centre outside
        ([3, 3, 7.5, 7.5], True),  # a nucleus: IoU 0.2, in the cell
        ([3, 3, 6, 6], False),  # a granule: IoU 0.09
        ([-20, -20, 30, 30], False),  # a whole field: IoU 0.04, though its centre lies in the cell
    ],
)
def test_a_box_is_of_a_cell_by_overlap_or_by_its_middle(box, is_it):
    one = compare(np.array([box]), np.array([square(0, 0)]))
    assert (one.found.tolist(), one.wrong.tolist()) == (([0], [False]) if is_it else ([-1], [True]))


def test_one_box_is_for_one_cell():
    pair = np.array([square(0, 0), square(10, 0)])
    one = compare(np.array([[0, 0, 20, 10]]), pair)
    assert sorted(one.found.tolist()) == [-1, 0]
    assert not one.wrong.any()
    twice = compare(np.array([square(0, 0), square(1, 0), square(50, 50)]), pair[:1])
    assert twice.found.tolist() == [0]
    assert twice.wrong.tolist() == [False, True, True]
    assert twice.doubled.tolist() == [False, True, False]


def test_as_many_cells_as_can_be_have_a_box():
    # the first box fits the first cell best, but it alone can be the second's
    cells = np.array([square(0, 0), square(5, 0)])
    boxes = np.array([square(1, 0), [-4, 0, 6, 10]])
    one = compare(boxes, cells)
    assert one.found.tolist() == [1, 0]
    np.testing.assert_allclose(one.overlap, [overlaps(boxes, cells)[1, 0], overlaps(boxes, cells)[0, 1]])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_boxes_decides_nothing(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (12, 2))
    boxes, cells = (np.hstack([at, at + 12]) for at in (corners + rng.normal(0, 3, (12, 2)), corners[:9]))
    order = rng.permutation(12)
    one, other = compare(boxes, cells), compare(boxes[order], cells)
    np.testing.assert_array_equal(one.overlap, other.overlap)
    np.testing.assert_array_equal(one.wrong[order], other.wrong)


def test_the_summary_counts_by_size_and_crowding():
    first = known(square(0, 0), square(30, 0, 5), square(60, 0, 20), square(80, 0), touching=(2, 3), cut=(0,))
    second = known(square(0, 0), square(40, 40))
    boxes = [np.array([square(0, 0), square(30, 0, 5), square(80, 0), square(200, 0)]), np.array([square(40, 40)] * 2)]
    found = summary(boxes, [first, second])
    assert (found["photographs"], found["cells"], found["found"], found["wrong"], found["doubled"]) == (2, 6, 4, 2, 1)
    assert found["recall"] == {
        "count": 4,
        "of": 6,
        "share": 4 / 6,
        **dict(zip(("low", "high"), wilson(4, 6), strict=True)),
    }
    assert (found["precision"]["count"], found["precision"]["of"]) == (4, 6)
    assert found["count_error"] == {"mean": 0.0, "mean_absolute": 0.0, "worst": 0.0}
    assert found["median_iou"] == 1.0
    assert found["typical_side"] == 10.0
    by_size = {name: (one["count"], one["of"]) for name, one in found["by_size"].items()}
    assert by_size == {"small": (1, 1), "usual": (2, 3), "large": (0, 1)}
    by_crowding = {name: (one["count"], one["of"]) for name, one in found["by_crowding"].items()}
    assert by_crowding == {"alone": (2, 3), "touching": (1, 2), "cut": (1, 1)}
    assert record(found, "two fields") == (6, 4, 2, "two fields")
    json.dumps(found, allow_nan=False)


def test_counts_are_compared_in_each_photograph():
    cells = known(square(0, 0), square(40, 0))
    found = summary([np.array([square(0, 0)]), np.array([square(0, 0), square(40, 0), square(80, 0)])], [cells] * 2)
    assert found["count_error"] == {"mean": 0.0, "mean_absolute": 0.5, "worst": -0.5}


def test_shares_of_nothing_are_none():
    found = summary([np.zeros((0, 4))], [known()])
    assert found["recall"]["share"] is found["precision"]["low"] is found["median_iou"] is None
    assert found["count_error"]["mean"] is found["typical_side"] is None
    missed = summary([np.zeros((0, 4))], [known(square(0, 0), cut=(0,))])
    assert (missed["recall"]["share"], missed["precision"]["share"]) == (0.0, None)
    assert missed["count_error"]["mean"] == -1.0
    json.dumps([found, missed], allow_nan=False)


def test_every_photograph_needs_its_cells():
    with pytest.raises(ValueError, match="zip"):
        summary([np.zeros((0, 4))], [])


def test_the_module_is_public():
    import cellfeat

    assert cellfeat.detection is detection


def test_the_documented_example_runs(capsys):
    page = (Path(__file__).resolve().parent.parent / "docs" / "detection.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    recall, low, error = map(float, capsys.readouterr().out.split())
    assert recall == 0.75
    assert low == pytest.approx(wilson(6, 8)[0])
    assert error == -0.25
