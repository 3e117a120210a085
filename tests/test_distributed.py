"""Several processes train as one does: how a batch is divided, and real trainings of two processes on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from distributed_worker import CASES
from helpers import narrow_autoencoders

from cellfeat import CellfeatError, cli, distributed, load_state, recipe
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.distributed import Part, divided
from cellfeat.registry import installed
from cellfeat.run import run
from cellfeat.training import choose_device
from cellfeat.workplace import Workplace

WORKER = Path(__file__).with_name("distributed_worker.py")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def process(monkeypatch):
    """Make this process one of several, as a launcher tells it."""

    def become(index: int, count: int) -> None:
        for name, value in {"WORLD_SIZE": count, "RANK": index, "LOCAL_RANK": index}.items():
            monkeypatch.setenv(name, str(value))

    return become


@pytest.fixture(scope="module")
def one_thread():
    """As many as the launched processes have: the same sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launched(*arguments: object, cwd: Path, cache: Path) -> subprocess.CompletedProcess:
    """Two processes of the command, of one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CELLFEAT_CACHE": str(cache)}
    command = [*LAUNCHER, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


# How a batch is divided -----------------------------------------------------------------------------------------------


def parts_of(process, count: int, processes: int, accumulate: int) -> list[list[Part]]:
    """The parts of every process."""
    found = []
    for index in range(processes):
        process(index, processes)
        found.append(divided(count, accumulate))
    return found


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_divided_batches_add_up_to_the_mean(process, count, processes, accumulate):
    parts = parts_of(process, count, processes, accumulate)
    assert all(len(own) == accumulate for own in parts)
    real = [part for own in parts for part in own if part.cells]
    assert sorted(np.concatenate([part.rows for part in real]).tolist()) == list(range(count))
    assert sum(part.cells for own in parts for part in own) == pytest.approx(processes * accumulate)
    values = np.random.default_rng(0).random(count)
    mean = np.mean([part.cells * values[part.rows].mean() for own in parts for part in own])
    assert mean == pytest.approx(values.mean())
    for own in parts:
        assert np.mean([part.whole for part in own]) == pytest.approx(1)


@pytest.mark.parametrize(("count", "processes", "accumulate"), [(1, 2, 1), (3, 4, 2), (2, 2, 3), (7, 2, 2)])
def test_processes_without_a_row_get_a_stand_in_that_counts_nothing(process, count, processes, accumulate):
    parts = parts_of(process, count, processes, accumulate)
    stand_ins = [part for own in parts for part in own if not part.cells]
    assert len(stand_ins) == processes * accumulate - sum(bool(part.cells) for own in parts for part in own)
    assert all(part.rows.tolist() == [0] for part in stand_ins)
    for number in range(accumulate):  # what is gathered has the same shape everywhere, and holds the largest share
        [most] = {own[number].most for own in parts}
        assert most == max(len(own[number].rows) for own in parts)


def test_shares_differ_by_one_row_at_most_and_the_first_process_has_the_most(process):
    shares = [len(own[0].rows) for own in parts_of(process, 11, 4, 1)]
    assert shares == [3, 3, 3, 2]


def test_parts_are_the_same_whatever_the_number_of_processes(process):
    """So that domains are compared among the same cells."""

    def rows(processes: int) -> list[list[int]]:
        parts = parts_of(process, 10, processes, 3)
        return [sorted(row for own in parts for row in own[number].rows.tolist()) for number in range(3)]

    assert rows(1) == rows(2) == rows(3) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


# One process among several --------------------------------------------------------------------------------------------


def test_alone_nothing_is_joined_and_nobody_waited_for(monkeypatch, process):
    monkeypatch.setattr(distributed, "_joined", lambda device: pytest.fail("accelerate was asked"))
    values = torch.rand(3, 2)
    for alone in (lambda: None, lambda: process(0, 1)):
        alone()
        assert (distributed.process_count(), distributed.process_index(), distributed.is_main()) == (1, 0, True)
        with distributed.main_first(torch.device("cpu")):
            distributed.meet(torch.device("cpu"))
        assert distributed.gather_rows(values) is values


def test_the_module_imports_nothing_heavy():
    code = "import cellfeat.distributed, sys; print({'torch', 'accelerate', 'numpy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() in ("set()", "{'numpy'}")


class Barrier:
    """accelerate's state of a process, which says when it waits."""

    def __init__(self, is_main: bool, events: list[str]) -> None:
        self.is_main_process, self.events = is_main, events

    def wait_for_everyone(self) -> None:
        self.events.append("waits")


@pytest.mark.parametrize(("index", "order"), [(0, ["works", "waits"]), (1, ["waits", "works"])])
def test_the_main_process_goes_first(monkeypatch, process, index, order):
    events: list[str] = []
    process(index, 2)
    monkeypatch.setattr(distributed, "_joined", lambda device: Barrier(index == 0, events))
    with distributed.main_first(torch.device("cpu")):
        events.append("works")
    assert events == order


def test_the_others_are_let_go_when_the_main_process_fails(monkeypatch, process):
    events: list[str] = []
    process(0, 2)
    monkeypatch.setattr(distributed, "_joined", lambda device: Barrier(True, events))
    with pytest.raises(OSError, match="full"), distributed.main_first(torch.device("cpu")):
        raise OSError("full")
    assert events == ["waits"]


def test_every_process_takes_a_gpu_of_its_own(monkeypatch, process):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    process(1, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cuda:0") == torch.device("cuda:0")
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("RANK", "3")  # the second process of a second machine
    assert choose_device("auto") == torch.device("cuda:1")
    process(2, 3)
    with pytest.raises(CellfeatError, match="'cuda:2' was asked for, but torch sees 2 CUDA devices"):
        choose_device("auto")


@pytest.mark.parametrize("arguments", [["predict", "out", "images"], ["lora-sam", "pretrain", "x.yaml"], []])
def test_a_launcher_around_a_command_that_trains_nothing_is_refused(monkeypatch, capsys, process, arguments):
    process(0, 2)
    monkeypatch.setattr(sys, "argv", ["cellfeat", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        f"error: several processes were started for `cellfeat {' '.join(arguments[:2])}`; run and lora-sam finetune "
        "train together on several GPUs, everything else is started once"
    ]


@pytest.mark.parametrize("arguments", [["run"], ["run", "--folds", "2"], ["lora-sam", "finetune", "data.csv"]])
def test_commands_that_train_may_be_launched(process, arguments):
    process(1, 2)
    cli._check_launch(arguments)


# Two real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """What two processes made of every case."""
    folder = tmp_path_factory.mktemp("trained")
    done = launched(WORKER, folder, cwd=folder, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    for name in CASES:
        shutil.rmtree(folder / name / "scratch")  # 100 MB
    return folder


@pytest.fixture(scope="module")
def pairs_of_runs(trained, one_thread, tmp_path_factory):
    """(arrays, history) of one process and of two, and the notes of the two, by case."""
    found: dict[str, tuple] = {}

    def get(name: str) -> tuple:
        if name not in found:
            alone = tmp_path_factory.mktemp("alone")
            with narrow_autoencoders():
                CASES[name](alone)
            shutil.rmtree(alone / "scratch")
            (features, meta), (others, other) = load_state(alone), load_state(trained / name)
            found[name] = (features, meta["history"]), (others, other["history"]), other["notes"]
        return found[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "bc-sam-ae"])
def test_two_processes_train_as_one(pairs_of_runs, name):
    """History to 1e-5; what the trained network makes of its cells to 2e-4 of its largest value: parts of a batch have
    other shapes than the whole, and go through other kernels.

    Weights are not compared one by one: a gradient that is zero in exact arithmetic (of attention's key biases) is
    rounding noise, which Adam scales to full steps.
    """
    (features, history), (others, other), _ = pairs_of_runs(name)
    assert set(other) == set(history)
    for term, values in history.items():
        assert other[term] == pytest.approx(values, rel=1e-5, abs=1e-9), term
    for key, values in features.items():
        assert others[key].shape == values.shape
        assert np.abs(others[key] - values).max() < 2e-4 * np.abs(values).max(), key


@pytest.mark.slow
def test_the_cases_differ_by_more_than_the_processes_do(pairs_of_runs):
    """Else the tolerance above would say nothing; and the domain term takes part wherever it should."""
    names = ["cae", "cae-parts", "cae-mmd", "cae-coral", "cae-fixed"]
    features = [pairs_of_runs(name)[0][0]["features"] for name in names]
    for first, second in combinations(features, 2):
        assert np.abs(first - second).max() > 10 * 1e-4 * np.abs(first).max()
    for name in (*names, "ae-cfe"):
        assert max(pairs_of_runs(name)[1][1]["domain"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cae-resumed", "fine-tuning-resumed", "fine-tuning-nucleus"])
def test_two_processes_go_on_inside_an_epoch(pairs_of_runs, name):
    _, _, notes = pairs_of_runs(name)
    assert any("goes on after step 1 of 4" in note for note in notes)


@pytest.mark.slow
def test_batch_norm_sees_the_share_of_its_process(pairs_of_runs):
    (_, history), (features, other), _ = pairs_of_runs("bc-sam-ae")
    assert np.isfinite(features["features"]).all()
    assert np.isfinite(other["domain"]).all()
    assert other["image"] == pytest.approx(history["image"], rel=0.02)


# The command ----------------------------------------------------------------------------------------------------------

SMALL_CAE = {"epochs": 2, "batch_size": 7, "encoder_depth": 1, "decoder_depth": 1, "head_width": 16, "latent": 5}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict:
    """A recipe that fine-tunes, encodes, aligns and classifies: two cells per class of three laboratories, 48 px."""
    manifest = write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=2, size=48)
    return {
        "dataset": {"manifest": str(manifest)},
        "finetune": {"masks": "truth", "domains": ["lab-a"], "epochs": 1, "batch_size": 5},
        "backbone": {"name": "lora-sam", "image_size": 64},
        "align": {"name": "cae", **SMALL_CAE},
        "classifier": {"name": "lr"},
        "protocol": {"folds": 2, "source": ["lab-a"], "target": ["lab-b"], "seeds": [0]},
    }


@pytest.mark.slow
def test_a_run_of_two_processes_is_one_run(content, one_thread, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    done = launched("-m", "cellfeat", "run", "--recipe", "small.yaml", "--out", "runs/two", cwd=tmp_path, cache=cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lora-sam · cae · lr") == done.stdout.count("lab-a → lab-b") == 1
    assert done.stderr.count("Run folder: runs/two") == done.stderr.count("Next: cellfeat predict") == 1
    notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    assert notes
    assert len(notes) == len(set(notes))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["two"]
    assert len(list((cache / "adapters").iterdir())) == len(list((cache / "stores").iterdir())) == 1
    assert not list((cache / "scratch").rglob("*.pt"))
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "other"))
    work = Workplace(installed(), SilentReporter(), device="cpu")
    run(recipe.parse(content), tmp_path / "runs" / "one", work)
    two, one = (pq.read_table(tmp_path / "runs" / name / "predictions.parquet").to_pandas() for name in ("two", "one"))
    assert two[["source", "target", "fold", "id"]].equals(one[["source", "target", "fold", "id"]])
    chances = [name for name in one if name.startswith("p_")]
    np.testing.assert_allclose(two[chances], one[chances], atol=2e-3)
    first, second = np.sort(one[chances].to_numpy(), axis=1)[:, :-3:-1].T
    clear = first - second > 4e-3
    assert clear.any()
    assert (two.predicted == one.predicted)[clear].all()


def test_only_the_main_process_leaves_a_run_and_clears_up(content, process, monkeypatch, tmp_path):
    """Another one may be at the end of its work while the main one still writes its last checkpoint."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    plain = {**content, "backbone": {"name": "colour", "bins": 4}, "align": {"name": "per-domain-z"}}
    del plain["finetune"]
    left = []
    for index in (1, 0):
        process(index, 2)
        monkeypatch.setattr(distributed, "_joined", lambda device, main=index == 0: Barrier(main, []))
        run(recipe.parse(plain), tmp_path / "runs" / "out", Workplace(installed(), SilentReporter(), device="cpu"))
        left.append(len(list((tmp_path / "cache" / "scratch" / "run").iterdir())))
        assert (tmp_path / "runs" / "out").exists() == (index == 0)
        assert len(list((tmp_path / "runs").iterdir())) == (1 - index)
    assert left == [1, 0]


@pytest.mark.parametrize("content", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "abc", "RANK": "0"}])
def test_a_schedulers_own_world_size_is_no_launcher(content, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in content.items():
        monkeypatch.setenv(name, value)
    assert distributed.process_count() == 1
    assert distributed.is_main()
