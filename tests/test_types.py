"""`Cells`: read-only, copied on every change, read on demand, batched in a background thread."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time

import numpy as np
import pytest
import torch

from cellfeat.errors import CellfeatError
from cellfeat.types import ArrayColumn, Cells, MissingColumnError

ROWS = ("id", "domain", "label", "group", "is_target")


@pytest.fixture
def cells():
    return Cells.from_arrays(
        [0, 1, 2, 0, 1],
        domain=["a", "a", "b", "b", "b"],
        pooled=np.arange(10, dtype=np.float32).reshape(5, 2),
        mask=np.eye(5, dtype=bool)[:, :, None].repeat(3, axis=2),
    )


class Spy:
    """A column that counts what is read of it and can be slow or broken."""

    shape, dtype = (20, 2), np.dtype(np.float32)

    def __init__(self, fail_at: int | None = None, seconds: float = 0.0) -> None:
        self.reads: list[np.ndarray] = []
        self.threads: set[threading.Thread] = set()
        self.fail_at, self.seconds = fail_at, seconds

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread())
        if len(self.reads) == self.fail_at:
            raise OSError("the disk is gone")
        self.reads.append(np.array(rows))
        time.sleep(self.seconds)
        return np.stack([rows, rows], axis=1).astype(np.float32)


def spied(**how) -> tuple[Cells, Spy]:
    spy = Spy(**how)
    return Cells.from_arrays(np.zeros(20)).with_column("pooled", spy), spy


def test_what_is_not_given_is_filled():
    cells = Cells.from_arrays([3, 4])
    assert cells.id.tolist() == ["00000000", "00000001"]
    assert cells.group.tolist() == cells.id.tolist()
    assert cells.domain.tolist() == ["domain", "domain"]
    assert not cells.is_target.any()
    assert cells.label.dtype == np.int64
    assert len(cells) == 2


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"differ in length: .*'pooled': 3"):
        Cells.from_arrays([0, 1], pooled=np.zeros((3, 4)))


@pytest.mark.parametrize("name", ROWS)
def test_row_arrays_are_copied_from_the_caller_and_read_only(name, cells):
    source = np.array(getattr(cells, name))
    arrays = {other: getattr(cells, other) for other in ROWS} | {name: source}
    made = Cells(**arrays)
    expected = source.copy()
    source[:] = source[::-1].copy()
    np.testing.assert_array_equal(getattr(made, name), expected)
    with pytest.raises(ValueError, match="read-only"):
        getattr(made, name)[0] = getattr(made, name)[1]


def test_attributes_cannot_be_set(cells):
    with pytest.raises(AttributeError):
        cells.label = np.zeros(5)


def test_a_read_is_fresh_and_may_be_changed(cells):
    cells.pooled[:] = -1
    cells.read("pooled", [0, 1])[:] = -1
    cells.read("pooled", 2)[:] = -1
    cells[1:3].pooled[:] = -1
    np.testing.assert_array_equal(cells.pooled, np.arange(10).reshape(5, 2))


def test_arrays_given_to_a_column_are_copied():
    values = np.ones((2, 3), np.float32)
    made = Cells.from_arrays([0, 0], pooled=values)
    added = made.with_column("more", values)
    values[:] = 9
    assert made.pooled.max() == 1
    assert added.more.max() == 1


def test_the_lazy_column_itself_is_read_only(cells):
    with pytest.raises(ValueError, match="read-only"):
        cells.column("pooled").array[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        cells[[1, 2]].column("pooled").rows[0] = 4


def test_the_mapping_of_columns_cannot_be_changed_nor_does_it_follow_the_callers():
    given = {"pooled": ArrayColumn(np.zeros((1, 2)))}
    cells = Cells(["x"], ["d"], [0], ["g"], [False], given)
    given["later"] = given["pooled"]
    assert set(cells.columns) == {"pooled"}
    with pytest.raises(TypeError):
        cells.columns["more"] = given["pooled"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cells: pickle.loads(pickle.dumps(cells))])
def test_copies_and_pickles_are_equal_and_read_only(copied, cells):
    other = copied(cells)
    for name in (*ROWS, "pooled", "mask"):
        np.testing.assert_array_equal(getattr(other, name), getattr(cells, name))
    with pytest.raises(ValueError, match="read-only"):
        other.label[0] = 1


def test_cells_can_be_compared_and_kept_in_sets(cells):
    assert cells == cells
    assert cells != cells[:]
    assert len({cells, cells[:]}) == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(1, 3), [1, 2]),
        ([4, 0, 4], [4, 0, 4]),
        (np.array([True, False, False, False, True]), [0, 4]),
        (-1, [4]),
        ([], []),
    ],
)
def test_rows_are_chosen_by_index_slice_or_mask(rows, expected, cells):
    some = cells[rows]
    for name in (*ROWS, "pooled", "mask"):
        np.testing.assert_array_equal(getattr(some, name), getattr(cells, name)[expected])
    np.testing.assert_array_equal(cells.read("pooled", rows), cells.pooled[expected])
    assert some.column("mask").shape == (len(expected), 5, 3)
    assert some.column("mask").dtype == bool


def test_a_choice_of_a_choice_reads_the_right_rows(cells):
    twice = cells[[4, 3, 2, 1]][[0, 2, 2]]
    np.testing.assert_array_equal(twice.pooled, cells.pooled[[4, 2, 2]])
    np.testing.assert_array_equal(twice.read("pooled", [1]), cells.pooled[[2]])


def test_looking_at_shape_or_choosing_rows_reads_nothing():
    cells, spy = spied()
    assert cells[3:6].column("pooled").shape == (3, 2)
    assert spy.reads == []
    np.testing.assert_array_equal(cells[3:6].pooled[:, 0], [3, 4, 5])
    np.testing.assert_array_equal(np.concatenate(spy.reads), [3, 4, 5])


def test_a_missing_column_names_what_there_is(cells):
    with pytest.raises(MissingColumnError) as error:
        _ = cells.maks
    assert str(error.value) == (
        "no column of these cells named 'maks'. Did you mean 'mask'? Available: mask, pooled. A method must name in "
        "`reads` what it reads"
    )
    assert isinstance(error.value, CellfeatError)
    assert not hasattr(cells, "image")


def test_labels_are_hidden_in_a_copy(cells):
    hidden = cells.hide_labels(cells.domain == "b")
    assert hidden.label.tolist() == [0, 1, -1, -1, -1]
    assert cells.hide_labels().label.tolist() == [-1] * 5
    assert cells.label.tolist() == [0, 1, 2, 0, 1]
    assert hidden.pooled.tolist() == cells.pooled.tolist()


def test_target_rows_are_marked_in_a_copy(cells):
    marked = cells.with_target([1, 3])
    assert marked.is_target.tolist() == [False, True, False, True, False]
    assert marked.with_target([0]).is_target.tolist() == [True, False, False, False, False]
    assert not cells.is_target.any()


def test_a_column_is_set_in_a_copy(cells):
    changed = cells.with_column("pooled", np.zeros((5, 1), np.float32))
    assert changed.pooled.shape == (5, 1)
    assert cells.pooled.shape == (5, 2)
    lazy = cells.with_column("crop", cells.column("mask"))
    np.testing.assert_array_equal(lazy.crop, cells.mask)
    with pytest.raises(ValueError, match="differ in length"):
        cells.with_column("pooled", np.zeros((4, 1)))


def test_batches_come_in_order_and_the_last_may_be_short(cells):
    batches = list(cells.batches(("pooled", "mask"), 2))
    assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2, 3], [4]]
    for rows, values in batches:
        assert values["pooled"].dtype == torch.float32
        assert values["mask"].dtype == torch.bool
        np.testing.assert_array_equal(values["pooled"].numpy(), cells.pooled[rows])
        np.testing.assert_array_equal(values["mask"].numpy(), cells.mask[rows])


def test_batches_of_a_choice_index_that_choice(cells):
    some = cells[[4, 2]]
    [(rows, values)] = some.batches(("pooled",), 8)
    assert rows.tolist() == [0, 1]
    np.testing.assert_array_equal(values["pooled"].numpy(), cells.pooled[[4, 2]])


def test_a_generator_shuffles_and_decides_the_order():
    cells, _ = spied()

    def order(generator):
        rows = [rows for rows, values in cells.batches(("pooled",), 3, generator) if values]
        return np.concatenate(rows).tolist()

    first = order(torch.Generator().manual_seed(1))
    assert sorted(first) == list(range(20))
    assert first != list(range(20))
    assert first == order(torch.Generator().manual_seed(1))
    assert first != order(torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    assert [order(generator), order(generator)][1] != first  # a second epoch has another order


def test_shuffled_rows_belong_to_their_values():
    cells, _ = spied()
    for rows, values in cells.batches(("pooled",), 4, torch.Generator().manual_seed(0)):
        np.testing.assert_array_equal(values["pooled"][:, 0].numpy(), rows)


def test_a_missing_column_is_an_error_before_any_batch(cells):
    with pytest.raises(MissingColumnError):
        cells.batches(("image",), 2)


def test_batches_are_read_ahead_in_another_thread_but_not_far():
    cells, spy = spied()
    batches = cells.batches(("pooled",), 2, prefetch=2)
    next(batches)
    deadline = time.monotonic() + 5
    while len(spy.reads) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 3 <= len(spy.reads) <= 4  # one handed out, two waiting, at most one in the reader's hand
    assert threading.main_thread() not in spy.threads
    assert len(list(batches)) == 9


def test_a_readers_error_reaches_the_consumer_after_the_good_batches():
    cells, spy = spied(fail_at=2)
    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(cells.batches(("pooled",), 5))
    assert len(got) == 2
    assert not any(thread.is_alive() for thread in spy.threads)


@pytest.mark.parametrize("how", ["close", "forget", "error"])
def test_the_thread_ends_when_the_consumer_stops_early(how):
    cells, spy = spied(seconds=0.001)
    batches = cells.batches(("pooled",), 1)
    next(batches)
    if how == "close":
        batches.close()
    elif how == "error":
        with pytest.raises(RuntimeError):
            batches.throw(RuntimeError("stop"))
    else:
        del batches
        gc.collect()
    assert spy.threads
    assert not any(thread.is_alive() for thread in spy.threads)
    assert len(spy.reads) < 20
