"""Whether new cells look like those that a pipeline learnt from: features, light, stain, detail and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import reference_files
from cellfeat.batch_shift import LEAST_SCALE, Batch, Learnt, middle, spread
from cellfeat.console import SilentReporter
from cellfeat.datasets import Dataset
from cellfeat.decode import read_mask
from cellfeat.extract import Encoder
from cellfeat.feature_distance import FeatureCloud
from cellfeat.image_statistics import STATISTICS, diameter_share, reader, statistics_of
from cellfeat.novelty_remarks import DETAIL, LIGHT, STAIN, Remedies, remarks
from cellfeat.sampling import balanced
from cellfeat.types import Cells

PER_LABORATORY, AT_MOST = 400, 2_400  # cells that are looked at
MASKS = 48  # per laboratory, where masks are encoded for the size alone
FOLDS = 5
LIMIT = 0.99  # of held-out training cells lie within it
LEAST_Z = 3.0  # robust deviations that a statistic may be off, however steady the training cells are
GROUPS = {"light": LIGHT, "stain": (*STAIN, "contrast"), "detail": DETAIL, "size": ("cell_share",)}
COMPONENTS = ("features", *GROUPS)
ENCODED = ("pooled", "mask")
READS = ("pooled", "map", "mask", "crop")  # columns that come out of the backbone's pass over the photographs


@dataclass(frozen=True)
class Novelty:
    """score: (N,) float, larger is stranger, 1 is the limit. novel: (N,) bool, beyond 99 % of the held-out training
    cells. remarks: plain sentences about the whole batch: what differs, and what may help; none where nothing does.
    parts: {component: (N,) float}, how far each image is by features, light, stain, detail and size alone, 1 the limit.
    """

    score: np.ndarray
    novel: np.ndarray
    remarks: tuple[str, ...] = ()
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """statistics: (n, 12) as `image_statistics`. pooled: (n, D) features before any alignment, or None."""

    statistics: np.ndarray
    pooled: np.ndarray | None

    def __getitem__(self, rows: np.ndarray) -> Measured:
        return Measured(self.statistics[rows], None if self.pooled is None else self.pooled[rows])


@dataclass(frozen=True)
class Typical:
    """middle, scale: (12,) medians and robust deviations of the statistics. cloud: of the features."""

    middle: np.ndarray
    scale: np.ndarray
    cloud: FeatureCloud | None

    @classmethod
    def fit(cls, cells: Measured) -> Typical:
        return cls(
            middle(cells.statistics),
            np.fmax(spread(cells.statistics), LEAST_SCALE),
            None if cells.pooled is None else FeatureCloud.fit(cells.pooled),
        )

    def distances(self, cells: Measured) -> np.ndarray:
        """(n, 5), by `COMPONENTS`; 0 for what is not known of a cell."""
        off = np.nan_to_num((cells.statistics - self.middle) / self.scale)
        blocks = STATISTICS.index("blockiness")
        off[:, blocks] = np.clip(off[:, blocks], 0, None)  # less compression than was learnt is no fault
        off = np.abs(off)
        parts = [off[:, [STATISTICS.index(name) for name in names]].max(axis=1) for names in GROUPS.values()]
        known = self.cloud is not None and cells.pooled is not None
        features = self.cloud.distances(cells.pooled) if known else np.zeros(len(off))  # type: ignore[union-attr, arg-type]
        return np.stack([features, *parts], axis=1)


@dataclass(frozen=True)
class Reference:
    """What the cells of a pipeline's training laboratories look like: summaries, of which no cell can be told.

    cell_share: typical diameter of a cell as a share of its image's side; None where no masks told it. encodes: whether
    features and masks are compared, or images alone. limits: (5,) distance of each component that 99 % of held-out
    training cells do not pass; threshold: the same of the largest ratio to them. false_alarm: share of cells like the
    training ones that are called novel.
    """

    cell_share: float | None = None
    encodes: bool = False
    typical: Typical | None = None
    learnt: Learnt | None = None
    limits: np.ndarray | None = None
    threshold: float = 1.0
    false_alarm: float = 1 - LIMIT

    @classmethod
    def learn(
        cls, dataset: Dataset, cells: Cells, encoder: Encoder, seed: int, uses_backbone: bool = True
    ) -> Reference:
        """From cells that the pipeline was fitted on, with their labels or without; labels are not looked at.

        Distances are calibrated on cells that were held out, whole groups of them, so that each patient or slide counts
        as a new one. uses_backbone: False where nothing may be encoded.
        """
        rows = balanced(dataset.domain, AT_MOST, seed, PER_LABORATORY)
        encodes = bool(set(READS) & set(cells.columns))
        dataset, domain = dataset.select(rows), dataset.domain[rows]
        found = measured(dataset, encoder if encodes else None)
        null = _held_out(found, dataset.group, seed)
        typical = Typical.fit(found)
        limits, _ = _quantile(null)
        limits = np.maximum(limits, [1e-9, *[LEAST_Z] * len(GROUPS)])
        threshold, inside = _quantile((null / limits).max(axis=1))
        return cls(
            _cell_share(dataset, found, encoder if uses_backbone and not encodes else None, seed),
            encodes,
            typical,
            Learnt.of(found.statistics, null[:, 0], domain),
            limits,
            max(float(threshold), 1e-9),
            1 - inside,
        )

    def save(self, folder: Path) -> None:
        """Write what `read` needs into a pipeline's folder."""
        if self.typical is None or self.learnt is None or self.limits is None:
            return
        typical, learnt = self.typical, self.learnt
        arrays = {"middle": typical.middle, "scale": typical.scale, "limits": self.limits, **learnt.arrays()}
        arrays |= {} if typical.cloud is None else typical.cloud.arrays()
        about: dict[str, Any] = {"cell_share": self.cell_share, "encodes": self.encodes}
        about |= {"features": typical.cloud is not None, "threshold": self.threshold}
        about |= {"false_alarm": self.false_alarm, "domains": list(learnt.domains)}
        reference_files.write(folder, arrays, about)

    @classmethod
    def read(cls, folder: Path) -> Reference | None:
        """None for a pipeline that was saved without. Raises: CellfeatError for damaged files."""
        with reference_files.opened(folder) as found:
            if found is None:
                return None
            arrays, about = found
            cloud = FeatureCloud.of_arrays(arrays) if about["features"] else None
            typical = Typical(arrays["middle"], arrays["scale"], cloud)
            learnt = Learnt.of_arrays(arrays, about["domains"])
            share, figures = about["cell_share"], (float(about["threshold"]), float(about["false_alarm"]))
            share = None if share is None else float(share)
            return cls(share, bool(about["encodes"]), typical, learnt, arrays["limits"], *figures)

    def judge(self, dataset: Dataset, cells: Cells, encoder: Encoder, remedies: Remedies | None = None) -> Novelty:
        """How far these cells are from the training laboratories'. remedies: what the remarks may advise."""
        return self.judged(measured(dataset, encoder if self.encodes else None), remedies or Remedies())

    def judged(self, cells: Measured, remedies: Remedies) -> Novelty:
        """The same of cells that were measured already."""
        if self.typical is None or self.learnt is None or self.limits is None:
            count = len(cells.statistics)
            return Novelty(np.zeros(count), np.zeros(count, bool))
        distances = self.typical.distances(cells)
        ratios = distances / self.limits
        score = ratios.max(axis=1) / self.threshold
        novel = score > 1
        batch = Batch(cells.statistics, distances[:, 0], int(novel.sum()), self.false_alarm)
        said = remarks(batch, self.learnt, remedies) if len(score) else ()
        return Novelty(score, novel, said, dict(zip(COMPONENTS, ratios.T, strict=True)))


def measured(dataset: Dataset, encoder: Encoder | None) -> Measured:
    """Statistics of the images as they were decoded; with an encoder also features, and the masks that it gives."""
    cells = None if encoder is None else _quiet(encoder).encode(dataset, ENCODED)
    return measured_images(len(dataset), reader(dataset.path), cells)


def measured_images(count: int, image: Callable[[int], np.ndarray], cells: Cells | None) -> Measured:
    """The same of images that are read by their numbers, and of cells with the columns `ENCODED`, or None."""
    if cells is None:
        return Measured(statistics_of(count, image, None), None)
    return Measured(statistics_of(count, image, cells.column("mask")), cells.read("pooled"))


def _held_out(cells: Measured, group: np.ndarray, seed: int) -> np.ndarray:
    """(n, 5) distances of every cell from those of the other folds."""
    names, place = np.unique(group, return_inverse=True)
    folds = min(FOLDS, len(names))
    if folds < 2:
        return Typical.fit(cells).distances(cells)
    fold = (np.random.default_rng(seed).permutation(len(names)) % folds)[place]
    found = np.zeros((len(group), len(COMPONENTS)))
    for number in range(folds):
        found[fold == number] = Typical.fit(cells[fold != number]).distances(cells[fold == number])
    return found


def _quantile(values: np.ndarray) -> tuple[np.ndarray, float]:
    """The value that a share of new cells, about `LIMIT`, does not pass, and that share; of few cells the largest."""
    count = len(values)
    place = min(count, int(np.ceil(LIMIT * (count + 1))))
    return np.sort(values, axis=0)[place - 1], place / (count + 1)


def _cell_share(dataset: Dataset, found: Measured, encoder: Encoder | None, seed: int) -> float | None:
    """From the masks at hand, or those of a few cells that the encoder is asked for, or the data set's own."""
    shares = found.statistics[:, STATISTICS.index("cell_share")]
    if not np.isfinite(shares).any():
        few = dataset.select(balanced(dataset.domain, AT_MOST, seed, MASKS))
        masks = [] if encoder is None else list(_quiet(encoder).encode(few, ("mask",)).read("mask"))
        shares = np.array([diameter_share(mask) for mask in masks])
        if not np.isfinite(shares).any():
            shares = np.array([diameter_share(read_mask(path)) for path in few.mask_path or () if path is not None])
    return float(np.nanmedian(shares)) if np.isfinite(shares).any() else None


def _quiet(encoder: Encoder) -> Encoder:
    return replace(encoder, context=replace(encoder.context, reporter=SilentReporter()))
