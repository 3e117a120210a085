"""Which rows train, test and adapt. Splits depend on ids and seeds (and, for few-shot, on the labels that are shown)
alone, and never divide a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cellfeat.errors import CellfeatError, unknown
from cellfeat.types import Cells

PROTOCOLS = ("cross-domain", "leave-one-domain-out", "few-shot")
ADAPT = ("none", "test", "heldout")


@dataclass(frozen=True)
class Fold:
    """Rows to train on and held-out rows of the same source domains; (n,) int64 indices into the cells."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Split:
    """One source setting: its folds, every target domain whole, and the classes that the source can teach."""

    source: tuple[str, ...]
    folds: tuple[Fold, ...]
    targets: dict[str, np.ndarray]  # labelled rows, which are scored; a domain without any is not in it
    adaptable: dict[str, np.ndarray]  # all rows of every target domain, also those without a label
    left_out: dict[int, int]  # class -> cells, for classes with fewer cells (or groups) than folds in the source
    shown: dict[str, np.ndarray] = field(default_factory=dict)  # few-shot: target rows whose labels are given

    @property
    def name(self) -> str:
        return "+".join(self.source)

    @property
    def rows(self) -> np.ndarray:
        """All source rows that can be trained on."""
        return np.sort(np.concatenate([self.folds[0].train, self.folds[0].test]))

    def for_each_target(self) -> list[Split]:
        """The same source setting once for every target domain."""
        return [
            replace(
                self,
                targets={name: rows for name, rows in self.targets.items() if name == target},
                adaptable={target: self.adaptable[target]},
                shown={name: rows for name, rows in self.shown.items() if name == target},
            )
            for target in self.targets
        ]


def splits(
    protocol: str,
    cells: Cells,
    *,
    folds: int,
    seed: int,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
    fitted_folds: int | None = None,
    shots: int = 0,
) -> Iterator[Split]:
    """The splits of a protocol, in the order of the domains' names.

    `cross-domain` (DoRL, section 4): k folds inside each source domain; each fold's model is tested on the held-out
    fold and on the whole of each other domain. `leave-one-domain-out`: all domains but one are the source.
    `few-shot`: as cross-domain, and labels of `shots` cells per class of every target, drawn by the seed, are given;
    these cells and their groups are not scored.
    `sources` and `targets` restrict the domains; empty means all. `fitted_folds`: only the first so many.
    """
    for source, others in settings(protocol, cells.domain, cells.label, sources, targets):
        split = _split(cells, source, others, folds, seed)
        split = split if protocol != "few-shot" else _with_shots(split, cells, shots, seed)
        yield replace(split, folds=split.folds[:fitted_folds])


def settings(
    protocol: str, domain: np.ndarray, label: np.ndarray, sources: Sequence[str] = (), targets: Sequence[str] = ()
) -> list[tuple[tuple[str, ...], list[str]]]:
    """The source domains of every split, together with its targets, from the (N,) domains and labels of all cells.

    Raises: CellfeatError for a domain or a protocol that is not there.
    """
    domains = sorted(set(domain.tolist()))
    for name in (*sources, *targets):
        if name not in domains:
            raise CellfeatError(unknown("domain", name, domains))
    if protocol not in PROTOCOLS:
        raise CellfeatError(unknown("protocol", protocol, PROTOCOLS))
    labelled = set(domain[label >= 0].tolist())  # a domain without labels can be adapted to, no more
    from_ = [name for name in domains if name in (sources or labelled)]
    to = [name for name in domains if name in (targets or domains)]
    found: list[tuple[tuple[str, ...], list[str]]]
    if protocol != "leave-one-domain-out":
        found = [((name,), [d for d in to if d != name]) for name in from_]
    else:
        found = [(tuple(d for d in from_ if d != name), [name]) for name in to]
    merged: dict[tuple[str, ...], list[str]] = {}
    for source, others in found:  # one source domain alone leaves the same source for every target
        merged.setdefault(source, []).extend(others)
    return [(source, others) for source, others in merged.items() if source]


def _with_shots(split: Split, cells: Cells, shots: int, seed: int) -> Split:
    """The split with labelled cells of every target taken out of what is scored, and with them their groups."""
    shown = {name: _drawn(cells, rows, shots, seed) for name, rows in split.targets.items()}
    groups = cells.group[_all(shown.values())]
    scored = {name: rows[~np.isin(cells.group[rows], groups)] for name, rows in split.targets.items()}
    empty = [name for name, rows in scored.items() if not len(rows)]
    if empty:
        raise CellfeatError(
            f"after {shots} labelled cells per class, and the groups they belong to, no cell of "
            f"{', '.join(empty)} is left to be scored; ask for fewer (--set protocol.shots=1)"
        )
    adaptable = {name: np.setdiff1d(rows, _all(shown.values())) for name, rows in split.adaptable.items()}
    return replace(split, targets=scored, adaptable=adaptable, shown=shown)


def _drawn(cells: Cells, rows: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """`shots` of each class's rows, but at most half of them, so that some are left to be scored."""
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(cells.label[rows]):
        members = _in_order(cells, rows[cells.label[rows] == label])
        drawn.append(rng.permutation(members)[: min(shots, len(members) // 2)])
    return np.sort(_all(drawn))


def _all(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, int), *parts])


def _split(cells: Cells, source: tuple[str, ...], targets: list[str], folds: int, seed: int) -> Split:
    rows = _in_order(cells, np.flatnonzero(np.isin(cells.domain, source) & (cells.label >= 0)))
    counts = {int(label): int(np.sum(cells.label[rows] == label)) for label in np.unique(cells.label[rows])}
    groups = {label: len(np.unique(cells.group[rows[cells.label[rows] == label]])) for label in counts}
    left_out = {label: n for label, n in counts.items() if groups[label] < folds}
    rows = rows[~np.isin(cells.label[rows], list(left_out))]
    if len(np.unique(cells.label[rows])) < 2:
        raise CellfeatError(
            f"source {'+'.join(source)} has fewer than 2 classes with at least {folds} labelled cells (or groups); "
            "use fewer folds (--folds) or name the sources that have more (--source)"
        )
    parts = tuple(k_fold(cells, rows, folds, seed))
    for part in parts:
        if len(np.unique(cells.label[part.train])) < len(counts) - len(left_out):
            raise CellfeatError(
                f"source {'+'.join(source)}: groups cannot be divided into {folds} folds that all leave every class "
                "in training; use fewer folds (--folds)"
            )
    adaptable = {name: np.flatnonzero(cells.domain == name) for name in targets}
    scored = {name: found[cells.label[found] >= 0] for name, found in adaptable.items()}
    return Split(source, parts, {name: found for name, found in scored.items() if len(found)}, adaptable, left_out)


def _in_order(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """The rows ordered by id, so that no split depends on where a cell stands."""
    return rows[np.argsort(cells.id[rows], kind="stable")]


def k_fold(cells: Cells, rows: np.ndarray, folds: int, seed: int) -> Iterator[Fold]:
    """Stratified folds of `rows`: scikit-learn's StratifiedKFold(shuffle=True, random_state=seed), as published,
    or StratifiedGroupKFold where a group has more than one row."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups = cells.group[rows]
    grouped = len(np.unique(groups)) < len(rows)
    if grouped and len(np.unique(groups)) < folds:
        raise CellfeatError(f"{len(np.unique(groups))} groups cannot be divided into {folds} folds; use --folds")
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(np.zeros(len(rows)), cells.label[rows], groups if grouped else None):
        yield Fold(rows[train], rows[test])


def halves(cells: Cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of `rows` for `adapt: heldout`: alternate groups in the order of their first ids, so that no group
    is divided, no label is looked at, and both halves stretch over the whole data set."""
    rows = _in_order(cells, rows)
    _, first, members = np.unique(cells.group[rows], return_index=True, return_inverse=True)
    if len(first) < 2:
        raise CellfeatError(
            f"domain {', '.join(np.unique(cells.domain[rows]))} has {len(first)} group of cells, which cannot be "
            "halved: --adapt heldout needs two; use --adapt test or none"
        )
    place = np.argsort(np.argsort(first))  # of each group among all, by its first id
    second = place[members] % 2 == 1
    return np.sort(rows[~second]), np.sort(rows[second])
