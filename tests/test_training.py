"""Device and precision by name, seeding, the learning-rate schedule, checkpoints."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager

import pytest
import torch

from cellfeat import training
from cellfeat.errors import CellfeatError
from cellfeat.training import Checkpoint, autocast, choose_device, choose_dtype, seeded, warmup_cosine


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many CUDA devices and perhaps an Apple GPU, as torch would report it."""

    def set_up(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return set_up


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cpu", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
    ],
)
def test_devices_by_name(machine, cuda, mps, name, expected):
    machine(cuda, mps)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cpu:", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps:0"])
def test_other_names_are_refused_with_the_possible_ones(machine, name):
    machine(2, True)
    with pytest.raises(CellfeatError) as error:
        choose_device(name)
    assert str(error.value) == f"no device named {name!r}. Possible: auto, cpu, cuda, cuda:N, mps"


def test_a_device_that_is_not_there_is_refused(machine):
    machine(1, False)
    with pytest.raises(CellfeatError) as error:
        choose_device("cuda:1")
    assert str(error.value) == (
        "device 'cuda:1' was asked for, but torch sees 1 CUDA devices; auto takes the best that there is"
    )
    with pytest.raises(CellfeatError, match="this machine has no Apple GPU that torch can use; auto takes the best"):
        choose_device("mps")
    machine(0, False)
    with pytest.raises(CellfeatError, match="sees 0 CUDA devices"):
        choose_device("cuda")


def test_precisions_by_name():
    assert [choose_dtype(name) for name in ("fp32", "bf16", "fp16")] == [torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(CellfeatError, match=r"no precision named 'float32'. Possible: fp32, bf16, fp16"):
        choose_dtype("float32")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_the_precision_asked_for(dtype):
    weight = torch.ones(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with autocast(torch.device("cpu"), dtype):
            assert (weight @ weight).dtype == dtype
    assert (weight @ weight).dtype == torch.float32


def test_float32_goes_by_onednn_and_what_was_set_is_set_again(monkeypatch):
    monkeypatch.setattr(training, "_onednn_keeps_digits", lambda: True)
    cpu = torch.device("cpu")
    assert torch.get_float32_matmul_precision() == "highest"

    def fails() -> None:
        with autocast(cpu, torch.float32):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision("high")
    try:
        with autocast(cpu, torch.float32):
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    for device, dtype in ((cpu, torch.bfloat16), (torch.device("cuda"), torch.bfloat16)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no GPU here
            with autocast(device, dtype):
                assert torch.get_float32_matmul_precision() == "highest"


def test_onednn_is_not_trusted_where_it_rounds(monkeypatch):
    """A library that rounds to bfloat16, as oneDNN does on processors with units for it."""

    @contextmanager
    def rounding():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    training._onednn_keeps_digits.cache_clear()
    monkeypatch.setattr(training, "_by_onednn", rounding)
    try:
        assert not training._onednn_keeps_digits()
        with autocast(torch.device("cpu"), torch.float32):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    finally:
        training._onednn_keeps_digits.cache_clear()


def test_float32_products_keep_their_digits():
    left, right = (torch.randn(400, 400, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with autocast(torch.device("cpu"), torch.float32):
        found = left @ right
    torch.testing.assert_close(found.double(), left.double() @ right.double(), rtol=0, atol=1e-4)


def test_a_seeded_block_is_repeatable_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        one = torch.rand(3)
    with seeded(1):
        two = torch.rand(3)
    with seeded(2):
        other = torch.rand(3)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(3), expected)


def test_the_global_generator_is_put_back_after_an_error():
    before = torch.random.get_rng_state()

    def fail() -> None:
        with seeded(1):
            torch.rand(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_schedule_warms_up_linearly_and_falls_by_a_cosine():
    rates = [warmup_cosine(step, 4, 12) for step in range(14)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)  # half-way between warm-up and end
    assert rates[6] == pytest.approx(0.5 + 0.5**1.5)  # cos(pi/4)
    assert rates[12] == rates[13] == 0
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_schedule_without_warm_up_or_with_nothing_else():
    assert warmup_cosine(0, 0, 10) == 1
    assert warmup_cosine(4, 5, 5) == 1
    assert warmup_cosine(5, 5, 5) == 1  # one step beyond: no division by zero


def test_a_checkpoint_comes_back_whole_and_is_replaced(tmp_path):
    checkpoint = Checkpoint(tmp_path, "cae")
    assert checkpoint.load() is None
    network = torch.nn.Linear(2, 2).state_dict()
    optimizer = {"state": {0: {"exp_avg": torch.rand(2), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    for step in (1, 2):
        checkpoint.save(step=step, network=network, optimizer=optimizer, name="x")
    state = Checkpoint(tmp_path, "cae").load()
    assert (state["step"], state["name"]) == (2, "x")
    assert torch.equal(state["network"]["weight"], network["weight"])
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer["state"][0]["exp_avg"])
    assert state["optimizer"]["param_groups"] == [{"lr": 0.1}]
    assert [path.name for path in tmp_path.iterdir()] == ["cae.pt"]


def test_what_a_killed_run_had_half_written_goes(tmp_path):
    Checkpoint(tmp_path, "cae").save(step=1)
    half, other = tmp_path / ".cae.pt.0123.partial.pt", tmp_path / ".other.pt.0123.partial.pt"
    for path in (half, other):
        path.write_bytes(b"half")
    assert Checkpoint(tmp_path, "cae").load() == {"step": 1}
    assert (half.exists(), other.exists()) == (False, True)


def test_checkpoints_are_read_without_running_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(step=1, trap=Trap())
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        checkpoint.load()
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_is_due_after_a_while_and_rarer_where_it_costs_much(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoint, saved = Checkpoint(tmp_path), []

    def slow(**state):
        saved.append(state["step"])
        now[0] += 3.0  # seconds that a save takes

    monkeypatch.setattr(checkpoint, "save", slow)
    for step in range(200):
        checkpoint.save_when_due(lambda step=step: {"step": step})
        now[0] += 1.0
    assert saved == [30, 90, 150]  # after 30 s, then after 20 times the 3 s


def test_only_the_main_process_keeps_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        Checkpoint(tmp_path).save(step=1)
        assert (tmp_path / "checkpoint.pt").exists() is (rank == "0")
