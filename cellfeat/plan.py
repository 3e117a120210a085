"""What a run would do, without doing it: fits, images to be encoded, weights to be fetched, time, memory and disk.

Written is nothing but what decoding the images teaches the cache (and the demo set, where no data are named). Every
estimate says what it rests on; what nothing is known of is said to be not known.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cellfeat.datasets import Dataset
from cellfeat.encoding import BatchEncoder
from cellfeat.errors import CellfeatError
from cellfeat.evaluate import Evaluator, check_cells
from cellfeat.extract import Encoder, decoded, with_small
from cellfeat.pipeline import Pipeline, columns_read, resolve
from cellfeat.provenance import peak_memory
from cellfeat.recipe import Part, Recipe
from cellfeat.registry import Registry
from cellfeat.run import DEFAULT_CLASSIFIER
from cellfeat.slots import Context
from cellfeat.store import Store
from cellfeat.training import choose_device, choose_dtype
from cellfeat.types import Cells
from cellfeat.weights import NamedWeights, weights_status
from cellfeat.workplace import Workplace, load_dataset, make_encoder

PROBE_BATCHES = 3  # the first warms up and is not timed
DIGEST_BYTES = 64 + 4  # of each row of each column: the digest as text, and its offset


@dataclass(frozen=True)
class Probe:
    """A few batches that were encoded for the sake of knowing: bytes of each column per image, and what it took."""

    images: int  # timed
    seconds: float  # per image
    row_bytes: dict[str, int]
    peak: float | None  # bytes of memory that the process held at most


@dataclass(frozen=True)
class Plan:
    """What a run would do. fits: of the chain of methods; pipelines: saved at the end; None: not known."""

    recipe: Recipe
    dataset: Dataset
    splits: int
    fits: int
    pipelines: int
    images: int  # distinct
    encoded: int | None = None  # of them, in the cache
    columns: tuple[str, ...] = ()
    probe: Probe | None = None
    to_fetch: tuple[NamedWeights, ...] = ()
    unknown: tuple[str, ...] = ()  # why something is not known

    @property
    def missing(self) -> int | None:
        """Images that would be encoded."""
        return None if self.encoded is None else self.images - self.encoded

    @property
    def store_bytes(self) -> int | None:
        """What encoding would add to the cache."""
        if self.missing == 0:
            return 0
        return None if self.probe is None or self.missing is None else self.missing * sum(self.probe.row_bytes.values())

    @property
    def encoding_seconds(self) -> float | None:
        """How long encoding would take."""
        if self.missing == 0:
            return 0.0
        return None if self.probe is None or self.missing is None else self.missing * self.probe.seconds


@dataclass
class Planner:
    """Makes the plan of one recipe in one workplace."""

    work: Workplace
    unknown: list[str] = field(default_factory=list)

    def __call__(self, recipe: Recipe) -> Plan:
        """Raises: CellfeatError for what a run would refuse before it opens an image, and for bad images."""
        recipe = resolve(recipe, self.work.registry)
        with tempfile.TemporaryDirectory() as scratch:
            context = self._context(recipe, Path(scratch))
            recipe = self._with_classifier(recipe, context)
            dataset = load_dataset(recipe.dataset, self.work)
            cells = _without_columns(dataset)
            check_cells(cells, recipe.protocol, context)
            counted = fits(Evaluator(recipe, self.work.registry, cells, dataset.classes, context))
            digests = list(dict.fromkeys(dataset.image_digest.tolist()))  # type: ignore[union-attr]
            wanted = columns_read(Pipeline.build(recipe, self.work.registry, (), context).aligners)
            fetch = to_fetch(recipe, self.work.registry)
            columns = with_small(wanted, recipe.segmenter is None)
            plan = Plan(recipe, dataset, *counted, len(digests), columns=columns, to_fetch=fetch)
            encoded, probe = self._looked_up(plan, wanted, digests, context)
            about = {"encoded": encoded, "probe": probe, "unknown": tuple(self.unknown)}
            return Plan(**{**vars(plan), **about})

    def _context(self, recipe: Recipe, scratch: Path) -> Context:
        """As `Workplace.context`, with a scratch folder that goes away."""
        import torch

        generator = torch.Generator().manual_seed(recipe.protocol.seeds[0])
        device, dtype = choose_device(self.work.device), choose_dtype(self.work.precision)
        return Context(device, dtype, generator, scratch, self.work.reporter, self.work.compile)

    def _with_classifier(self, recipe: Recipe, context: Context) -> Recipe:
        pipeline = Pipeline.build(recipe, self.work.registry, (), context)
        if recipe.classifier is None and not pipeline.has_own_head:
            added = recipe.model_copy(update={"classifier": Part(name=DEFAULT_CLASSIFIER)})
            return resolve(added, self.work.registry)
        return recipe

    def _looked_up(
        self, plan: Plan, wanted: Sequence[str], digests: Sequence[str], context: Context
    ) -> tuple[int | None, Probe | None]:
        """How many images the cache has, and what a probe says where it lacks any."""
        if plan.recipe.finetune is not None:
            self.unknown.append("the backbone is fine-tuned first (unless the cache has the adapter)")
            return None, None
        with _offline():
            try:
                encoder = make_encoder(plan.recipe, self.work, context)
                missing = _missing(encoder, wanted, digests)
                return len(digests) - len(missing), self._probed(encoder, plan, missing) if missing else None
            except CellfeatError:
                if not plan.to_fetch:
                    raise
        self.unknown.append("weights must be fetched first")
        return None, None  # what was encoded with weights that have been deleted since cannot be found either

    def _probed(self, encoder: Encoder, plan: Plan, missing: Sequence[str]) -> Probe:
        """Encode a few of the missing images, keeping nothing."""
        batch, context = encoder.batch_size.value, encoder.context
        path_of = dict(zip(plan.dataset.image_digest.tolist(), plan.dataset.path, strict=True))  # type: ignore[union-attr]
        files = [(path_of[digest], digest) for digest in missing[: PROBE_BATCHES * batch]]
        network = BatchEncoder(encoder.backbone, encoder.segmenter, context, batch, encoder.maps)
        ends, sizes, values = [time.monotonic()], [], {}
        with context.progress(len(files), "timing a few images") as bar, peak_memory(context.device) as peak:
            for images in decoded(files, batch, encoder.backbone.image_size, encoder.backbone.interpolation, 0):
                values = network.encode(images, plan.columns)
                ends.append(time.monotonic())
                sizes.append(len(images))
                bar.advance(len(images))
        values.pop("empty", None)
        # A padded batch takes as long as a full one; the first has built the network too.
        timed = slice(1, None) if len(sizes) > 1 else slice(None)
        seconds = np.diff(ends)[timed].sum() / sum(sizes[timed])
        return Probe(
            sum(sizes[timed]),
            float(seconds),
            {name: row_bytes(value) for name, value in values.items()},
            None if peak.memory is None else peak.memory * 1e6,
        )


def fits(evaluator: Evaluator) -> tuple[int, int, int]:
    """(splits, fits of the chain, pipelines saved) of a recipe's protocol."""
    protocol = evaluator.recipe.protocol
    splits = [(seed, split) for seed in protocol.seeds for split in evaluator.splits(seed)]
    first = [split for seed, split in splits if seed == protocol.seeds[0]]
    count = sum(evaluator.fits_of(split) for _, split in splits)
    return len(splits), count + (0 if evaluator.fits_once else len(first)), len(first)


def to_fetch(recipe: Recipe, registry: Registry) -> tuple[NamedWeights, ...]:
    """Named weights that the recipe's methods ask for and that are not on this machine."""
    found: dict[str, NamedWeights] = {}
    parts = [("backbone", recipe.backbone), ("segmenter", recipe.segmenter), *(("align", one) for one in recipe.align)]
    for slot, part in parts:
        named = {} if part is None else getattr(registry.find(slot, part.name).factory, "named_weights", {})
        asked = None if part is None else part.params.get("weights")
        absent = {row.name for row in weights_status(named) if row.path is None}
        for name in (asked, part.name if part is not None and asked != "random" else None):
            if name in absent:
                found[str(name)] = named[name]
    return tuple(found.values())


def row_bytes(values: np.ndarray) -> int:
    """What one row of a column takes in the store: masks are kept as bits."""
    width = int(np.prod(values.shape[1:], dtype=int))
    return (-(-width // 8) if values.dtype == np.bool_ else width * values.dtype.itemsize) + DIGEST_BYTES


def _missing(encoder: Encoder, wanted: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Images that the store lacks; a store that is not there yet is not begun."""
    folder = Store.folder_of(encoder.root, encoder.description)
    if not (folder / "store.json").is_file():
        return list(digests)
    return Store(encoder.root, encoder.description).missing(wanted, digests)


def _without_columns(dataset: Dataset) -> Cells:
    hidden = np.zeros(len(dataset), dtype=bool)
    return Cells(dataset.id, dataset.domain, dataset.label, dataset.group, hidden, {})


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is downloaded in the block."""
    before = os.environ.get("CELLFEAT_OFFLINE")
    os.environ["CELLFEAT_OFFLINE"] = "1"
    try:
        yield
    finally:
        del os.environ["CELLFEAT_OFFLINE"]
        if before is not None:
            os.environ["CELLFEAT_OFFLINE"] = before
