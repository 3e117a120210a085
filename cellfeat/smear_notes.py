"""What a reader of a differential count should know first: of its photographs, their scale, and doubtful cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cellfeat.changes import Changes
from cellfeat.smear_detection import Found
from cellfeat.verdicts import Verdicts

NAMED = 5  # photographs in a note


def photographs(count: int) -> str:
    """So many, in words."""
    return f"{count:,} {'photograph' if count == 1 else 'photographs'}"


def of_photographs(found: Sequence[Found], rule: str) -> Iterator[str]:
    """Whose they are, which were not searched, and how large cells were taken to be. rule: as `Photographs` has it."""
    yield f"{photographs(len(found))}: {rule}"
    if unsearched := [one for one in found if one.problem]:
        names = ", ".join(one.photograph.name for one in unsearched[:NAMED])
        more = f" and {len(unsearched) - NAMED:,} more" if len(unsearched) > NAMED else ""
        yield (
            f"{photographs(len(unsearched))} could not be searched, so that no cell of {names}{more} is counted; "
            f"fields.csv says why, first: {unsearched[0].problem}"
        )
    sizes = sorted(one.diameter for one in found if one.diameter)
    spread = " to ".join(dict.fromkeys(f"{one:.0f}" for one in (sizes[0], sizes[-1])))
    origins = sorted({one.origin for one in found if one.diameter})
    yield f"a typical cell measures {spread} px ({', '.join(origins)})"


def of_cells(found: Sequence[Found], verdicts: Verdicts) -> Iterator[str]:
    """How many of them are to be looked at with care."""
    cells = [cell for one in found for cell in one.cells]
    flags = [
        ("touch another", sum(one.touching for one in cells)),
        ("are cut by a border", sum(one.cut for one in cells)),
        ("are larger than the usual square and got a larger one", sum(one.enlarged for one in found)),
        ("have no class, as none is likely enough", int((~verdicts.answered).sum())),
    ]
    if said := [f"{count:,} {what}" for what, count in flags if count]:
        yield f"of {len(cells):,} cells {'; '.join(said)}"


def of_changes(moved: Changes | None) -> Iterator[str]:
    """The boxes that have no class to compare."""
    if moved is not None and (moved.lost or moved.new):
        yield (
            f"boxes around no cell of the other count: {moved.lost:,} of the earlier one, {moved.new:,} of this one; "
            "they are no changes of class"
        )
