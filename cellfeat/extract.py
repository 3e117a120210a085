"""Images to encoded cells: decode and resize in threads, encode in batches of one shape, write as it goes, resume."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import images
from cellfeat.batch_size import BatchSize, device_name, is_out_of_memory, usual_batch
from cellfeat.datasets import Dataset
from cellfeat.distributed import main_first
from cellfeat.encoding import BatchEncoder
from cellfeat.errors import CellfeatError
from cellfeat.slots import Backbone, Context, Segmenter
from cellfeat.store import COLUMNS, QUALITY, Store
from cellfeat.types import Cells, Column
from cellfeat.writing import BATCHES_AHEAD, Writer

READ_AT_ONCE = 16  # repainted images whose digests are taken at once
READERS = 8  # files read at once: a network drive answers many as fast as one
SMALL = ("pooled",)  # columns that cost next to nothing to keep
MASK = "mask"  # kept as bits, as small as features; who compares new cells with old ones needs both
PAINTED = "painted"  # beside the stores of files: those of images that a method wrote
REUSED = "images were encoded before"  # as a note says it
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
        return self._described(self.batch_size.value)

    def _described(self, batch: int) -> dict[str, Any]:
        maps = {} if self.maps == "float32" else {"maps": self.maps}
        return {**self.way, **maps, "batch": batch}

    @property
    def batch_size(self) -> BatchSize:
        """What was chosen for this way of encoding, on this kind of device."""
        wanted = self.batch or usual_batch(self.context.device, self.backbone.image_size)
        return BatchSize(self.root, {**self.way, "device": device_name(self.context.device)}, wanted)

    def encode(self, dataset: Dataset, columns: Sequence[str]) -> Cells:
        """The data set's cells with the wanted columns, encoding only images that the store does not hold yet."""
        _check(columns)
        digests = _digests(dataset)
        path_of = dict(zip(digests, dataset.path, strict=True))
        size, interpolation = self.backbone.image_size, self.backbone.interpolation

        def read(missing: list[str], batch: int) -> Iterator[np.ndarray]:
            # On a CPU, decoding beside the network would take its cores away, one thread waiting for the other.
            ahead = 0 if self.context.device.type == "cpu" else BATCHES_AHEAD
            files = [(path_of[digest], digest) for digest in missing]
            return decoded(files, batch, size, interpolation, ahead)

        with main_first(self.context.device):
            self._tell_reused(digests, columns)
            store = self._filled(self.root, digests, columns, with_small(columns, self.segmenter is None), read)
        return self._cells(store, dataset, columns)

    def stored(self, dataset: Dataset, columns: Sequence[str]) -> Cells:
        """The same of images that the store has; nothing is encoded.

        Raises: CellfeatError where any is missing.
        """
        return self._cells(Store(self.root, self.description), dataset, columns)

    def _cells(self, store: Store, dataset: Dataset, columns: Sequence[str]) -> Cells:
        cells = Cells(
            id=dataset.id,
            domain=dataset.domain,
            label=dataset.label,
            group=dataset.group,
            is_target=np.zeros(len(dataset), dtype=bool),
            columns=_stored(store, columns, _digests(dataset)),
        )
        self._tell_doubtful(cells)
        return cells

    def encode_images(self, image: Column, columns: Sequence[str], folder: Path) -> dict[str, Column]:
        """The columns of (N, 3, S, S) uint8 images that exist in no file, by the digest of their pixels.

        Small ones alone are kept for good, beside the stores of files: whoever paints the same pixels, another fold or
        another run, finds them. Larger ones go into a store inside `folder`, and with it.
        """
        _check(columns)
        root = self.root / PAINTED if set(columns) <= set(SMALL) else folder
        rows = np.arange(image.shape[0])
        chunks = [rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE)]
        digests = [hashlib.sha256(one.tobytes()).hexdigest() for chunk in chunks for one in image.read(chunk)]
        row_of = dict(zip(digests, rows, strict=True))

        def read(missing: list[str], batch: int) -> Iterator[np.ndarray]:
            wanted = np.array([row_of[digest] for digest in missing], dtype=int)
            return (image.read(wanted[start : start + batch]) for start in range(0, len(wanted), batch))

        return _stored(self._filled(root, digests, columns, columns, read), columns, digests)

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
            batch = self.batch_size.value  # looked up once: another process may halve it
            store = Store(root, self._described(batch))
            missing = store.missing(wanted, digests)
            if not missing:
                return store
            try:
                encoder = BatchEncoder(self.backbone, self.segmenter, self.context, batch, self.maps)
                self._fill(store, missing, read(missing, batch), encoder, columns)
                return store
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.context.note(self.batch_size.halve(batch, error))

    def _tell_reused(self, digests: Sequence[str], columns: Sequence[str]) -> None:
        store, images = Store(self.root, self.description), len(set(digests))
        reused = images - len(store.missing(columns, digests))
        if reused:
            self.context.note(f"{reused:,} of {images:,} {REUSED} (in {store.folder})")

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
        done = 0
        with self.context.progress(len(digests), "encoding images") as bar, Writer(store, encoder) as writer:
            for batch in batches:
                writer.put(digests[done : done + len(batch)], encoder.compute(batch, columns))
                done += len(batch)
                bar.advance(len(batch))
        store.compact()
        if writer.empty:
            self.context.note(
                f"{writer.empty} of {len(digests)} images have an empty mask: there the whole image is the cell"
            )


def with_small(columns: Sequence[str], own_masks: bool = True) -> tuple[str, ...]:
    """What costs next to nothing is kept beside what was asked for, so that the next method need not encode again.

    own_masks: the backbone's, which its pass over the images gives anyway; those of a segmenter cost another pass.
    """
    small = (*SMALL, MASK) if own_masks else SMALL
    return tuple(columns) if set(columns) == {"image"} else tuple(dict.fromkeys((*columns, *small)))


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


def _digests(dataset: Dataset) -> list[str]:
    if dataset.image_digest is None:
        raise ValueError("the data set's images were not checked yet, see datasets.check_images")
    return dataset.image_digest.tolist()


def decoded(
    files: Sequence[tuple[Any, str]], batch: int, size: int, interpolation: str, ahead: int = BATCHES_AHEAD
) -> Iterator[np.ndarray]:
    """(B, 3, S, S) uint8 RGB batches of files, (path, digest), in order; read a few batches ahead, and decoded `ahead`.

    Raises: ImageError also for a file that has changed since its digest was taken: the store must not call it by that.
    """

    def decode(path: Any, digest: str, data: Future[bytes]) -> np.ndarray:
        if images.image_digest(data.result()) != digest:
            raise images.ImageError(f"{path}: it has changed while this command ran; start it again")
        pixels = images.read_rgb(data.result(), name=str(path))
        return images.resize(pixels, size, interpolation).transpose(2, 0, 1)

    reading: deque[list[Future[bytes]]] = deque()
    decoding: deque[list[Future[np.ndarray]]] = deque()
    chunks = [files[start : start + batch] for start in range(0, len(files), batch)]
    with (
        ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode") as decoders,
    ):
        try:
            for number in range(len(chunks) + BATCHES_AHEAD + ahead):
                if number < len(chunks):
                    reading.append([readers.submit(images.read_bytes, path) for path, _ in chunks[number]])
                if 0 <= number - BATCHES_AHEAD < len(chunks):
                    wanted = zip(chunks[number - BATCHES_AHEAD], reading.popleft(), strict=True)
                    decoding.append([decoders.submit(decode, *file, data) for file, data in wanted])
                if number - BATCHES_AHEAD >= ahead:
                    yield np.stack([future.result() for future in decoding.popleft()])
        finally:
            for pool in (readers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)
