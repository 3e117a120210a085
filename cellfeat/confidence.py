"""How far a pipeline's probabilities can be trusted, learnt on the held-out folds of its source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import class_shares, conformal, metrics, temperature
from cellfeat.artifacts import atomic_file
from cellfeat.conformal import Scores
from cellfeat.errors import CellfeatError
from cellfeat.results import Result
from cellfeat.types import UNLABELED, Cells

CONFIDENCE, FORMAT = "confidence.json", 1  # beside a saved pipeline
FIGURES = ("expected_error", "brier", "log_loss")


@dataclass(frozen=True)
class Confidence:
    """A temperature, and how improbable true classes were, of cells that the models had not seen.

    temperature: as `temperature.tempered` takes it; 1 where none helps held-out cells. classes: K names. taught: (K,)
    bool, whether the fit is shown cells of a class. by_class: of each class the scores of its held-out cells. pooled:
    of all of them. before, after: `metrics.calibration` of the held-out cells' probabilities as they were, and tempered
    by what the other folds want; empty where no cell was held out. prior: K shares of the classes for which the
    calibrated probabilities are right (`class_shares.implied_prior`); None where no cell was held out, and of a file
    that an older cellfeat wrote.

    The scores are cross-conformal (Vovk 2015): each held-out cell's is of the model of its fold, whereas new cells are
    answered by one model fitted on all the source. Nothing is proved for that without an assumption: sets made with the
    folds' own models would hold at least 1 - 2 (1 - coverage) of the true classes (Barber et al., 2021, CV+), and one
    more fit comes as close as it is stable against leaving a fold out. All of it is about cells drawn as the source's
    were, never about another laboratory's.
    """

    classes: tuple[str, ...]
    temperature: float
    taught: tuple[bool, ...]
    by_class: tuple[Scores, ...]
    pooled: Scores
    before: Mapping[str, float]
    after: Mapping[str, float]
    prior: tuple[float, ...] | None = None

    @classmethod
    def learn(cls, result: Result, cells: Cells, classes: Sequence[str]) -> Confidence:
        """From the answers of every fold's model on its held-out fold: true labels of the source's cells alone."""
        split = result.split
        rows = np.concatenate([one.rows for one in result.inside])
        proba = np.concatenate([one.proba for one in result.inside])
        fold = np.concatenate([np.full(len(one.rows), one.fold) for one in result.inside])
        labels, known = cells.label[rows], cells.label[rows] != UNLABELED
        taught = np.unique(cells.label[np.concatenate([split.rows, *split.shown.values()])])
        return cls.of(
            proba[known],
            labels[known],
            fold[known],
            cells.group[rows][known],
            classes,
            np.isin(range(len(classes)), taught),
        )

    @classmethod
    def of(
        cls,
        proba: np.ndarray,
        labels: np.ndarray,
        fold: np.ndarray,
        group: np.ndarray,
        classes: Sequence[str],
        taught: np.ndarray,
    ) -> Confidence:
        """From (n, K) probabilities of n held-out cells, their labels, folds and groups; taught: (K,) bool.

        Scores are of probabilities that each were tempered without their own fold, or, of one fold, the other half.
        """
        if len(np.unique(fold)) < 2:
            fold = np.unique(group, return_inverse=True)[1] % 2
        degree, fair = temperature.fitted(proba, labels), temperature.cross_fitted(proba, labels, fold)
        before, after = ({} if not len(labels) else metrics.calibration(labels, one) for one in (proba, fair))
        if not before or after["log_loss"] >= before["log_loss"]:  # it does not help cells that it was not fitted on
            degree, fair, after = 1.0, proba, before
        found = conformal.scores(fair, labels)
        return cls(
            tuple(classes),
            degree,
            tuple(bool(one) for one in taught),
            tuple(Scores.of(found[labels == one], group[labels == one]) for one in range(len(classes))),
            Scores.of(found, group),
            before,
            after,
            tuple(class_shares.implied_prior(fair, labels).tolist()) if len(labels) else None,
        )

    def calibrated(self, proba: np.ndarray) -> np.ndarray:
        """(N, K) -> (N, K); the largest of a row stays the largest."""
        return temperature.tempered(proba, self.temperature)

    def sets(self, proba: np.ndarray, coverage: float, by_class: bool = True) -> np.ndarray:
        """(N, K) calibrated probabilities -> (N, K) bool prediction sets of a stated coverage.

        by_class: the coverage is of the cells of each class, however common it is (Mondrian; Vovk 2003), so that other
        shares of the classes do not change it; else of all cells together. Classes of `unpromised` are in every set,
        those that were not taught in none.

        Raises: CellfeatError for a coverage that is no share between 0 and 1.
        """
        check_coverage(coverage)
        thresholds = [(one if by_class else self.pooled).threshold(coverage) for one in self.by_class]
        return conformal.sets(proba, np.where(self.taught, thresholds, -np.inf))

    def unpromised(self, coverage: float) -> dict[str, int]:
        """{class: groups} of taught classes whose held-out cells are too few for a coverage."""
        return {
            name: one.groups
            for name, taught, one in zip(self.classes, self.taught, self.by_class, strict=True)
            if taught and np.isinf(one.threshold(coverage))
        }

    @property
    def grouped(self) -> bool:
        """Whether held-out cells belong together (patients), so that their groups count and not they."""
        return self.pooled.groups < self.pooled.n

    @property
    def said(self) -> str:
        """Temperature, and what it does to the calibration of held-out cells, in a line."""
        if not self.before:
            return "not calibrated: no cell with a label was held out"
        unit = f"{self.pooled.n:,} held-out cells" + (f" of {self.pooled.groups:,} groups" if self.grouped else "")
        errors = [f"{100 * one['expected_error']:.1f} %" for one in (self.before, self.after)]
        losses = [f"{one['log_loss']:.3f}" for one in (self.before, self.after)]
        return (
            f"temperature {self.temperature:.2f}; on {unit} expected calibration error {' → '.join(errors)}, log loss "
            f"{' → '.join(losses)}"
        )

    def save(self, folder: Path) -> None:
        """Write `confidence.json` into a pipeline's folder. No id of a cell or of a group is in it."""
        about = {
            "format": FORMAT,
            "classes": list(self.classes),
            "temperature": self.temperature,
            "taught": list(self.taught),
            "by_class": [_written(one) for one in self.by_class],
            "pooled": _written(self.pooled),
            "before": dict(self.before),
            "after": dict(self.after),
            "prior": self.prior,
        }
        with atomic_file(folder / CONFIDENCE) as path:
            path.write_text(json.dumps(about, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Confidence | None:
        """None for a pipeline that was saved without. Raises: CellfeatError for a damaged file."""
        path = Path(folder) / CONFIDENCE
        if not path.is_file():
            return None
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(about, dict):
                raise TypeError(f"a {type(about).__name__} is no description")
            if about.get("format") == FORMAT:
                return _read(about)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CellfeatError(f"{path} is damaged ({_said(error)}): take it away for answers as without it") from None
        raise CellfeatError(f"{path} has format {about.get('format')!r}, this cellfeat reads {FORMAT}")


def check_coverage(coverage: float) -> None:
    """Raises: CellfeatError for what is no share between 0 and 1."""
    if not 0 < coverage < 1:
        raise CellfeatError(f"a coverage of {coverage:g} is none: it is a share between 0 and 1, such as 0.9")


def _written(one: Scores) -> dict[str, Any]:
    return {**asdict(one), "score": one.score.tolist(), "level": one.level.tolist()}


def _read(about: Mapping[str, Any]) -> Confidence:
    """Raises: ValueError, TypeError or KeyError where something is not as `save` wrote it."""
    classes, taught = tuple(map(str, about["classes"])), tuple(map(bool, about["taught"]))
    by_class = tuple(_scores(one) for one in about["by_class"])
    degree = float(about["temperature"])
    if not len(classes) == len(taught) == len(by_class):
        raise ValueError(f"{len(classes)} classes, {len(taught)} taught or not, {len(by_class)} with scores")
    if not (0 < degree < np.inf):
        raise ValueError(f"a temperature of {degree:g}")
    before, after = ({name: float(about[key][name]) for name in FIGURES if about[key]} for key in ("before", "after"))
    prior = None if about.get("prior") is None else tuple(float(one) for one in about["prior"])
    if prior is not None and not (len(prior) == len(classes) and all(0 < one < np.inf for one in prior)):
        raise ValueError("a prior that is no share of each class")
    return Confidence(classes, degree, taught, by_class, _scores(about["pooled"]), before, after, prior)


def _scores(values: Mapping[str, Any]) -> Scores:
    score, level = np.array(values["score"], float), np.array(values["level"], float)
    if score.ndim != 1 or score.shape != level.shape or not np.isfinite([*score, *level]).all():
        raise ValueError("scores and levels that are no pairs of numbers")
    if (np.diff(score) < 0).any() or (np.diff(level) < 0).any():
        raise ValueError("scores that do not ascend")
    return Scores(score, level, int(values["n"]), int(values["groups"]))


def _said(error: Exception) -> str:
    missing = f"no {error.args[0]!r} in it" if isinstance(error, KeyError) else str(error)
    return " ".join(missing.split())
