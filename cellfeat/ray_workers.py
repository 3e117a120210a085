"""What Ray's workers do: `Reader` reads, checks and decodes groups of images, `Encoding` encodes them and writes rows.

A group is one row of Ray's stream, so it is read by one task, encoded by one call of one actor, and written as one
fragment of each column; what is done again after a worker died is one group. Ray itself is not imported here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from cellfeat import images
from cellfeat.batch_size import is_out_of_memory
from cellfeat.console import SilentReporter
from cellfeat.datasets import fault
from cellfeat.decode import ImageError, image_digest, read_bytes, read_rgb
from cellfeat.encoding import BatchEncoder
from cellfeat.errors import CellfeatError
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.scan import ImageFacts, examine
from cellfeat.store import Store
from cellfeat.workplace import Workplace, make_encoder

if TYPE_CHECKING:
    import pyarrow as pa

READ_AT_ONCE = 8  # images of a group: most of the time is spent waiting for storage, or outside the interpreter's lock
TRIES = 8  # of a group whose process dies
KEY = 32  # digits of a digest by which a worker knows that the store has an image


class Item(NamedTuple):
    """One image to be read: its row in the data set, where it is, how the user wrote that, and what is known of it."""

    row: int
    path: str
    shown: str
    mask_path: str | None
    mask_shown: str | None
    recorded: str  # SHA-256 in the manifest, or ""


class Found(NamedTuple):
    """What a worker found in an image: why it is bad or its facts; of its mask, too."""

    row: int
    reason: str | None
    image: ImageFacts | None
    mask: ImageFacts | None


@dataclass(frozen=True)
class Job:
    """What an encoder actor must know; plain values, so that any process can be handed it.

    recipe: as a dictionary. description: the store's identity. way: of it what does not depend on memory, which every
    worker's own must equal. root: of all stores, a folder that every node sees. environment: variables that say where
    things lie.
    """

    recipe: Mapping[str, Any]
    seed: int
    device: str
    precision: str
    compile: bool
    description: Mapping[str, Any]
    way: Mapping[str, Any]
    maps: str
    root: str
    columns: tuple[str, ...]
    environment: Mapping[str, str]


class Reader:
    """Groups of items to frames, in a task: read, digest, decode, check against mask and manifest, resize.

    present: an object reference to the keys (N,) of digests that the store has, sorted; None where it is empty.
    """

    def __init__(self, size: int, interpolation: str, present: Any | None) -> None:
        self.size, self.interpolation, self.present = size, interpolation, present

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row `group`, JSON of items, to a row: `found`; `digests` and `frames`, (n, 3, S, S) uint8 RGB as bytes."""
        items = [Item(*item) for text in table.column("group").to_pylist() for item in json.loads(text)]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            results = list(pool.map(self._read, items))
        present = self._present([found.image.sha256 for found, _ in results if found.image])
        frames: dict[str, np.ndarray] = {}
        for found, frame in results:
            if found.image and frame is not None and found.image.sha256 not in present:
                frames.setdefault(found.image.sha256, frame)
        stacked = np.stack(list(frames.values())) if frames else np.empty(0, np.uint8)
        return _row(found=json.dumps([found for found, _ in results]), digests=json.dumps([*frames]), frames=stacked)

    def _read(self, item: Item) -> tuple[Found, np.ndarray | None]:
        try:
            data = read_bytes(item.path)
            pixels = read_rgb(data, name=item.path)
            facts = ImageFacts(image_digest(data), pixels.shape[1], pixels.shape[0])
            mask = None if item.mask_path is None else examine(item.mask_path, True)
        except ImageError as error:
            # The worker knows the path from the root, its user the one that was given.
            text = str(error).replace(item.path, item.shown)
            if item.mask_path and item.mask_shown:
                text = text.replace(item.mask_path, item.mask_shown)
            return Found(item.row, text, None, None), None
        reason = fault(item.shown, item.recorded, facts, mask)
        if reason:
            return Found(item.row, reason, None, None), None
        return Found(item.row, None, facts, mask), images.resize(pixels, self.size, self.interpolation).transpose(
            2, 0, 1
        )

    def _present(self, digests: Sequence[str]) -> set[str]:
        if self.present is None or not digests:
            return set()
        import ray

        keys = ray.get(self.present)
        wanted = np.array(digests, dtype=f"S{KEY}")
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return {digest for digest, known in zip(digests, keys[places] == wanted, strict=True) if known}


class Encoding:
    """Frames to rows of the store, in an actor that keeps the backbone."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @cached_property
    def _reporter(self) -> SilentReporter:
        return SilentReporter()

    @cached_property
    def _encoder(self) -> BatchEncoder:
        """Made at the first group, not before: an error is then an answer, and not the end of the actor."""
        job = self.job
        os.environ.update(job.environment)  # of this worker's process, which works for nobody else
        _set_threads(job.way["threads"])
        work = Workplace(installed(), self._reporter, job.device, job.precision, compile=job.compile)
        encoder = make_encoder(parse(dict(job.recipe)), work, work.context(job.seed, "extract"))
        _check_same(job.way, json.loads(json.dumps(dict(encoder.way))))
        return BatchEncoder(encoder.backbone, encoder.segmenter, encoder.context, job.description["batch"], job.maps)

    @cached_property
    def _store(self) -> Store:
        return Store(Path(self.job.root), self.job.description)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of `Reader` to one row `result`, JSON: found, digests, {column: fragment}, empty, notes; where it failed
        error, or memory."""
        result: dict[str, Any] = {"found": [], "digests": [], "written": {}, "empty": 0, "notes": []}
        for found, digests, frames in zip(
            *(table.column(name) for name in ("found", "digests", "frames")), strict=True
        ):
            result["found"] += json.loads(found.as_py())
            names = json.loads(digests.as_py())
            try:
                if names:
                    with self._trying(names):
                        result |= self._encoded(names, np.frombuffer(frames.as_buffer(), np.uint8))
            except CellfeatError as error:
                result["error"] = str(error)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                result["memory"] = str(error)
        return _row(result=json.dumps(result))

    @contextmanager
    def _trying(self, digests: list[str]) -> Iterator[None]:
        """Leave a mark in the store's folder while a group is encoded: it stays where that kills the process.

        Ray gives a group to the next process again and again; nobody else could know that it has killed several.

        Raises: CellfeatError where it has done so `TRIES` times.
        """
        group = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        folder = self._store.folder / "tries"
        folder.mkdir(exist_ok=True)
        (folder / f"{group}.{uuid4().hex}").touch()
        killed = len(list(folder.glob(f"{group}.*"))) - 1
        try:
            if killed >= TRIES:
                raise CellfeatError(
                    f"encoding {len(digests)} images has ended its process {killed} times (memory?); try a smaller "
                    "--batch or fewer --encoders. What was encoded is kept"
                )
            yield
        finally:
            for mark in folder.glob(f"{group}.*"):
                mark.unlink(missing_ok=True)

    def _encoded(self, digests: list[str], flat: np.ndarray) -> dict[str, Any]:
        encoder = self._encoder
        _set_threads(self.job.way["threads"])  # they belong to a thread, and Ray may call from another one
        size = self.job.way["frame"][0]
        frames = flat.reshape(len(digests), 3, size, size).copy()  # Ray's memory is read-only
        starts = range(0, len(frames), encoder.size)
        with ThreadPoolExecutor(1) as pool:  # a batch lands while the next one is computed
            landing = [
                pool.submit(encoder.land, encoder.compute(frames[start : start + encoder.size], self.job.columns))
                for start in starts
            ]
            parts = [future.result() for future in landing]
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        empty = int(values.pop("empty").sum())
        written = {name: self._store.write_fragment(name, digests, array) for name, array in values.items()}
        return {"digests": digests, "written": written, "empty": empty, "notes": [*self._reporter.notes]}


def _set_threads(count: int) -> None:
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _row(**values: Any) -> pa.Table:
    """A table of one row; arrays become bytes."""
    import pyarrow as pa

    columns = {
        name: pa.array([value.data if isinstance(value, np.ndarray) else value], _kind(value))
        for name, value in values.items()
    }
    return pa.table(columns)


def _kind(value: Any) -> Any:
    import pyarrow as pa

    return pa.large_binary() if isinstance(value, np.ndarray) else pa.string()


def _check_same(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse to encode in another way than the driver would: the rows would be taken for the same."""
    import socket

    for key in sorted({*wanted, *found}):
        if wanted.get(key) != found.get(key):
            raise CellfeatError(
                f"a Ray worker on {socket.gethostname()} would encode with {key}={found.get(key)!r}, this run needs "
                f"{wanted.get(key)!r}; install the same versions and weights on every node"
            )
