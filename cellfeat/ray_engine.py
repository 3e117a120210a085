"""Encoding on Ray Data: the images of a data set stream through reading tasks and encoder actors into the store.

Ray's blocks are groups of images (`cellfeat.ray_workers`). Actors write fragments, which nobody sees; this process, the
driver, gets their few lines of metadata and makes them part of the store, a version every so many rows or seconds. So
a worker that dies leaves files that are never read, and a driver that dies leaves whole rows, from which the next run
goes on, with Ray or without.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import datasets, plugin_choice
from cellfeat.batch_size import usual_batch
from cellfeat.datasets import Dataset
from cellfeat.decode import ImageError
from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder, with_small
from cellfeat.known_files import KnownFiles
from cellfeat.ray_cluster import Cluster
from cellfeat.ray_workers import KEY, Encoding, Found, Item, Job, Reader
from cellfeat.recipe import Recipe
from cellfeat.scan import ImageFacts, refuse_or_skip
from cellfeat.store import Store, cache_folder
from cellfeat.workplace import Workplace, listed, make_encoder

GROUP_IMAGES = 256  # at most, or one batch
GROUP_BYTES = 64 << 20  # of frames: a block must be small beside Ray's object store
GROUPS_PER_ENCODER = 8  # at least, so that encoders finish together and progress is seen
ROWS_PER_VERSION, SECONDS_PER_VERSION = 8192, 15.0  # what a killed driver can cost
READER_CPUS = 0.25  # a share that no encoder asks for, so that Ray never joins both in one process
VARIABLES = ("CELLFEAT_CACHE", "CELLFEAT_OFFLINE", *plugin_choice.VARIABLES)


def encoded(
    recipe: Recipe, columns: Sequence[str], work: Workplace, seed: int, address: str | None, encoders: int | None
) -> tuple[Encoder, Dataset]:
    """The recipe's encoder, and its data set, checked, with the columns of all its images in the store.

    address: of a cluster, as Ray writes it; None starts Ray on this machine. encoders: actors; None as many as there
    are GPUs, or CPUs for the threads of each.

    Raises: CellfeatError as `load_dataset` and `Encoder.encode` do, for a cluster that cannot be reached, and for
    workers that cannot encode as this process would.
    """
    with Cluster(address).joined() as cluster:
        dataset = listed(recipe.dataset, work)
        device = _device(work.device, cluster.gpus())
        here = replace(work, device="cpu") if device == "cuda" else work  # the driver's machine may have no GPU
        encoder = _described(make_encoder(recipe, here, here.context(seed, "extract")), device)
        while True:
            job = _job(recipe, replace(work, device=device), seed, encoder, with_small(columns))
            filling = _Filling(dataset, Store(encoder.root, job.description), columns, work, KnownFiles(_notes()))
            try:
                return encoder, filling.run(_Stream(job, cluster, encoders))
            except _OutOfMemory as error:  # what follows is another store, as in the local engine
                work.reporter.note(encoder.batch_size.halve(job.description["batch"], error))


class _OutOfMemory(Exception):
    """A worker's memory was too small for a batch."""


def _device(asked: str, gpus: int) -> str:
    """The kind of device of every encoder; Ray says which GPU each has to itself."""
    if asked.startswith("cuda") and not gpus:
        raise CellfeatError(f"--device {asked}: Ray has no GPU here; leave --device out to encode on CPUs")
    return "cuda" if gpus and (asked == "auto" or asked.startswith("cuda")) else asked


def _notes() -> Path:
    return cache_folder() / "files.sqlite"


def _described(encoder: Encoder, device: str) -> Encoder:
    """The encoder with the identity of one on the workers' kind of device, which the driver's machine may lack."""
    import torch

    if device != "cuda":
        return encoder
    batch = encoder.batch or usual_batch(torch.device(device), encoder.backbone.image_size)
    way = {name: value for name, value in encoder.way.items() if name != "instructions"}  # of this processor
    return replace(encoder, way={**way, "device": device}, batch=batch)


def _job(recipe: Recipe, work: Workplace, seed: int, encoder: Encoder, columns: tuple[str, ...]) -> Job:
    return Job(
        recipe=recipe.as_dict(),
        seed=seed,
        device=work.device,
        precision=work.precision,
        compile=work.compile,
        description=json.loads(json.dumps(encoder.description)),
        way=json.loads(json.dumps(dict(encoder.way))),
        maps=encoder.maps,
        root=str(Path(encoder.root).absolute()),
        columns=columns,
        environment=_environment(),
    )


def _environment() -> dict[str, str]:
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return given | {"CELLFEAT_CACHE": str(cache_folder().absolute())}


@dataclass
class _Filling:
    """One data set's way into a store: what is known of its rows, and what waits to become part of a version."""

    dataset: Dataset
    store: Store
    columns: Sequence[str]
    work: Workplace
    known: KnownFiles
    stamps: dict[int, tuple[str | None, str | None]] = field(default_factory=dict)  # of image and mask, before reading
    found: dict[int, Found] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    empty: int = 0

    def run(self, stream: _Stream) -> Dataset:
        present = self._present()
        rows = self._unread(present)
        self.stamps.update(self._stamps(rows))
        try:
            if rows:
                # Closed while Ray still runs: its own clearing up would start another Ray after the end of this one.
                with contextlib.closing(stream.results(_items(self.dataset, rows), _keys(present))) as results:
                    self._follow(results, len(rows))
        finally:
            self._commit()  # also what was done before an error or an interruption
        if self.empty:
            self.work.reporter.note(
                f"{self.empty} of {self.done} images have an empty mask: there the whole image is the cell"
            )
        self.store.compact()
        return self._settled()

    def _follow(self, results: Iterator[dict[str, Any]], total: int) -> None:
        began = time.monotonic()
        with self.work.reporter.progress(total, "encoding images") as bar:
            for result in results:
                self._take(result)
                bar.advance(len(result["found"]))
                rows = sum(len(one["digests"]) for one in self.waiting)
                if rows >= ROWS_PER_VERSION or time.monotonic() - began > SECONDS_PER_VERSION:
                    self._commit()
                    began = time.monotonic()

    def _take(self, result: dict[str, Any]) -> None:
        """Keep a group's outcome. Raises: CellfeatError for what a worker refused, and for a bad image."""
        for note in result["notes"]:
            self.work.reporter.note(note)
        self.waiting.append(result)
        self.done += len(result["digests"])
        self.empty += result["empty"]
        for values in result["found"]:
            row, reason, image, mask = values
            self.found[row] = Found(row, reason, image and ImageFacts(*image), mask and ImageFacts(*mask))
        if "memory" in result:
            raise _OutOfMemory(result["memory"])
        if "error" in result:
            raise CellfeatError(result["error"])
        if not self.work.skip_bad:
            bad = sorted(row for row, *_ in result["found"] if self.found[row].reason)
            refuse_or_skip([self._skipped(row) for row in bad], False, "files")

    def _skipped(self, row: int) -> datasets.Skipped:
        data = self.dataset
        return datasets.Skipped(str(data.id[row]), str(data.path[row]), str(self.found[row].reason))

    def _commit(self) -> None:
        """A version of each column with what was written since the last one, quality first as in `encode_batch`."""
        waiting, self.waiting = self.waiting, []
        for name in next((list(one["written"]) for one in waiting if one["written"]), []):
            self.store.adopt(name, [(one["digests"], one["written"][name]) for one in waiting if one["written"]])
        self._remember([values[0] for one in waiting for values in one["found"]])

    def _present(self) -> set[str]:
        """Digests of which the store has every wanted column."""
        have = [self.store.rows(column).keys() for column in self.columns]
        return set(have[0]).intersection(*have[1:])

    def _unread(self, present: set[str]) -> list[int]:
        """The rows that must be read; of the others both file and features are known, and kept in `found`."""
        data = self.dataset
        images = self._recalled(data.path)
        masks = self._recalled(data.mask_path or (None,) * len(data), True)
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            has_mask = data.mask_path is not None and data.mask_path[row] is not None
            if image is None or image.sha256 not in present or (has_mask and mask is None):
                continue
            if datasets.fault(data.path[row], datasets.recorded(data, row), image, mask) is None:
                self.found[row] = Found(row, None, image, mask)
        return [row for row in range(len(data)) if row not in self.found]

    def _recalled(self, paths: Sequence[Path | str | None], mask: bool = False) -> list[ImageFacts | None]:
        """What earlier runs found in these files; None where they are not known, or there is none."""
        named = [(row, path) for row, path in enumerate(paths) if path is not None]
        facts: list[ImageFacts | None] = [None] * len(paths)
        for (row, _), fact in zip(named, self.known.recall([path for _, path in named], mask), strict=True):
            facts[row] = fact
        return facts

    def _stamps(self, rows: Sequence[int]) -> dict[int, tuple[str | None, str | None]]:
        data = self.dataset
        masks = data.mask_path or (None,) * len(data)
        images = self.known.stamps([data.path[row] for row in rows])
        return {
            row: (image, None if (mask := masks[row]) is None else self.known.stamps([mask])[0])
            for row, image in zip(rows, images, strict=True)
        }

    def _remember(self, rows: Sequence[int]) -> None:
        data, masks = self.dataset, self.dataset.mask_path
        good = [(row, self.found[row].image, self.found[row].mask) for row in rows]
        self.known.remember([(data.path[row], self.stamps[row][0], image) for row, image, _ in good if image])
        named = [(masks[row], self.stamps[row][1], mask) for row, _, mask in good if masks and mask]
        self.known.remember([(path, stamp, mask) for path, stamp, mask in named if path is not None], True)

    def _settled(self) -> Dataset:
        found = [self.found[row] for row in range(len(self.dataset))]
        images = [one.image or ImageError(one.reason or "") for one in found]
        return datasets.settled(self.dataset, images, [one.mask for one in found], self.work.skip_bad)


def _items(dataset: Dataset, rows: Sequence[int]) -> list[Item]:
    masks = dataset.mask_path or (None,) * len(dataset)

    def item(row: int, path: Path | str, mask: Path | str | None) -> Item:
        place = None if mask is None else _absolute(mask)
        shown = None if mask is None else str(mask)
        return Item(row, _absolute(path), str(path), place, shown, datasets.recorded(dataset, row))

    return [item(row, dataset.path[row], masks[row]) for row in rows]


def _absolute(path: Path | str) -> str:
    return path if isinstance(path, str) else str(path.absolute())


def _keys(digests: set[str]) -> np.ndarray | None:
    return np.sort(np.array([*digests], dtype=f"S{KEY}")) if digests else None


@dataclass(frozen=True)
class _Stream:
    """Ray's part: groups of items in, a dictionary per group out, in the order in which they are done."""

    job: Job
    cluster: Cluster
    encoders: int | None

    def results(self, items: Sequence[Item], present: np.ndarray | None) -> Generator[dict[str, Any], None, None]:
        ray, data = self.cluster.ray, self.cluster.data
        threads, on_gpu = self.job.way["threads"], self.job.device == "cuda"
        count = self.encoders or self.cluster.encoders(threads, on_gpu)
        groups = self._groups(items, count)
        size, interpolation = self.job.way["frame"]
        reader = Reader(size, interpolation, None if present is None else ray.put(present))
        needs = {"num_gpus": 1} if on_gpu else {"num_cpus": self.cluster.encoder_cpus(threads, READER_CPUS)}
        stream = data.from_items([{"group": json.dumps(group)} for group in groups], override_num_blocks=len(groups))
        stream = stream.map_batches(
            reader, batch_size=None, batch_format="pyarrow", num_cpus=1 if on_gpu else READER_CPUS
        ).map_batches(
            Encoding,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(self.job,),
            compute=data.ActorPoolStrategy(size=min(count, len(groups))),
            **needs,
        )
        tables = iter(stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with contextlib.closing(self.cluster.explained(tables)) as explained:
            for table in explained:
                for text in table.column("result").to_pylist():
                    yield json.loads(text)

    def _groups(self, items: Sequence[Item], encoders: int) -> list[Sequence[Item]]:
        """Groups of whole batches: large enough for few fragments, small enough for memory and for even shares."""
        batch, size = self.job.description["batch"], self.job.way["frame"][0]
        most = min(GROUP_IMAGES, GROUP_BYTES // (3 * size * size)) // batch  # or one batch, where that is more
        even = math.ceil(len(items) / (batch * encoders * GROUPS_PER_ENCODER))
        rows = batch * max(1, min(most, even))
        return [items[start : start + rows] for start in range(0, len(items), rows)]
