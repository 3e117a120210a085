"""The journal of a review: every decision is a line, on the disk before it counts; nothing is ever taken out.

The first line names the table by its digest. A line after it is a step: what a request decided, `{"time", "client",
"number", "cells": [{"id", "before", "after"}, …]}`, with `"undo": true` where it takes the newest step that is left
back; or `{"time", "wrote"}`, the SHA-256 of a reviewed table that is about to be written. "" is: not looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat.errors import CellfeatError

KIND, VERSION = "cellfeat review", 1


class Change(NamedTuple):
    """What is said of one cell, and what was said before."""

    id: str
    before: str
    after: str


class Journal:
    """An append-only file and the state that it says.

    decisions: {id: answer} of the cells that are reviewed. undoable: steps that have not been taken back, oldest first.
    taken: {client: number of its last request}. wrote: digests of reviewed tables that came of it. half: whether a last
    line was cut short by a kill; it was never confirmed, and is taken off before the next one is written.
    """

    def __init__(self, path: Path, table: str, cells: Collection[str], answers: Sequence[str]) -> None:
        """Reads what is there. table: the digest of the table. cells: ids. answers: what may be said of a cell.

        Raises: CellfeatError for a journal of another table, and for a damaged line that is not the last one.
        """
        self.path, self._table, self._cells, self._answers = path, table, frozenset(cells), frozenset((*answers, ""))
        self.decisions: dict[str, str] = {}
        self.undoable: list[list[Change]] = []
        self.taken: dict[str, int] = {}
        self.wrote: set[str] = set()
        self.steps, self.half, self._end = 0, False, 0
        if path.exists():
            self._read()

    def decide(self, answers: Mapping[str, str], client: str, number: int) -> list[Change]:
        """One step: an answer for each of these cells."""
        changes = [Change(name, self.decisions.get(name, ""), after) for name, after in answers.items()]
        self._append(_step(changes, client, number))
        return changes

    def undo(self, client: str, number: int) -> list[Change]:
        """Take the newest step back that is left, of this or an earlier sitting; no change where none is left."""
        changes = self._back()
        self._append({**_step(changes, client, number), "undo": True})
        return changes

    def is_taken(self, client: str, number: int) -> bool:
        """Whether this request of a page has been written down before, so that it was sent again."""
        return number <= self.taken.get(client, 0)

    def note_written(self, digest: str) -> None:
        """A reviewed table of this SHA-256 is about to be written."""
        if digest not in self.wrote:
            self._append({"wrote": digest})

    def _append(self, step: Mapping[str, Any]) -> None:
        """On the disk first; what cannot be written whole is taken off again, and did not happen."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **step}
        lines = [stamped] if self._end else [self._first(), stamped]
        data = "".join(f"{json.dumps(line, ensure_ascii=True)}\n" for line in lines).encode()
        # A journal that somebody took away meanwhile is an error, not a new one.
        with self.path.open("r+b" if self._end or self.path.exists() else "xb") as file:
            file.truncate(self._end)  # what a kill left half written
            file.seek(self._end)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(self._end)
                raise
        self._end += len(data)
        self._take(stamped)

    def _first(self) -> dict[str, Any]:
        return {"journal": KIND, "version": VERSION, "table": self._table, "cells": len(self._cells)}

    def _take(self, step: Mapping[str, Any]) -> None:
        """Make a step that is written part of the state. Raises: ValueError for one that cannot follow this state."""
        if "wrote" in step:
            self.wrote.add(str(step["wrote"]))
            return
        changes = [Change(one["id"], one["before"], one["after"]) for one in step["cells"]]
        self._check_step(changes, step)
        for one in changes:
            self.decisions[one.id] = one.after
            if not one.after:
                del self.decisions[one.id]
        if step.get("undo"):
            self.undoable[-1:] = []
        else:
            self.undoable.append(changes)
        self.taken[step["client"]] = step["number"]
        self.steps += 1

    def _check_step(self, changes: Sequence[Change], step: Mapping[str, Any]) -> None:
        """A line that was taken out, put in or changed by hand would say what no reviewer said."""
        if not isinstance(step["client"], str) or type(step["number"]) is not int:
            raise ValueError("the page and the number of the request are none")
        for one in changes:
            if one.id not in self._cells:
                raise ValueError(f"the table has no cell {one.id!r}")
            if one.after not in self._answers:
                raise ValueError(f"{one.after!r} is no answer")
            if one.before != self.decisions.get(one.id, ""):
                raise ValueError(f"of {one.id!r} something else was said before")
        if step.get("undo") and changes != self._back():
            raise ValueError("it does not take the newest step back")

    def _back(self) -> list[Change]:
        """What takes the newest step back that is left."""
        newest = self.undoable[-1] if self.undoable else []
        return [Change(one.id, one.after, one.before) for one in reversed(newest)]

    def _read(self) -> None:
        *lines, rest = self.path.read_bytes().split(b"\n")
        self.half = bool(rest)
        for number, line in enumerate(lines, start=1):
            try:
                found = json.loads(line)
                if number == 1:
                    self._check(found)
                else:
                    self._take(found)
            except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
                raise CellfeatError(
                    f"{self.path}: line {number} is damaged ({type(error).__name__}: {error}); bring a copy of the "
                    "journal back, or move it away and begin anew"
                ) from None
            self._end += len(line) + 1

    def _check(self, first: Mapping[str, Any]) -> None:
        if first.get("journal") != KIND or first.get("version") != VERSION:
            raise CellfeatError(f"{self.path} is no journal of a review that this version of cellfeat reads")
        if first.get("table") != self._table:
            raise CellfeatError(
                f"{self.path} is the journal of another table, of {first.get('cells')} cells; this one has "
                f"{len(self._cells)}, or other ids or classes. Move the journal away, or bring its table back"
            )


def _step(changes: Sequence[Change], client: str, number: int) -> dict[str, Any]:
    return {"client": client, "number": number, "cells": [one._asdict() for one in changes]}
