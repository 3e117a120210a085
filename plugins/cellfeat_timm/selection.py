"""Which epoch of a training is kept: chosen without a single target label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellfeat import CellfeatError, Cells

LAST, SOURCE_VAL, INFORMATION = "last", "source-val", "information-maximization"
HELD_OUT = 10  # one of so many labelled cells


@dataclass(frozen=True)
class Judge:
    """Cells whose probabilities tell how good a network is; targets: their classes 0..K-1, for `source-val` alone."""

    select: str
    cells: Cells | None = None
    targets: np.ndarray | None = None

    def __call__(self, proba: np.ndarray) -> float:
        """(N, K) probabilities of `cells` -> a score, higher is better."""
        return information(proba) if self.targets is None else balanced_accuracy(proba, self.targets)


def split(
    select: str, cells: Cells, rows: np.ndarray, targets: np.ndarray, unlabelled: np.ndarray, seed: int
) -> tuple[np.ndarray, Judge]:
    """(which of the labelled rows (n,) bool are trained on, who judges the epochs).

    rows: of labelled cells, targets: their classes. Revealed target cells are never held out: they are trained on.
    """
    everything = np.ones(len(rows), dtype=bool)
    if select == LAST:
        return everything, Judge(select)
    if select == INFORMATION:
        if not len(unlabelled):
            raise CellfeatError(
                f"select={select} scores the epochs on unlabelled target cells, and there are none to be seen. "
                "Adapt to some (--adapt test or heldout), or take select=last or select=source-val"
            )
        return everything, Judge(select, cells[unlabelled])
    held = np.zeros(len(rows), dtype=bool)
    source = np.flatnonzero(~cells.is_target[rows])
    held[source] = held_out(targets[source], cells.group[rows[source]], seed)
    if not held.any():
        raise CellfeatError(
            f"select={select} holds out labelled source cells, whole groups of them, and here no group can be spared "
            "without losing a class. Take select=last"
        )
    return ~held, Judge(select, cells[rows[held]], targets[held])


def held_out(targets: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: about a tenth of every class, drawn by `seed`, whole groups; no class is held out altogether."""
    rng = np.random.default_rng(seed)
    _, groups = np.unique(groups, return_inverse=True)
    counts = np.zeros((groups.max(initial=-1) + 1, targets.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts, (groups, targets), 1)
    total, taken = counts.sum(axis=0), np.zeros(len(counts), dtype=bool)
    held = np.zeros_like(total)
    for target in np.argsort(total, kind="stable"):  # the rare classes have the least choice
        mine = rng.permutation(np.flatnonzero(counts[:, target]))
        wanted = max(1.0, total[target] / HELD_OUT)
        sizes = counts[mine, target]
        for group in mine[np.argsort(np.where(sizes > 2 * wanted, sizes, 0), kind="stable")]:  # too large ones last
            spared = bool(np.all((held + counts[group] < total) | (counts[group] == 0)))
            fits = held[target] == 0 or held[target] + counts[group, target] / 2 <= wanted
            if spared and fits and not taken[group]:
                taken[group], held = True, held + counts[group]
    return taken[groups]


def balanced_accuracy(proba: np.ndarray, targets: np.ndarray) -> float:
    """Mean recall over the classes that the targets have."""
    right = proba.argmax(axis=1) == targets
    return float(np.mean([right[targets == target].mean() for target in np.unique(targets)]))


def information(proba: np.ndarray) -> float:
    """Mutual information of cell and predicted class, in nats: entropy of the mean minus mean of the entropies.

    High when predictions are sure and of all classes. Krause, Perona and Gomes, NIPS 2010; as a criterion for
    adaptation, Shi and Sha, ICML 2012.
    """
    proba = proba.astype(np.float64)
    return float(_entropy(proba.mean(axis=0)) - _entropy(proba).mean())


def _entropy(proba: np.ndarray) -> np.ndarray:
    return -np.sum(proba * np.log(np.where(proba > 0, proba, 1)), axis=-1)
