"""A draft of a label map: which class each label of a manifest would belong to, and what a person has to decide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.labels import Vocabulary, known_label, load_vocabulary, normalised
from cellfeat.manifest import read_rows, refuse_existing
from cellfeat.synonyms import meaning, nearest

MARK = "EDIT:"  # of lines that nobody has decided yet


class Line(NamedTuple):
    """One label of a draft. place: its class, None when its cells are left out; why: a few words; open: undecided."""

    label: str
    cells: int
    place: str | None
    why: str
    open: bool = False


class Draft(NamedTuple):
    """A proposed map of every label of some manifests to the classes of a vocabulary."""

    vocabulary: Vocabulary
    lines: tuple[Line, ...]
    manifests: tuple[str, ...]

    @property
    def undecided(self) -> list[Line]:
        return [line for line in self.lines if line.open]

    def as_dict(self) -> dict[str, Any]:
        """JSON values. class: null where the cells are left out."""
        lines = [
            {"label": one.label, "cells": one.cells, "class": one.place, "undecided": one.open, "why": one.why}
            for one in self.lines
        ]
        about = {"vocabulary": self.vocabulary.name, "undecided": len(self.undecided)}
        return {**about, "empty_classes": self.empty_classes, "labels": lines}

    @property
    def empty_classes(self) -> list[str]:
        """Classes that no label belongs to."""
        return [name for name in self.vocabulary.classes if name not in {line.place for line in self.lines}]


def draft_labels(manifests: Sequence[Path | str], to: str | Path | Vocabulary) -> Draft:
    """Propose a class of the vocabulary `to` for every label of manifests; words in doubt stay undecided.

    Raises: CellfeatError for an unknown vocabulary, no manifest, or manifests without any label.
    """
    vocabulary = load_vocabulary(to)
    counts = Counter(row["label"] for manifest in manifests for row in read_rows(manifest) if row["label"])
    if not counts:
        raise CellfeatError(f"{', '.join(map(str, manifests))}: no row has a label, so there is nothing to map")
    return Draft(vocabulary, tuple(_lines(counts, vocabulary)), tuple(map(str, manifests)))


def _lines(counts: Counter[str], vocabulary: Vocabulary) -> Iterable[Line]:
    """One line for labels that differ only in case and spaces, in the order of their names."""
    total: Counter[str] = Counter()
    spelt: dict[str, str] = {}
    for label in sorted(counts):
        total[normalised(label)] += counts[label]
        spelt.setdefault(normalised(label), label)
    for key in sorted(spelt):  # as they are written, whatever their case
        yield _line(spelt[key], total[key], vocabulary)


def _line(label: str, cells: int, vocabulary: Vocabulary) -> Line:
    means = label if normalised(label) in vocabulary.mapping else meaning(label)
    if means is None:
        near = _place(nearest(label), vocabulary)
        guess = f"spelt nearly like a word for {near}; " if near else ""
        return Line(label, cells, None, f"{guess}write its class, or leave null to leave its cells out", open=True)
    place, same = _place(means, vocabulary), normalised(label) == normalised(means)
    why = "as it is" if same else f"{'a published code of' if known_label(label) else 'means'} {means}"
    return Line(label, cells, place, why if place else f"{means}: {vocabulary.name} has no class for it")


def _place(label: str | None, vocabulary: Vocabulary) -> str | None:
    """The class, None also for a label that only other vocabularies than the user's own know."""
    if label is None:
        return None
    try:
        return vocabulary.place(label)
    except CellfeatError:
        return None


def write_draft(path: Path | str, draft: Draft) -> None:
    """The draft as a label map for --labels; its undecided lines say EDIT:. Nothing is overwritten.

    Raises: CellfeatError when the file exists, or for a name that is not that of a YAML file.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise CellfeatError(f"--out {path}: the name must end in .yaml, by which --labels knows a map")
    refuse_existing(path)
    with atomic_file(path) as partial:
        partial.write_text(_text(draft), encoding="utf-8")


def _text(draft: Draft) -> str:
    classes = draft.vocabulary.classes
    lines = [
        f"# The class of every label in {', '.join(draft.manifests)}: a draft of cellfeat, yours to correct.",
        f"# null leaves a label's cells out. {MARK} nobody has decided yet.",
        f"classes: {json.dumps(list(classes), ensure_ascii=False)}",
        "map:",
    ]
    for line in draft.lines:
        key, place = json.dumps(line.label, ensure_ascii=False), json.dumps(line.place, ensure_ascii=False)
        cells = "1 cell" if line.cells == 1 else f"{line.cells:,} cells"
        lines.append(f"  {key}: {place}  # {f'{MARK} ' if line.open else ''}{cells}; {line.why}")
    return "\n".join(lines) + "\n"
