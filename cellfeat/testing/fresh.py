"""Asking a plugin in a fresh interpreter: nothing is there but what was saved, and strings have other hashes.

    arrays = in_fresh_process(answer, factory, params, folder, {"features": features}, slot="classifier")

calls `answer(factory, params, folder, {"features": features})`, a module-level function of this package that gives
{name: array}, in a new process. The factory is found there by its module and name, or by its name among the plugins.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.registry import installed
from cellfeat.testing.checks import Failed, Skipped, told

SECONDS = 120.0  # for a start of Python, torch and the plugin, and what is asked of it
PROGRAM = "import sys; from cellfeat.testing.fresh import work; work(sys.argv[1])"

Arrays = Mapping[str, np.ndarray]
Task = Callable[[Callable[..., Any], Mapping[str, Any], Path, Arrays], Arrays]


def in_fresh_process(
    task: Task,
    factory: Callable[..., Any],
    params: Mapping[str, Any],
    folder: Path,
    arrays: Arrays,
    *,
    slot: str,
    seconds: float = SECONDS,
) -> dict[str, np.ndarray]:
    """What `task(factory, params, folder, arrays)` gives in a new process that has this one's `sys.path`.

    folder: the task's own, where what was saved lies. arrays: of numbers or strings.

    Raises: Skipped, where another process cannot find the factory; Failed, with what went wrong there in one line.
    """
    told_of = _told_of(factory, params, slot)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fresh-") as made:
        exchange = Path(made)
        (exchange / "factory").write_bytes(told_of)
        about = {"module": task.__module__, "task": task.__name__, "slot": slot, "folder": str(folder.resolve())}
        (exchange / "task.json").write_text(json.dumps(about))
        np.savez(exchange / "arrays.npz", allow_pickle=False, **arrays)
        _run(exchange, seconds)
        with np.load(exchange / "answer.npz", allow_pickle=False) as answer:
            return dict(answer)


def _told_of(factory: Callable[..., Any], params: Mapping[str, Any], slot: str) -> bytes:
    """How to find the factory, and its parameters; pickle keeps of functions and classes where they are, no more."""
    try:
        return pickle.dumps((factory, dict(params)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        for offer in installed().offers:
            if offer.slot == slot and offer.factory is factory:
                return pickle.dumps((f"{offer.distribution}:{offer.name}", dict(params)))
        reason = " ".join(str(error).split())
        raise Skipped(f"another process cannot import the factory: {reason}. Define it at a module's level") from None


def _run(exchange: Path, seconds: float) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM, str(exchange.resolve())],
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"in a fresh process it did not end within {seconds:.0f} s") from None
    outcome = exchange / "outcome.json"
    if not outcome.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(f"the fresh process ended with status {done.returncode}: {last}")
    kind, text = json.loads(outcome.read_text())
    if kind == "skipped":
        raise Skipped(text)
    if kind == "failed":
        raise Failed(f"in a fresh process: {text}")


def _environment() -> dict[str, str]:
    """This process's, with its import path and threads, and with another seed for the hashes of strings."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    threads = {}
    if "torch" in sys.modules:
        # Sums in another number of parts have other last digits.
        threads["OMP_NUM_THREADS"] = str(sys.modules["torch"].get_num_threads())
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONHASHSEED": seed}


def work(place: str) -> None:
    """What the fresh process does: the task, whose answer or fault is left in the folder `place`."""
    exchange = Path(place)
    try:
        answer = _answer(exchange)
        np.savez(exchange / "answer.npz", allow_pickle=False, **answer)
        outcome = ("done", "")
    except Skipped as reason:
        outcome = ("skipped", str(reason))
    except Failed as fault:
        outcome = ("failed", str(fault))
    except (Exception, SystemExit) as error:
        outcome = ("failed", told(error))
    (exchange / "outcome.json").write_text(json.dumps(outcome))


def _answer(exchange: Path) -> dict[str, np.ndarray]:
    about = json.loads((exchange / "task.json").read_text())
    try:
        factory, params = pickle.loads((exchange / "factory").read_bytes())
    except (ImportError, AttributeError) as error:
        raise Skipped(f"another process cannot import the factory: {error}") from None
    if isinstance(factory, str):
        factory = installed().find(about["slot"], factory).factory
    task = getattr(importlib.import_module(about["module"]), about["task"])
    with np.load(exchange / "arrays.npz", allow_pickle=False) as found:
        arrays = dict(found)
    return {name: np.asarray(value) for name, value in task(factory, params, Path(about["folder"]), arrays).items()}
