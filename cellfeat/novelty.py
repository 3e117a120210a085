"""Whether new cells look like those that a pipeline learnt from: features, light, stain, detail and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellfeat import images, reference_files
from cellfeat.batch_shift import LEAST_SCALE, Batch, Learnt, middle, spread
from cellfeat.console import SilentReporter
from cellfeat.datasets import Dataset
from cellfeat.extract import Encoder
from cellfeat.feature_distance import FeatureCloud
from cellfeat.image_statistics import STATISTICS, diameter_share, reader, statistics_of
from cellfeat.novelty_remarks import DETAIL, LIGHT, STAIN, Remedies, remarks
from cellfeat.sampling import balanced
from cellfeat.types import Cells
from cellfeat.typical_share import typical_share

PER_LABORATORY, AT_MOST = 400, 2_400  # cells that are looked at
FOLDS = 5
AS_NEW = 200  # groups that are judged by the limits of the others
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


class CutOut(NamedTuple):
    """Where images are from that were cut out of photographs. alone: (N,) bool, whole cells that touch no other; what
    is strange about the others need not be the laboratory. field: (N,) which photograph; its cells share one stain."""

    alone: np.ndarray
    field: np.ndarray


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

    cell_share: diameter of a typical cell as a share of its image's side, as `typical_share`; None where no masks told
    it. encodes: whether features and masks are compared, or images alone. limits: (5,) distance of each component that
    99 % of held-out training cells do not pass; threshold: the same of the largest ratio to them. false_alarm: share of
    cells like the training ones that are called novel.
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
        """From cells that the pipeline was fitted on; labels tell which are neutrophils, for `cell_share` alone.

        Distances are calibrated on cells that were held out, whole groups of them, so that each patient or slide counts
        as a new one. uses_backbone: False where nothing may be encoded.
        """
        rows = balanced(dataset.domain, AT_MOST, seed, PER_LABORATORY)
        encodes = bool(set(READS) & set(cells.columns))
        dataset, domain = dataset.select(rows), dataset.domain[rows]
        found, asked = measured(dataset, encoder if encodes else None), encoder if uses_backbone else None
        null = _held_out(found, dataset.group, seed)
        typical = Typical.fit(found)
        limits, threshold = _limits(null)
        return cls(
            typical_share(dataset, seed, _shares(dataset, found.statistics, None if encodes else asked)),
            encodes,
            typical,
            Learnt.of(found.statistics, null[:, 0], domain),
            limits,
            threshold,
            _false_alarm(null, dataset.group, seed),
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

    def judge(
        self,
        dataset: Dataset,
        cells: Cells,
        encoder: Encoder,
        remedies: Remedies | None = None,
        cut_out: CutOut | None = None,
    ) -> Novelty:
        """How far these cells are from the training laboratories'. remedies: what the remarks may advise. cut_out: of
        cells of whole photographs; their images are looked at in the size of the training ones, as what side they were
        cut out with says nothing."""
        side = None
        if cut_out is not None and self.typical is not None:
            side = max(1, round(2 ** float(self.typical.middle[STATISTICS.index("pixels")])))
        known = measured(dataset, encoder if self.encodes else None, side)
        return self.judged(known, remedies or Remedies(), cut_out)

    def judged(self, cells: Measured, remedies: Remedies, cut_out: CutOut | None = None) -> Novelty:
        """The same of cells that were measured already. Remarks are on those alone that lie by themselves."""
        if self.typical is None or self.learnt is None or self.limits is None:
            count = len(cells.statistics)
            return Novelty(np.zeros(count), np.zeros(count, bool))
        distances = self.typical.distances(cells)
        ratios = distances / self.limits
        score = ratios.max(axis=1) / self.threshold
        novel = score > 1
        on = np.ones(len(score), bool) if cut_out is None else cut_out.alone
        fields = None if cut_out is None else len(np.unique(cut_out.field[on]))
        batch = Batch(cells.statistics[on], distances[on, 0], int(novel[on].sum()), self.false_alarm, fields)
        said = remarks(batch, self.learnt, remedies) if on.any() else ()
        return Novelty(score, novel, said, dict(zip(COMPONENTS, ratios.T, strict=True)))


def measured(dataset: Dataset, encoder: Encoder | None, side: int | None = None) -> Measured:
    """Statistics of the images as they were decoded, or brought to so many px; with an encoder also features, and the
    masks that it gives."""
    cells = None if encoder is None else _quiet(encoder).encode(dataset, ENCODED)
    read = reader(dataset.path)
    return measured_images(len(dataset), read if side is None else lambda row: _resized(read(row), side), cells)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    return images.resize(image, side, "area" if max(image.shape[:2]) > side else "bilinear")


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


def _limits(null: np.ndarray) -> tuple[np.ndarray, float]:
    """`limits` and `threshold` of a reference, by (n, 5) distances of held-out cells."""
    limits = np.maximum(_quantile(null), [1e-9, *[LEAST_Z] * len(GROUPS)])
    return limits, max(float(_quantile((null / limits).max(axis=1))), 1e-9)


def _quantile(values: np.ndarray) -> np.ndarray:
    """The value that a share of new cells, about `LIMIT`, does not pass; of few cells the largest."""
    return np.sort(values, axis=0)[min(len(values), int(np.ceil(LIMIT * (len(values) + 1)))) - 1]


def _false_alarm(null: np.ndarray, group: np.ndarray, seed: int) -> float:
    """Share of the cells that lie beyond the limits that the other groups' cells give.

    More than 1 - `LIMIT` where there are few: each component's limit is then the largest distance, and what is strange
    in any of them is novel.
    """
    names, place = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return 1 - LIMIT
    beyond: list[bool] = []
    for one in np.random.default_rng(seed).permutation(len(names))[:AS_NEW]:
        limits, threshold = _limits(null[place != one])
        beyond += ((null[place == one] / limits).max(axis=1) > threshold).tolist()
    return max(float(np.mean(beyond)), 1 / (len(null) + 1))


def _shares(dataset: Dataset, measured: np.ndarray, encoder: Encoder | None) -> Callable[[np.ndarray], np.ndarray]:
    """Gives the share of its image's side that the cell of each row takes, by the backbone's masks: those of the
    (n, 12) statistics, else those that an encoder is asked for."""

    def found(rows: np.ndarray) -> np.ndarray:
        known = measured[rows, STATISTICS.index("cell_share")]
        if encoder is None or np.isfinite(known).any():
            return known
        masks = _quiet(encoder).encode(dataset.select(rows), ("mask",)).read("mask")
        return np.array([diameter_share(mask) for mask in masks], float)

    return found


def _quiet(encoder: Encoder) -> Encoder:
    return replace(encoder, context=replace(encoder.context, reporter=SilentReporter()))
