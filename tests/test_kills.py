"""SIGKILL in the middle of a training, and again, and again: what is resumed ends with the very same bits.

The steps after which a process is killed, and how long after, come from NumPy's generator with the seed `SEED`: three
steps, one in each third of the training, none at the end of an epoch; the last kill hits while the next checkpoint is
being written. Processes are forked from one that has imported everything, so that each need not do so again.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
from pathlib import Path

import kill_worker
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SEED = 20240808
CHECKPOINTS = {"cae": "cae.pt", "bc-sam-ae": "bc-sam-ae.pt", "fine-tuning": "finetune.pt"}
PRELOADED = ["cellfeat_cae.train", "cellfeat_cae.network", "cellfeat_cae.bc_sam_network"]
PRELOADED += ["cellfeat_lora_sam.finetune", "cellfeat_lora_sam.backbone", "peft", "accelerate", "scipy.ndimage"]
PRELOADED += ["cellfeat.pictures", "cellfeat.testing", "matplotlib.backends.backend_agg", "matplotlib.figure"]


@pytest.fixture(scope="module")
def forks():
    """Where processes are forked from."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(PRELOADED)
    return forking


class Training:
    """One training whose processes are killed."""

    def __init__(self, forks, kind: str, folder: Path) -> None:
        self.forks, self.kind, self.scratch, self.out = forks, kind, folder / "scratch", folder / "out"
        self.out.mkdir(parents=True)

    def run(self, kill: int | None = None, delay: float = 0.0, in_writing: bool = False) -> list[int]:
        """Train, to the end or until `delay` seconds after step `kill` was reported; gives the steps reported.

        in_writing: earlier than that if a checkpoint is being written.
        """
        ours, theirs = self.forks.Pipe(duplex=False)
        last = None if kill is None else kill + 1  # it goes no further, however late the signal comes
        process = self.forks.Process(target=kill_worker.work, args=(self.kind, self.scratch, self.out, theirs, last))
        process.start()
        theirs.close()
        reported: list[int] = []
        try:
            while True:
                reported.append(ours.recv())
                if reported[-1] == kill:
                    deadline = time.monotonic() + delay
                    before = self.partial()  # one that an earlier kill left
                    while time.monotonic() < deadline and not (in_writing and self.partial() - before):
                        time.sleep(0.0005)
                    process.kill()
        except EOFError:
            process.join(timeout=60)
        assert process.exitcode == (0 if kill is None else -signal.SIGKILL)
        return reported

    def partial(self) -> set[Path]:
        """Files that are being written."""
        return set(self.scratch.glob("*.partial*"))

    def check_kept(self, reported: int) -> int:
        """The steps in the checkpoint, which is whole, of all that were reported and perhaps of one more."""
        final = {path.name for path in {*self.scratch.iterdir()} - self.partial()}
        assert final == {CHECKPOINTS[self.kind]}
        done = torch.load(self.scratch / CHECKPOINTS[self.kind], weights_only=True)["done"]
        assert done in (reported, reported + 1), "more work is lost than a step"
        assert not list(self.out.iterdir()), "a result before the end"
        return done

    def result(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Every tensor that training left behind, and what is written beside them."""
        tensors = {
            f"{path.relative_to(self.out)}:{name}": value
            for path in self.out.rglob("*.safetensors")
            for name, value in load_file(path).items()
        }
        [about] = self.out.glob("*.json")
        return tensors, json.loads(about.read_text())


def check_kills(forks, kind: str, steps_per_epoch: int, epochs: int, folder: Path, kills: int = 3) -> None:
    """Kill a training so many times, and compare what it ends with to an unbroken one."""
    total = steps_per_epoch * epochs
    unbroken, broken = (Training(forks, kind, folder / name) for name in ("unbroken", "broken"))
    assert unbroken.run() == list(range(1, total + 1))
    rng, done = np.random.default_rng(SEED), 0
    for number, stretch in enumerate(np.split(np.arange(1, total + 1), kills), start=1):
        step = rng.choice([step for step in stretch[1:-2] if step % steps_per_epoch])
        last = number == kills
        reported = broken.run(kill=int(step), delay=2.0 if last else rng.uniform(0, 0.1), in_writing=last)
        assert reported[0] == max(done, 1), "it did not go on where it had been"
        done = broken.check_kept(reported[-1])
    assert done > 1
    assert broken.run() == list(range(done, total + 1))
    (tensors, beside), (resumed, about) = unbroken.result(), broken.result()
    assert set(resumed) == set(tensors)
    for name, value in tensors.items():
        assert torch.equal(resumed[name], value), name
    assert about == beside
    shutil.rmtree(folder)  # 150 MB


@pytest.mark.slow
def test_the_autoencoder_of_dorl(forks, tmp_path):
    check_kills(forks, "cae", 5, 6, tmp_path)


@pytest.mark.slow
def test_fine_tuning(forks, tmp_path):
    check_kills(forks, "fine-tuning", 4, 6, tmp_path)


@pytest.mark.slow
def test_the_autoencoder_of_bc_sam(forks, tmp_path):
    check_kills(forks, "bc-sam-ae", 3, 2, tmp_path, kills=1)
