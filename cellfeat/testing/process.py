"""What a plugin shares with everything else in its process: seen before and after, and put back."""

from __future__ import annotations

import functools
import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CUDNN = ("deterministic", "benchmark", "allow_tf32")
UNUSUAL_SEED = 987_654_321  # a plugin that seeds the process leaves another state, whatever seed it takes


class Setting(NamedTuple):
    """One thing that the process has once: how it is read, as a value that can be compared, and set."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextmanager
def kept_process() -> Iterator[list[str]]:
    """Yields a list that has, when the block has ended, what it changed in the process; all of it is put back."""
    settings = _settings()
    before = {name: setting.read() for name, setting in settings.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, setting in settings.items():
            if setting.read() != before[name]:
                changed.append(name)
                setting.write(before[name])


@contextmanager
def unusual_process() -> Iterator[None]:
    """A process whose random numbers and threads are such as nobody would set by chance."""
    import cv2
    import torch

    with kept_process():
        random.seed(UNUSUAL_SEED)
        np.random.seed(UNUSUAL_SEED)  # noqa: NPY002 - the state of the process
        torch.manual_seed(UNUSUAL_SEED)
        torch.set_num_threads(torch.get_num_threads() + 1)
        cv2.setNumThreads(cv2.getNumThreads() + 1)
        yield


def _settings() -> dict[str, Setting]:
    """Of Python, and of the libraries that are loaded: whoever has not loaded one cannot have set it."""
    return {
        "Python's random numbers": Setting(random.getstate, random.setstate),
        "NumPy's random numbers": Setting(_numpy_state, np.random.set_state),
        "NumPy's treatment of floating-point errors": Setting(np.geterr, lambda kept: np.seterr(**kept)),
        "the environment": Setting(lambda: dict(os.environ), _write_environment),
        "the working folder": Setting(_working_folder, os.chdir),
        "the import path": Setting(lambda: list(sys.path), _write_path),
        "the handler of Ctrl-C": Setting(lambda: signal.getsignal(signal.SIGINT), _write_handler),
        "the garbage collector": Setting(gc.isenabled, lambda kept: gc.enable() if kept else gc.disable()),
        "the limit of recursion": Setting(sys.getrecursionlimit, sys.setrecursionlimit),
        **(_torch_settings() if "torch" in sys.modules else {}),
        **(_opencv_settings() if "cv2" in sys.modules else {}),
        **(_sklearn_settings() if "sklearn" in sys.modules else {}),
    }


def _torch_settings() -> dict[str, Setting]:
    import torch

    def write_numbers(state: bytes) -> None:
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    cudnn = torch.backends.cudnn
    flags = {
        name: Setting(functools.partial(getattr, cudnn, name), functools.partial(setattr, cudnn, name))
        for name in CUDNN
    }
    return {
        "torch's random numbers": Setting(lambda: torch.get_rng_state().numpy().tobytes(), write_numbers),
        "torch's threads": Setting(torch.get_num_threads, torch.set_num_threads),
        "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
        "torch's default device": Setting(torch.get_default_device, _write_device),
        "torch's gradient mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
        "torch's deterministic algorithms": Setting(_deterministic, _write_deterministic),
        "torch's float32 precision": Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        **{f"cuDNN's {name}": setting for name, setting in flags.items()},
    }


def _opencv_settings() -> dict[str, Setting]:
    import cv2

    return {"OpenCV's threads": Setting(cv2.getNumThreads, cv2.setNumThreads)}


def _sklearn_settings() -> dict[str, Setting]:
    import sklearn

    return {"scikit-learn's settings": Setting(sklearn.get_config, lambda kept: sklearn.set_config(**kept))}


def _deterministic() -> tuple[bool, bool]:
    import torch

    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _write_deterministic(kept: tuple[bool, bool]) -> None:
    import torch

    torch.use_deterministic_algorithms(kept[0], warn_only=kept[1])


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002 - the state of the process
    kind, key, *rest = state
    return (kind, tuple(key.tolist()), *rest)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _write_path(kept: list[str]) -> None:
    sys.path[:] = kept


def _write_handler(kept: Any) -> None:
    signal.signal(signal.SIGINT, kept)


def _write_environment(kept: dict[str, str]) -> None:
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ.update(kept)


def _write_device(device: Any) -> None:
    import torch

    torch.set_default_device(device)
