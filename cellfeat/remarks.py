"""What is to be said of the rows of a manifest: labels that are absent, dropped, renamed, or each laboratory's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from shlex import quote

from cellfeat.labels import Vocabulary

Rows = Sequence[Mapping[str, str]]


def cells_of(count: int) -> str:
    """1 cell, 2 cells."""
    return "1 cell" if count == 1 else f"{count:,} cells"


def unmapped(vocabulary: Vocabulary | None, manifest: str) -> str:
    """What to do where every label is dropped: a map of the user's own may not be filled in yet."""
    if vocabulary is not None and vocabulary.name.lower().endswith((".yaml", ".yml")):
        return f". Write classes in place of null in {vocabulary.name}, on the lines marked EDIT: where it is a draft"
    return f". A map of your own can give them one: cellfeat data labels {quote(manifest)} -o labels.yaml"


def _strangers(rows: Rows, manifest: str) -> list[str]:
    """Said where no class of one domain is one of any other: each laboratory has its own words."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["domain"], set()).update({row["label"]} - {""})
    labelled = {domain: words for domain, words in sorted(labels.items()) if words}
    shared = Counter(word for words in labelled.values() for word in words)
    alone = [domain for domain, words in labelled.items() if all(shared[word] == 1 for word in words)]
    if len(labelled) < 2 or not alone:
        return []
    return [
        f"{', '.join(alone)}: no label is one of another laboratory's, so every cell elsewhere counts as an error. "
        f"If they call the same cells by other words: cellfeat data labels {quote(manifest)} --to five-class "
        "-o labels.yaml, then --labels labels.yaml"
    ]


def remarks_of(
    vocabulary: Vocabulary | None, rows: Rows, names: list[str], dropped: Mapping[str, int], source: str
) -> tuple[str, ...]:
    """Lines about rows, with the class of each in `names` ("": no label), and labels that were dropped, counted."""
    remarks = []
    if "" in names:
        count = names.count("")
        they = "1 cell has no label: it is" if count == 1 else f"{count:,} cells have no label: they are"
        remarks.append(f"{they} neither trained on nor scored")
    if vocabulary is None:
        return tuple(remarks + _strangers(rows, source))
    plain = Counter(
        f"{row['label']} as {name}"
        for row, name in zip(rows, names, strict=True)
        if name and name.startswith(f"{row['label'].strip().casefold()}_")
    )
    if plain:
        counted = "; ".join(f"{text} ({cells_of(count)})" for text, count in sorted(plain.items()))
        remarks.append(f"{vocabulary.name} counts {counted}")
    if dropped:
        what = ", ".join(f"{label} {count:,}" for label, count in sorted(dropped.items()))
        count = sum(dropped.values())
        remarks.append(
            f"{cells_of(count)} whose label has no class in {vocabulary.name} {'is' if count == 1 else 'are'} dropped "
            f"({what}): the evaluation is closed-set"
        )
    return tuple(remarks)
