"""Trainings in processes of their own, made to be killed: they report every finished step and keep every one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FOREVER = 600  # s


class Steps:
    """A reporter that sends the number of every finished step of a training, and stops after step `last`."""

    def __init__(self, connection: Connection, last: int | None) -> None:
        self.connection, self.last, self.done = connection, last, 0

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, total: int | None, text: str) -> Iterator[Any]:
        yield self if "epochs" in text else Silent()

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.connection.send(self.done)
        if self.last is not None and self.done >= self.last:
            time.sleep(FOREVER)  # a kill that comes late must not find a finished training


class Silent:
    def advance(self, n: int = 1) -> None:
        pass


def work(kind: str, scratch: Path, out: Path, connection: Connection, last: int | None = None) -> None:
    """Train what `TRAININGS` has under `kind`, in one thread, and leave the result in the empty folder `out`."""
    import torch

    from cellfeat.testing import cpu_context
    from cellfeat.training import Checkpoint

    torch.set_num_threads(1)
    Checkpoint.seconds = 0.0
    Checkpoint._cost = property(lambda self: 0.0, lambda self, seconds: None)  # nor does a slow disk skip a step
    context = replace(cpu_context(scratch, seed=11), reporter=Steps(connection, last))
    TRAININGS[kind](out, context)


def cae(out: Path, context: Any) -> None:
    """Nine cells, five steps an epoch."""
    from cellfeat_cae.cae import Cae

    from cellfeat.testing import toy_cells

    method = Cae(epochs=6, batch_size=2, encoder_depth=1, decoder_depth=1, head_width=16, latent=5, learning_rate=1e-3)
    _align(method, toy_cells(per_class=1), out, context)


def bc_sam_ae(out: Path, context: Any) -> None:
    """Three cells, three steps an epoch; batch norm keeps running means beside what is trained."""
    from cellfeat_cae.bc_sam import BcSamAe
    from helpers import narrow_autoencoders

    from cellfeat.testing import toy_cells

    with narrow_autoencoders():
        _align(BcSamAe(epochs=2, batch_size=1, latent=5), toy_cells(per_class=1)[::4], out, context)


def _align(method: Any, cells: Any, out: Path, context: Any) -> None:
    from cellfeat import save_state

    method.fit(cells, context)
    save_state(out, method.network_.state_dict(), method.history_)


def fine_tuning(out: Path, context: Any) -> None:
    """Seven images, four steps an epoch."""
    import numpy as np
    from cellfeat_lora_sam import LoraSam

    from cellfeat import synthetic

    rng = np.random.default_rng(5)
    cells = [synthetic.draw_cell("lymphocyte", "lab-a", rng, size=48) for _ in range(7)]
    pairs = [(cell.image, cell.mask == 255) for cell in cells]
    LoraSam.finetune(pairs, out, context=context, image_size=64, epochs=6, batch_size=2, lr=1e-3)


TRAININGS: dict[str, Callable[[Path, Any], None]] = {"cae": cae, "bc-sam-ae": bc_sam_ae, "fine-tuning": fine_tuning}
