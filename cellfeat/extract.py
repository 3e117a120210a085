"""Images to encoded cells: decode and resize in threads, encode in batches of one shape, write as it goes, resume."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from cellfeat import images
from cellfeat.batch_size import BatchSize, is_out_of_memory, usual_batch
from cellfeat.datasets import Dataset
from cellfeat.distributed import main_first
from cellfeat.encoding import BatchEncoder, Computed
from cellfeat.errors import CellfeatError
from cellfeat.slots import Backbone, Context, Segmenter
from cellfeat.store import COLUMNS, QUALITY, Store
from cellfeat.types import Cells, Column

READ_AT_ONCE = 16  # repainted images whose digests are taken at once
BATCHES_AHEAD = 2
READERS = 8  # files read at once: a network drive answers many as fast as one
ROWS_PER_VERSION = 256  # what a kill can cost: at most so many rows are encoded again
DOUBTFUL = 0.8  # of the predicted intersection over union: below it a mask should be looked at


@dataclass(frozen=True)
class Encoder:
    """A backbone, perhaps with a segmenter of its own, and the store of what they encoded.

    way: what tells this way of encoding from others, but for the batch's size. batch: images at once; None chooses.
    maps: type of token maps in the store, "float32" or "float16".
    """

    backbone: Backbone
    segmenter: Segmenter | None
    way: Mapping[str, Any]
    root: Path  # of all stores
    context: Context
    batch: int | None = None
    maps: str = "float32"

    @property
    def description(self) -> dict[str, Any]:
        """The store's identity."""
        maps = {} if self.maps == "float32" else {"maps": self.maps}
        return {**self.way, **maps, "batch": self._batch_size.value}

    @property
    def _batch_size(self) -> BatchSize:
        wanted = self.batch or usual_batch(self.context.device, self.backbone.image_size)
        return BatchSize(self.root, self.way, wanted)

    def encode(self, dataset: Dataset, columns: Sequence[str]) -> Cells:
        """The data set's cells with the wanted columns, encoding only images that the store does not hold yet."""
        _check(columns)
        if dataset.image_digest is None:
            raise ValueError("the data set's images were not checked yet, see datasets.check_images")
        digests = dataset.image_digest.tolist()
        path_of = dict(zip(digests, dataset.path, strict=True))
        size, interpolation = self.backbone.image_size, self.backbone.interpolation

        def decoded(missing: list[str], batch: int) -> Iterator[np.ndarray]:
            # On a CPU, decoding beside the network would take its cores away, one thread waiting for the other.
            ahead = 0 if self.context.device.type == "cpu" else BATCHES_AHEAD
            return _decoded([path_of[digest] for digest in missing], batch, size, interpolation, ahead)

        with main_first(self.context.device):
            store = self._filled(self.root, digests, columns, _with_small(columns), decoded)
        cells = Cells(
            id=dataset.id,
            domain=dataset.domain,
            label=dataset.label,
            group=dataset.group,
            is_target=np.zeros(len(dataset), dtype=bool),
            columns=_stored(store, columns, digests),
        )
        self._tell_doubtful(cells)
        return cells

    def encode_images(self, image: Column, columns: Sequence[str], folder: Path) -> dict[str, Column]:
        """The columns of (N, 3, S, S) uint8 images that exist in no file, kept in a store inside `folder`."""
        _check(columns)
        rows = np.arange(image.shape[0])
        chunks = [rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE)]
        digests = [hashlib.sha256(one.tobytes()).hexdigest() for chunk in chunks for one in image.read(chunk)]
        row_of = dict(zip(digests, rows, strict=True))

        def read(missing: list[str], batch: int) -> Iterator[np.ndarray]:
            wanted = np.array([row_of[digest] for digest in missing], dtype=int)
            return (image.read(wanted[start : start + batch]) for start in range(0, len(wanted), batch))

        return _stored(self._filled(folder, digests, columns, columns, read), columns, digests)

    def _filled(
        self,
        root: Path,
        digests: Sequence[str],
        wanted: Sequence[str],
        columns: Sequence[str],
        read: Callable[[list[str], int], Iterator[np.ndarray]],
    ) -> Store:
        """A store with the wanted columns of all digests; images that lack any get all of `columns`.

        read: gives the images of digests in batches of a size. Where memory runs out, the batch is halved, and what
        follows is another store: rows that were computed in batches of two sizes may differ in their last digits.
        """
        while True:
            store, size = Store(root, self.description), self._batch_size
            missing = store.missing(wanted, digests)
            if not missing:
                return store
            try:
                encoder = BatchEncoder(self.backbone, self.segmenter, self.context, size.value, self.maps)
                self._fill(store, missing, read(missing, size.value), encoder, columns)
                return store
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.context.note(size.halve(error))

    def _tell_doubtful(self, cells: Cells) -> None:
        counts = doubtful_masks(cells)
        if counts:
            where = ", ".join(f"{count} of {domain}" for domain, count in counts.items())
            self.context.note(
                f"{sum(counts.values())} of {len(cells)} masks look doubtful ({where}): the backbone predicts an "
                f"intersection over union below {DOUBTFUL:g} for them; `cellfeat extract` writes it as mask_quality"
            )

    def _fill(
        self,
        store: Store,
        digests: Sequence[str],
        batches: Iterator[np.ndarray],
        encoder: BatchEncoder,
        columns: Sequence[str],
    ) -> None:
        """Encode batches and append them, a version every few batches, while the next ones are computed."""
        with self.context.progress(len(digests), "encoding images") as bar, Writer(store, digests, encoder) as writer:
            for batch in batches:
                writer.put(encoder.compute(batch, columns))
                bar.advance(len(batch))
        store.compact()
        if writer.empty:
            self.context.note(
                f"{writer.empty} of {len(digests)} images have an empty mask: there the whole image is the cell"
            )


class Writer:
    """Lands batches and appends them to a store, in order, in a thread of its own; two batches wait at most.

    What goes wrong there is raised by the next `put`, or at the end. What was landed before is written in any case.
    """

    def __init__(self, store: Store, digests: Sequence[str], encoder: BatchEncoder) -> None:
        self.empty = 0  # images whose mask has no pixel
        self._store, self._digests, self._encoder = store, digests, encoder
        self._landed: list[dict[str, np.ndarray]] = []
        self._rows = self._written = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._under_way: deque[Future[None]] = deque()

    def put(self, done: Computed) -> None:
        self._under_way.append(self._pool.submit(self._take, done))
        while len(self._under_way) > BATCHES_AHEAD:
            self._under_way.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            while self._under_way:
                self._under_way.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._append()

    def _take(self, done: Computed) -> None:
        values = self._encoder.land(done)
        self.empty += int(values.pop("empty").sum())
        self._landed.append(values)
        self._rows += done.count
        if self._rows >= ROWS_PER_VERSION:
            self._append()

    def _append(self) -> None:
        if not self._landed:
            return
        values = {name: np.concatenate([item[name] for item in self._landed]) for name in self._landed[0]}
        digests = self._digests[self._written : self._written + self._rows]
        self._landed, self._rows, self._written = [], 0, self._written + self._rows
        self._store.append(digests, values)


def _with_small(columns: Sequence[str]) -> tuple[str, ...]:
    """What costs next to nothing is kept beside what was asked for, so that the next method need not encode again."""
    return tuple(columns) if set(columns) == {"image"} else tuple(dict.fromkeys((*columns, "pooled")))


def _stored(store: Store, columns: Sequence[str], digests: Sequence[str]) -> dict[str, Column]:
    """The wanted columns, and the masks' quality where it is known of all of them."""
    known = bool(digests) and set(columns) != {"image"} and not store.missing([QUALITY], digests)
    return {name: store.column(name, digests) for name in (*columns, *([QUALITY] if known else []))}


def doubtful_masks(cells: Cells) -> dict[str, int] | None:
    """{domain: masks whose predicted quality is below `DOUBTFUL`}, only domains that have any; None: not known."""
    if QUALITY not in cells.columns:
        return None
    names, counts = np.unique(cells.domain[cells.quality < DOUBTFUL], return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _check(columns: Sequence[str]) -> None:
    wrong = sorted(set(columns) - set(COLUMNS))
    if wrong:
        raise CellfeatError(f"there is no column {', '.join(wrong)} to read; a method may read {', '.join(COLUMNS)}")


def _decoded(
    paths: Sequence[Any], batch: int, size: int, interpolation: str, ahead: int = BATCHES_AHEAD
) -> Iterator[np.ndarray]:
    """(B, 3, S, S) uint8 RGB batches in order; files are read a few batches ahead and decoded `ahead` batches ahead."""

    def decode(path: Any, data: Future[bytes]) -> np.ndarray:
        pixels = images.read_rgb(data.result(), name=str(path))
        return images.resize(pixels, size, interpolation).transpose(2, 0, 1)

    reading: deque[list[Future[bytes]]] = deque()
    decoding: deque[list[Future[np.ndarray]]] = deque()
    chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    with (
        ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode") as decoders,
    ):
        try:
            for number in range(len(chunks) + BATCHES_AHEAD + ahead):
                if number < len(chunks):
                    reading.append([readers.submit(images.read_bytes, path) for path in chunks[number]])
                if 0 <= number - BATCHES_AHEAD < len(chunks):
                    files = zip(chunks[number - BATCHES_AHEAD], reading.popleft(), strict=True)
                    decoding.append([decoders.submit(decode, path, data) for path, data in files])
                if number - BATCHES_AHEAD >= ahead:
                    yield np.stack([future.result() for future in decoding.popleft()])
        finally:
            for pool in (readers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)
