"""A block after which the process's random numbers and threads are what they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

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
