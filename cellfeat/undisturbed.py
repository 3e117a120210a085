"""Asking other people's code so that nothing is left of it: random numbers, threads, files."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellfeat.console import SilentReporter
from cellfeat.slots import Context
from cellfeat.training import seeded


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Run a block that other people's code draws random numbers in, and may set threads; then put both back."""
    import torch

    threads, own, numbers = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002 - the state of the process
    try:
        with seeded(seed):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numbers)  # noqa: NPY002
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def looking(context: Context, seed: int) -> Iterator[Context]:
    """A context for looking only: its own generator, its own folder, which goes away, and nobody told."""
    import torch

    with tempfile.TemporaryDirectory(dir=context.scratch, prefix="observed-") as folder:
        generator = torch.Generator().manual_seed(seed)
        yield replace(context, scratch=Path(folder), generator=generator, reporter=SilentReporter())
