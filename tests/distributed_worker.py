"""Small trainings to compare on one process and on several: a test imports them, and a launcher starts this file.

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/distributed_worker.py FOLDER
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.cae import Cae
from cellfeat_lora_sam.finetune import FinetuneSettings, Finetuning
from cellfeat_lora_sam.finetune_data import load_frames
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from helpers import narrow_autoencoders, with_nucleus

from cellfeat import Cells, Context, distributed, find_weights, save_state, synthetic
from cellfeat.testing import cpu_context, toy_cells
from cellfeat.training import Checkpoint

TINY = {"epochs": 2, "batch_size": 7, "encoder_depth": 1, "decoder_depth": 1, "head_width": 16, "latent": 5}
TINY |= {"learning_rate": 1e-3}
CONVOLUTIONS = {"epochs": 1, "latent": 5, "learning_rate": 1e-4}
TUNING = {"epochs": 2, "batch_size": 4, "lr": 1e-3}
SIZE = 64  # px, of the frames to fine-tune on


class Stopped(Exception):
    pass


def stopping(context: Context, steps: int) -> Context:
    """The context, but its progress ends a training after so many steps."""

    class Bar:
        left = steps

        def advance(self, n: int = 1) -> None:
            self.left -= n
            if self.left <= 0:
                raise Stopped

    class Reporter:
        note = staticmethod(context.note)

        @contextmanager
        def progress(self, total: int | None, text: str) -> Iterator[Any]:
            yield Bar()

    return replace(context, reporter=Reporter())


def toy(count: int, domains: int = 3) -> Cells:
    """So many cells of so many domains in turn, 8 channels."""
    cells = toy_cells(per_class=1)
    rows = np.arange(len(cells)).reshape(3, 3)[:domains].T.ravel()
    return cells[rows[:count]]


def align(method: Any, cells: Cells, folder: Path, stop: int | None = None) -> None:
    """Fit to the cells, stopped once and resumed if asked for; keep the history and the features."""
    context = cpu_context(folder / "scratch", seed=3)
    if stop and distributed.process_count() > 1:
        with suppress(Stopped):
            method.fit(cells, stopping(context, stop))
        distributed.meet(context.device)  # a kill ends all processes
        method.fit(cells, context)
    method.fit(cells, context)  # after a fit that was stopped the second time: all its steps are done already
    if distributed.is_main():
        features = method.transform(cells, context)
        save_state(folder, {"features": features}, {"history": method.history_, "notes": context.reporter.notes})


def pairs(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Synthetic cells whose mask is the nucleus: something that cell-tiny was not trained to find."""
    rng = np.random.default_rng(5)
    cells = [synthetic.draw_cell("lymphocyte", "lab-a", rng, size=48) for _ in range(count)]
    return [(cell.image, cell.mask == 255) for cell in cells]


def tune(params: dict[str, Any], folder: Path, stop: int | None = None, nucleus: bool = False) -> None:
    """Fine-tune cell-tiny to five images, stopped once and resumed if asked for; keep what it makes of them.

    nucleus: with a mask for the nucleus, which is to stay as it was.
    """
    context = cpu_context(folder / "scratch", seed=3)
    settings = FinetuneSettings(image_size=SIZE, **params)
    path, frames = find_weights(settings.weights, NAMED_WEIGHTS), load_frames(pairs(5), SIZE, context)
    if nucleus:
        path = with_nucleus(folder / "scratch" / f"nucleus-{distributed.process_index()}.safetensors")
    if stop and distributed.process_count() > 1:
        with suppress(Stopped):
            Finetuning(settings, path, frames, stopping(context, stop)).fit()
        distributed.meet(context.device)
    run = Finetuning(settings, path, frames, context)
    history = run.fit()
    if distributed.is_main():
        with torch.no_grad():
            output = run.network(torch.from_numpy(frames.images.transpose(0, 3, 1, 2).copy()))
        features = {"features": output.tokens, "logits": output.logits}
        save_state(folder, features, {"history": history, "notes": context.reporter.notes})


# Nine cells in batches of 7: shares of 4 and 3, then of 1 and 1; in two parts (2, 2) and (2, 1), then (1, 0) twice.
CASES: dict[str, Callable[[Path], None]] = {
    "cae": partial(align, Cae(**TINY), toy(9)),
    "cae-parts": partial(align, Cae(**TINY, accumulate=2), toy(9)),
    "cae-one-left": partial(align, Cae(**TINY), toy(8)),
    "cae-resumed": partial(align, Cae(**TINY), toy(9), stop=1),
    "cae-mmd": partial(align, Cae(**TINY, discrepancy="mmd"), toy(9)),
    "cae-coral": partial(align, Cae(**TINY, discrepancy="coral"), toy(9)),
    "cae-fixed": partial(
        align, Cae(**TINY, discrepancy="mmd", discrepancy_on="cls", batches="balanced", views=True), toy(9)
    ),
    "ae-cfe": partial(align, AeCfe(**CONVOLUTIONS, batch_size=4), toy(5, domains=2)),
    "ae-cfe-parts": partial(align, AeCfe(**CONVOLUTIONS, batch_size=4, accumulate=2), toy(3)),
    "bc-sam-ae": partial(align, BcSamAe(**CONVOLUTIONS, batch_size=4), toy(4)),
    "fine-tuning": partial(tune, TUNING),
    "fine-tuning-parts": partial(tune, TUNING | {"accumulate": 2}),
    "fine-tuning-resumed": partial(tune, TUNING, stop=1),
    "fine-tuning-nucleus": partial(tune, TUNING | {"accumulate": 2}, stop=1, nucleus=True),
}


def main(folder: Path) -> None:
    """Train every case; the main process keeps what came of it."""
    torch.set_num_threads(1)
    Checkpoint.seconds = 0.0
    save = Checkpoint.save
    for name, case in CASES.items():
        Checkpoint.save = on_a_slow_disk(save) if name.endswith("resumed") else save  # type: ignore[method-assign]
        with narrow_autoencoders():
            case(folder / name)


def on_a_slow_disk(save: Callable[..., None]) -> Callable[..., None]:
    """The last checkpoint comes late: whoever does not wait for the main process reads an older one."""

    def slow(self: Checkpoint, **state: Any) -> None:
        time.sleep(1 if distributed.is_main() and state["done"] == 4 else 0)
        save(self, **state)

    return slow


if __name__ == "__main__":
    main(Path(sys.argv[1]))
