"""Images to encoded cells: decode and resize in threads, encode in batches of one shape, write as it goes, resume."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat import images
from cellfeat.datasets import Dataset
from cellfeat.distributed import main_first
from cellfeat.errors import CellfeatError
from cellfeat.slots import Backbone, Context, Segmenter
from cellfeat.store import COLUMNS, QUALITY, Store
from cellfeat.types import Cells, Column, Features

if TYPE_CHECKING:
    import torch

BATCH = 16
BATCHES_AHEAD = 2
ROWS_PER_VERSION = 256  # what a kill can cost: at most so many rows are encoded again
DOUBTFUL = 0.8  # of the predicted intersection over union: below it a mask should be looked at


@dataclass(frozen=True)
class Encoder:
    """A backbone, perhaps with a segmenter of its own, and the store of what they encoded."""

    backbone: Backbone
    segmenter: Segmenter | None
    description: Mapping[str, Any]  # of this way of encoding; the store's identity
    root: Path  # of all stores
    context: Context

    def encode(self, dataset: Dataset, columns: Sequence[str]) -> Cells:
        """The data set's cells with the wanted columns, encoding only images that the store does not hold yet."""
        _check(columns)
        if dataset.image_digest is None:
            raise ValueError("the data set's images were not checked yet, see datasets.check_images")
        digests = dataset.image_digest.tolist()
        path_of = dict(zip(digests, dataset.path, strict=True))
        with main_first(self.context.device):
            store = Store(self.root, self.description)
            missing = store.missing(columns, digests)
            if missing:
                size, interpolation = self.backbone.image_size, self.backbone.interpolation
                batches = _decoded([path_of[digest] for digest in missing], size, interpolation)
                self._fill(store, missing, batches, _with_small(columns))
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
        chunks = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        digests = [hashlib.sha256(one.tobytes()).hexdigest() for chunk in chunks for one in image.read(chunk)]
        row_of = dict(zip(digests, rows, strict=True))
        store = Store(folder, self.description)
        missing = store.missing(columns, digests)
        wanted = np.array([row_of[digest] for digest in missing], dtype=int)
        batches = (image.read(wanted[start : start + BATCH]) for start in range(0, len(wanted), BATCH))
        self._fill(store, missing, batches, columns)
        return _stored(store, columns, digests)

    def _tell_doubtful(self, cells: Cells) -> None:
        counts = doubtful_masks(cells)
        if counts:
            where = ", ".join(f"{count} of {domain}" for domain, count in counts.items())
            self.context.note(
                f"{sum(counts.values())} of {len(cells)} masks look doubtful ({where}): the backbone predicts an "
                f"intersection over union below {DOUBTFUL:g} for them; `cellfeat extract` writes it as mask_quality"
            )

    def _fill(
        self, store: Store, digests: Sequence[str], batches: Iterable[np.ndarray], columns: Sequence[str]
    ) -> None:
        """Encode batches of at most `BATCH` images and append them, a version every few batches."""
        waiting: list[dict[str, np.ndarray]] = []
        done = empty = 0
        with self.context.progress(len(digests), "encoding images") as bar:
            for batch in batches:
                waiting.append(encode_batch(batch, self.backbone, self.segmenter, columns, self.context))
                done += len(batch)
                empty += int(waiting[-1].pop("empty").sum())
                bar.advance(len(batch))
                rows = sum(len(item[columns[0]]) for item in waiting)
                if rows >= ROWS_PER_VERSION or done == len(digests):
                    values = {name: np.concatenate([item[name] for item in waiting]) for name in waiting[0]}
                    store.append(digests[done - rows : done], values)
                    waiting.clear()
        if empty:
            self.context.note(f"{empty} of {done} images have an empty mask: there the whole image is the cell")


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


def _decoded(paths: Sequence[Any], size: int, interpolation: str) -> Iterator[np.ndarray]:
    """(B, 3, S, S) uint8 RGB batches in order, decoded a few batches ahead in threads."""

    def load(path: Any) -> np.ndarray:
        return images.resize(images.read_rgb(path), size, interpolation).transpose(2, 0, 1)

    ahead: deque[list[Future]] = deque()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        try:
            for start in range(0, len(paths), BATCH):
                ahead.append([pool.submit(load, path) for path in paths[start : start + BATCH]])
                if len(ahead) > BATCHES_AHEAD:
                    yield np.stack([future.result() for future in ahead.popleft()])
            while ahead:
                yield np.stack([future.result() for future in ahead.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def encode_batch(
    batch: np.ndarray,
    backbone: Backbone,
    segmenter: Segmenter | None,
    columns: Sequence[str],
    context: Context,
) -> dict[str, np.ndarray]:
    """The columns of (B, 3, S, S) uint8 RGB images, plus `empty` (B,) bool: cells whose mask has no pixel; and before
    all others the quality (B,) float32 of the backbone's own masks, where it tells it.

    The forward pass always has `BATCH` images: a short batch is padded with its last image, so that a cell's features
    do not depend on how many came with it.
    """
    import torch

    count = len(batch)
    if set(columns) == {"image"}:  # an end-to-end method needs no backbone
        return {"image": batch, "empty": np.zeros(count, dtype=bool)}
    padded = np.concatenate([batch, np.repeat(batch[-1:], BATCH - count, axis=0)]) if count < BATCH else batch
    # Frames that were stacked from decoded images lie in memory channel by channel last, padded ones do not, and the
    # order decides by which sums a network is computed.
    tensor = torch.from_numpy(np.ascontiguousarray(padded))
    with torch.inference_mode():
        features = backbone.encode(tensor)
        if segmenter is not None and features.embedding.dim() == 2 and not {"mask", "crop"} & set(columns):
            raise CellfeatError(
                "this backbone gives one vector per image, which a --segmenter cannot change; leave --segmenter out, "
                "or choose a backbone with a token map"
            )
        mask = features.mask if segmenter is None else segmenter.segment(tensor)
        values = _columns(tensor, features, mask, segmenter is not None, columns, context)
        if features.quality is not None and segmenter is None:
            # Written first, so that whoever finds any other column of an image finds this one too.
            values = {QUALITY: features.quality.float().cpu().numpy(), **values}
    empty = torch.zeros(len(padded), dtype=torch.bool) if mask is None else ~mask.flatten(1).any(1)
    return {name: value[:count] for name, value in values.items()} | {"empty": empty.cpu().numpy()[:count]}


def _columns(
    tensor: torch.Tensor,
    features: Features,
    mask: torch.Tensor | None,
    segmented: bool,
    columns: Sequence[str],
    context: Context,
) -> dict[str, np.ndarray]:
    is_map = features.embedding.dim() == 4
    if mask is None and is_map and {"pooled", "crop", "mask"} & set(columns):
        context.note("the backbone gives no mask and no --segmenter is named: the whole image is taken as the cell")
    values: dict[str, np.ndarray] = {}
    for name in columns:
        if name == "image":
            values[name] = tensor.numpy()
        elif name == "map":
            if not is_map:
                raise CellfeatError("the align method reads a token map, but this backbone gives one vector per image")
            values[name] = features.embedding.float().cpu().numpy()
        elif name == "pooled":
            if segmented and is_map and features.pooled is not None:
                context.note(
                    "with a --segmenter, features are the mean over its cell's tokens, not what the backbone pools"
                )
            values[name] = _pooled(features, mask, is_map, segmented).float().cpu().numpy()
        elif name == "mask":
            whole = np.ones((len(tensor), *tensor.shape[-2:]), dtype=bool)
            values[name] = whole if mask is None else mask.bool().cpu().numpy()
        elif name == "crop":
            values[name] = images.masked_crops(tensor.numpy(), None if mask is None else mask.bool().cpu().numpy())
    return values


def _pooled(features: Features, mask: torch.Tensor | None, is_map: bool, segmented: bool) -> torch.Tensor:
    """The backbone's own pooling, unless a separate segmenter says better where the cell is."""
    if not is_map:
        return features.embedding if features.pooled is None else features.pooled
    if features.pooled is not None and not segmented:
        return features.pooled
    return images.masked_mean(features.embedding, mask)
