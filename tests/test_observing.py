"""Looking at a run, which costs no result: neither a random number, nor a thread, nor a run folder."""

from __future__ import annotations

import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Identity, with_plugins
from observing import few_cells
from reporting import small_run

from cellfeat import observation_files, thumbnails
from cellfeat.decode import ImageError
from cellfeat.observation_files import FOLDER
from cellfeat.undisturbed import undisturbed
from cellfeat.without_folders import without_folders


@pytest.fixture(autouse=True)
def shared_cache(suite_cache, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(suite_cache))


@pytest.fixture
def few(laboratories, tmp_path):
    return few_cells(laboratories, tmp_path / "few.csv")


class Careless(Identity):
    """Fits with the process's own random numbers, and takes some more, and threads, when it is looked at."""

    def fit(self, cells, context):
        self.noise = torch.rand(cells.pooled.shape[1]).numpy() + torch.get_num_threads()
        return self

    def transform(self, cells, context):
        return cells.pooled + np.float32(self.noise)

    def save(self, folder):
        np.save(folder / "noise.npy", self.noise)

    @classmethod
    def load(cls, folder):
        made = cls()
        made.noise = np.load(folder / "noise.npy")
        return made

    def reconstruct(self, cells, context):
        torch.rand(5)
        np.random.rand(3)  # noqa: NPY002
        torch.set_num_threads(torch.get_num_threads() + 1)
        return np.zeros((len(cells), 3, 8, 8), np.uint8)


def test_results_are_the_same_whether_pictures_are_kept_or_not(few, tmp_path):
    found, states = [], []
    for pictures in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            threads, name = torch.get_num_threads(), f"run-{pictures}"
            folder = small_run(few, tmp_path / name, "careless", with_plugins(careless=Careless), pictures=pictures)
            found.append([pq.read_table(folder / "predictions.parquet"), *map(np.load, folder.rglob("noise.npy"))])
            states.append((torch.rand(3).tolist(), torch.get_num_threads() == threads))
    assert found[0][0].equals(found[1][0])
    assert states[0] == states[1]
    assert states[0][1]
    assert observation_files.read(tmp_path / "run-True").summary["depicted"]


def numbers():
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def test_looking_puts_back_what_it_found():
    with undisturbed(1):
        expected = [numbers() for _ in range(3)]
    with undisturbed(1):
        found = [numbers()]
        with undisturbed(7):
            inside = numbers()
        found.append(numbers())
        with pytest.raises(KeyError), undisturbed(7):
            {}[numbers()]
        found.append(numbers())
    assert found == expected
    assert inside not in expected


def test_a_full_disk_costs_the_pictures_and_no_result(few, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(thumbnails, "write", full)
    folder = small_run(few, tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("pipelines", "predictions.parquet", "recipe.yaml", "records.jsonl", "skipped.csv")
    ]
    assert not (folder / FOLDER).exists()


class Secretive(Identity):
    def reconstruct(self, cells, context):
        raise OSError(2, "No such file", str(context.scratch / "ink"))


def test_what_is_left_names_no_folder_and_says_what_is_not_shown(few, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.observations.SHOWN", 3)
    folder = small_run(few, tmp_path / "run", "secretive", with_plugins(secretive=Secretive))
    summary = observation_files.read(folder).summary
    assert set(summary["missing"].values()) == {"[Errno 2] No such file: 'ink'"}
    assert len({domain for _, domain, _ in summary["shown"]}) == 2
    ((domain, left_out),) = summary["examples_left_out"].items()
    assert {(domain, *left_out)} | {one[1:] for one in map(tuple, summary["shown"])} == {
        (lab, name) for lab in ("lab-a", "lab-b") for name in ("basophil", "monocyte")
    }


class Draws(Identity):
    def reconstruct(self, cells, context):
        return np.zeros((len(cells), 3, 8, 8), np.uint8)


def test_sources_beyond_the_bound_are_told(few, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.observations.DEPICTED_SOURCES", 1)
    folder = small_run(few, tmp_path / "run", "draws", with_plugins(draws=Draws))
    summary = observation_files.read(folder).summary
    assert list(summary["depicted"]) == ["lab-a"]
    assert summary["depicted_left_out"] == ["lab-b"]


class WithoutBackbone(Identity):
    reads = ("image",)

    def transform(self, cells, context):
        return cells.image.mean((2, 3)).astype(np.float32)


def test_masks_that_are_empty_or_gone_are_counted(laboratories, tmp_path, monkeypatch):
    def read(path):
        if "basophil" in str(path):
            raise ImageError(f"{path}: no such file")
        return np.zeros((8, 8), bool)

    monkeypatch.setattr("cellfeat.observations.read_mask", read)
    few = few_cells(laboratories, tmp_path / "few.csv")
    folder = small_run(few, tmp_path / "run", "whole", with_plugins(whole=WithoutBackbone))
    found = observation_files.read(folder)
    assert found.summary["empty_masks"] == {"lab-a": 3, "lab-b": 3}
    assert found.summary["missing"]["masks of some cells"] == "6 masks cannot be read any more"
    assert found.summary["missing"]["grey levels of some cells"] == "20 masks cannot be read any more"
    assert found.summary["grey_levels"]["frame"]["lab-a"]["images"] == 20
    assert {kind for _, kind, _ in found.pictures} == {"original"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/me/x.png: no such file", "x.png: no such file"),
        ("open('/home/my own/x y.png') failed", "open('x y.png') failed"),
        ("/my own/cells/a.png: cut", "a.png: cut"),
        ("s3://bucket/key/a.png and ~/b/c.png, D:\\data\\e.png", "a.png and c.png, e.png"),
        ("uint8 array of (12, 3, s, s), n/a, 1/2", "uint8 array of (12, 3, s, s), n/a, 1/2"),
    ],
)
def test_paths_lose_their_folders(text, said):
    assert without_folders(text, ["/my own/cells/a.png"]) == said
