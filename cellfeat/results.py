"""What an evaluation gives: every model's answers on every cell that it was asked about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cellfeat.provenance import Peak
from cellfeat.splits import Split


@dataclass(frozen=True)
class Prediction:
    """One model's answers for the cells `rows`: (n,) classes and (n, K) probabilities."""

    fold: int
    rows: np.ndarray
    classes: np.ndarray
    proba: np.ndarray


@dataclass
class Result:
    """All that came of one source setting under one seed."""

    split: Split
    seed: int
    adapt: str  # what was done: "none" when no method asks for target cells
    adapted_to: dict[str, list[str]]  # by the target that is scored, and by the source's own name
    inside: list[Prediction] = field(default_factory=list)  # each fold's model on its held-out fold
    targets: dict[str, list[Prediction]] = field(default_factory=dict)  # each fold's model on the whole target
    weights_saw: tuple[str, ...] | None = ()  # data that pretrained weights in it have seen; None: not known
    seconds: float = 0.0  # of all fits and answers; a fit that another classifier shares counts for each
    histories: dict[str, Any] = field(default_factory=dict)  # by method, what it says of its training, of the last fit
    peak: Peak = field(default_factory=Peak)
    uses_shown: bool = True  # the target labels that few-shot gives were used: by a classifier, or by a method
    together: bool = True  # several targets were adapted to in one fit

    def predictions(self, target: str) -> list[Prediction]:
        """The models' answers on a target, or on the source itself by its own name."""
        return self.inside if target == self.split.name else self.targets[target]

    def shown_for(self, target: str) -> list[np.ndarray]:
        """Target rows whose labels the models that answer on `target` were given."""
        shown = self.split.shown if self.uses_shown else {}
        return [rows for name, rows in shown.items() if self.together or name == target]

    def predicted_rows(self, target: str) -> np.ndarray:
        """The cells that were scored: once by every model, or, inside the source, once by the model of their fold."""
        if target == self.split.name:
            return np.concatenate([one.rows for one in self.inside])
        return self.targets[target][0].rows


def merged(split: Split, parts: list[Result]) -> Result:
    """Targets that were adapted to one by one; of the source's own folds the first fit's answers stand."""
    first = parts[0]
    return replace(
        first,
        split=split,
        adapted_to={name: value for part in reversed(parts) for name, value in part.adapted_to.items()},
        targets={name: answers for part in parts for name, answers in part.targets.items()},
        together=False,
        seconds=sum(part.seconds for part in parts),
    )


def joined(pieces: list[Prediction]) -> Prediction:
    """The halves of one target, in row order again."""
    rows = np.concatenate([piece.rows for piece in pieces])
    order = np.argsort(rows)
    return Prediction(
        pieces[0].fold,
        rows[order],
        np.concatenate([piece.classes for piece in pieces])[order],
        np.concatenate([piece.proba for piece in pieces])[order],
    )
