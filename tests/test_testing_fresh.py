"""Asking a plugin in a fresh interpreter: what comes back, and what is said where nothing can."""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import numpy as np
import pytest

from cellfeat.registry import installed
from cellfeat.testing.checks import Failed, Skipped
from cellfeat.testing.fresh import in_fresh_process


class Offset:
    """What the tasks build."""

    def __init__(self, by: float = 1.0) -> None:
        self.by = by


def added(factory, params, folder, arrays):
    """The array plus what the factory's product says, and the saved one."""
    return {"sum": arrays["values"] + factory(**params).by + np.load(folder / "saved.npy")}


def surroundings(factory, params, folder, arrays):
    loaded = "cellfeat.testing.align" in sys.modules
    return {"names": arrays["names"], "hash": hash("a string"), "pid": os.getpid(), "loaded": loaded}


def built(factory, params, folder, arrays):
    return {"bins": factory(**params).bins}


def fails(factory, params, folder, arrays):
    raise {"failed": Failed("it answers\nanother"), "skipped": Skipped("nothing to see"), "error": ValueError("bad")}[
        params["how"]
    ]


def dies(factory, params, folder, arrays):
    os.write(2, b"Fatal: out of luck\n")
    os._exit(7)


def sleeps(factory, params, folder, arrays):
    time.sleep(60)


def asked(task, folder, factory=Offset, params=None, arrays=None, **options):
    return in_fresh_process(task, factory, params or {}, folder, arrays or {}, slot="align", **options)


def test_arrays_go_there_and_come_back(tmp_path):
    np.save(tmp_path / "saved.npy", np.float32(0.5))
    answer = asked(added, tmp_path, partial(Offset, by=2.0), arrays={"values": np.arange(3.0)})
    np.testing.assert_array_equal(answer["sum"], [2.5, 3.5, 4.5])
    assert [path.name for path in tmp_path.iterdir()] == ["saved.npy"], "its own files stay behind"


def test_it_is_another_process_with_other_hashes(tmp_path):
    answer = asked(surroundings, tmp_path, arrays={"names": np.array(["here", "there"])})
    assert answer["names"].tolist() == ["here", "there"]
    assert int(answer["pid"]) != os.getpid()
    assert int(answer["hash"]) != hash("a string")
    assert not answer["loaded"]


def test_a_factory_without_an_importable_name_is_found_among_the_plugins(tmp_path, monkeypatch):
    offer = installed().find("backbone", "colour")
    monkeypatch.setattr(f"{offer.factory.__module__}.{offer.factory.__qualname__}", None)  # pickle cannot find it now
    answer = in_fresh_process(built, offer.factory, {"bins": 5}, tmp_path, {}, slot="backbone")
    assert answer["bins"] == 5


def test_a_factory_that_no_other_process_can_find_is_skipped(tmp_path):
    class Local(Offset):
        pass

    with pytest.raises(Skipped, match=r"another process cannot import the factory: .*Define it at a module's level"):
        asked(added, tmp_path, Local)


def test_a_factory_that_the_other_process_does_not_find_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "only_here", sys.modules[__name__])
    monkeypatch.setattr(Offset, "__module__", "only_here")
    with pytest.raises(Skipped, match="another process cannot import the factory: No module named 'only_here'"):
        asked(added, tmp_path)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("failed", Failed, r"^in a fresh process: it answers\nanother$"),
        ("skipped", Skipped, r"^nothing to see$"),
        ("error", Failed, r"^in a fresh process: ValueError: bad \(test_testing_fresh.py, line \d+\)$"),
    ],
)
def test_what_goes_wrong_there_is_told_here(how, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        asked(fails, tmp_path, params={"how": how})


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path):
    with pytest.raises(Failed, match=r"^the fresh process ended with status 7: Fatal: out of luck$"):
        asked(dies, tmp_path)


def test_a_process_that_does_not_end_is_ended(tmp_path):
    with pytest.raises(Failed, match=r"^in a fresh process it did not end within 2 s$"):
        asked(sleeps, tmp_path, seconds=2)
