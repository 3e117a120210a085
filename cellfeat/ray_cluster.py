"""Ray itself: started here or joined, kept off the terminal, and its failures told in one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from cellfeat.errors import CellfeatError
from cellfeat.extras import import_extra

OBJECT_STORE = 1 << 30  # bytes at most of a Ray that is started here: a few groups in flight per encoder
PATIENCE = 5.0  # s for a cluster's address to answer
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its warnings go to our terminal otherwise
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
}
_HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(\d+)")


@dataclass(frozen=True)
class Cluster:
    """A cluster by its address; None is the one that RAY_ADDRESS names, or else a new one on this machine."""

    address: str | None = None

    @property
    def ray(self) -> Any:
        return _imported()

    @property
    def data(self) -> Any:
        import ray.data

        return ray.data

    @contextlib.contextmanager
    def joined(self) -> Iterator[Cluster]:
        """Be part of the cluster for a block. A Ray that runs in this process already is used and left running."""
        ray = _imported()
        with _variables(), _calm():
            ours = not ray.is_initialized()
            if ours:
                self._join(ray)
            try:
                with _settings(self.data.DataContext.get_current()):
                    yield self
            finally:
                if ours:
                    ray.shutdown()

    def _join(self, ray: Any) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        _check_answers(address)
        own = {"include_dashboard": False, "object_store_memory": _object_store()} if address == "local" else {}
        try:
            with _silenced():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # whatever keeps Ray from starting: of many kinds
            where = "Ray does not start here" if own else f"--address {address}: no Ray cluster answers"
            raise CellfeatError(f"{where} ({_one_line(error)}){'' if own else _remedy()}") from None

    def gpus(self) -> int:
        return int(sum(node.get("GPU", 0) for node in self._nodes()))

    def encoders(self, threads: int, on_gpu: bool) -> int:
        """Actors that find room: one per GPU, or one per so many CPUs of a node; at least one."""
        if on_gpu:
            return max(1, self.gpus())
        return max(1, sum(int(node.get("CPU", 0) // threads) for node in self._nodes()))

    def encoder_cpus(self, threads: int, kept: float) -> float:
        """CPUs that an encoder asks Ray for: those of its threads but for the share that reading needs."""
        largest = max((node.get("CPU", 1) for node in self._nodes()), default=1)
        return max(min(threads, largest) - kept, 2 * kept)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def explained(self, results: Iterator[Any]) -> Generator[Any, None, None]:
        """`results`, with Ray's own failures as one line."""
        from ray.exceptions import RayError

        try:
            yield from results
        except CellfeatError:
            raise
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            raise CellfeatError(
                f"Ray gave up: {_one_line(cause)}. What was encoded is kept, and the same command goes on from it; if "
                "encoders die for lack of memory, give it --batch 8 or fewer --encoders"
            ) from error


def _imported() -> Any:
    import_extra("ray.data", "--engine ray", "--engine local needs nothing")
    import ray

    return ray


def _check_answers(address: str) -> None:
    """Ray itself would try for a minute or more, and then write pages."""
    match = _HOST.fullmatch(address)
    if address in ("auto", "local"):
        return
    if address.startswith("ray://"):
        raise CellfeatError(
            f"--address {address}: Ray Data is not driven from afar; start the command on a node of the cluster, with "
            "--address auto, or by `ray job submit`"
        )
    if not match:
        raise CellfeatError(f"--address {address}: not an address; possible are auto and HOST:PORT")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise CellfeatError(f"--address {address}: nobody answers ({reason}){_remedy()}") from None


def _remedy() -> str:
    return (
        "; start one with `ray start --head`, which says its address, or leave --address out to use this machine. One "
        "that asks for a token wants RAY_AUTH_MODE=token"
    )


def _object_store() -> int:
    """As much as shared memory has room for, within `OBJECT_STORE`; Ray's least is 75 MiB."""
    import shutil

    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return OBJECT_STORE
    return max(80 << 20, min(OBJECT_STORE, int(0.8 * free)))


@contextlib.contextmanager
def _variables() -> Iterator[None]:
    """Variables that Ray reads when it starts; those that the user has set stay."""
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Nothing reaches stdout and stderr, neither from Python nor from below; for moments in which we say nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    said = io.StringIO()
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Ray's loggers write to their files alone."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    handlers = [handler for handler in handlers if type(handler).__name__ != "SessionFileHandler"]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextlib.contextmanager
def _settings(context: Any) -> Iterator[None]:
    """Ray Data without bars and banners of its own."""
    ours = {"enable_progress_bars": False, "enable_operator_progress_bars": False, "print_on_execution_start": False}
    ours = {name: value for name, value in ours.items() if hasattr(context, name)}
    before = {name: getattr(context, name) for name in ours}
    for name, value in ours.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1:])[:300] or type(error).__name__
