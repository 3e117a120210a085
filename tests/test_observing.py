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
from cellfeat.observation_files import FOLDER
from cellfeat.undisturbed import undisturbed


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
