"""One review of a table: who else works on it, what was decided, and the reviewed table that comes of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from cellfeat.artifacts import atomic_file
from cellfeat.digests import file_sha256
from cellfeat.errors import CellfeatError
from cellfeat.recounted import COUNTS, Recount, Recounted
from cellfeat.review_journal import Change, Journal
from cellfeat.review_table import ReviewTable


class Review:
    """Safe to be asked by many threads. Until `close`, no other process reviews this table."""

    def __init__(self, table: ReviewTable) -> None:
        """Lock the table, read its journal, and write the reviewed table that this says, and a smear's count of it.

        Raises: CellfeatError where another process reviews it, for a journal of another table, for a reviewed table
        that somebody changed, and where nothing can be written.
        """
        self.table = table
        self._recount = Recount.of(table.source)
        self._rows = {cell.id: row for row, cell in enumerate(table.cells)}
        self._guard, self._writing, self._closed = threading.Lock(), threading.Lock(), False
        self._file_lock = FileLock(table.lock, timeout=0, mode=0o666, thread_local=False)
        self._lock_table()
        try:
            self.journal = Journal(table.journal, table.digest, self._rows, table.answers)
            self._check_reviewed()
            self._written = -1  # steps of the journal that the reviewed table has
            self.write()
        except OSError as error:
            self._file_lock.release()
            raise _not_writable(table, error) from error
        except BaseException:
            self._file_lock.release()
            raise

    def _lock_table(self) -> None:
        try:
            self._file_lock.acquire()
        except Timeout:
            raise CellfeatError(
                f"{self.table.path} is being reviewed by another `cellfeat review`; use its page, or end it first"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise _not_writable(self.table, error) from error

    def _check_reviewed(self) -> None:
        """Nobody's own changes are overwritten: what lies there must be what a review wrote."""
        path = self.table.reviewed
        for name in COUNTS if self._recount else ():
            one = self.table.path.with_name(name)
            if one.exists() and file_sha256(one) not in self.journal.wrote:
                raise CellfeatError(
                    f"{one} was changed since a review wrote it, or comes from elsewhere. To go on with the review, "
                    "move it away: it is written anew"
                )
        if path.exists() and file_sha256(path) not in self.journal.wrote:
            raise CellfeatError(
                f"{path} was changed since a review wrote it, or comes from elsewhere; `cellfeat data correct {path}` "
                "reads it as it is. To go on with the review, move it away: it is written anew, from the decisions of "
                f"{self.journal.path.name} alone"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_written(self) -> bool:
        """Whether the reviewed table has every decision."""
        return self._written == self.journal.steps

    def decide(self, answers: Mapping[int, str], client: str, number: int) -> dict[str, object]:
        """{row: answer} as one step; a request that was taken before changes nothing.

        Gives {"changes": [[row, answer], …], "repeated": bool, "steps": count, "undoable": count}, as JSON values.

        Raises: CellfeatError for a row or an answer that is none; OSError where the disk takes nothing.
        """
        named = {self._name(row): self._answer(answer) for row, answer in answers.items()}
        return self._taken(lambda: self.journal.decide(named, client, number), client, number)

    def undo(self, client: str, number: int) -> dict[str, object]:
        """As `decide`, for the newest step that is left."""
        return self._taken(lambda: self.journal.undo(client, number), client, number)

    def _taken(self, step: Callable[[], list[Change]], client: str, number: int) -> dict[str, object]:
        with self._guard:
            if self._closed:
                raise CellfeatError("this review has ended")
            repeated = self.journal.is_taken(client, number)
            changes = [] if repeated else step()
            counts = self._counts()
        return {"changes": [[self._rows[one.id], one.after] for one in changes], "repeated": repeated, **counts}

    def state(self) -> dict[str, object]:
        """{"decisions": [[row, answer], …], "steps": count, "undoable": count}, as JSON values."""
        with self._guard:
            known = [[self._rows[name], answer] for name, answer in self.journal.decisions.items()]
            return {"decisions": known, **self._counts()}

    def _counts(self) -> dict[str, object]:
        return {"steps": self.journal.steps, "undoable": len(self.journal.undoable)}

    def write(self) -> Path:
        """The reviewed table with every decision so far, replaced whole. Raises: OSError."""
        # Of two that write at once the one with the older decisions might be the last, and be taken for the newest.
        with self._writing:
            with self._guard:
                steps, decisions = self.journal.steps, dict(self.journal.decisions)
            if steps != self._written:
                self._write(decisions)
                self._written = steps
        return self.table.reviewed

    def _write(self, decisions: Mapping[str, str]) -> None:
        with atomic_file(self.table.reviewed) as partial:
            self.table.write_reviewed(decisions, partial)
            with self._guard:
                # Known before it is there: a kill in between leaves the older one, which is known too.
                self.journal.note_written(file_sha256(partial))
        found = self.recounted(decisions)
        for name, text in found.files().items() if found else ():
            with atomic_file(self.table.path.with_name(name)) as partial:
                partial.write_text(text, encoding="utf-8", newline="")
                with self._guard:
                    self.journal.note_written(file_sha256(partial))

    def recounted(self, decisions: Mapping[str, str] | None = None) -> Recounted | None:
        """A smear's differential count with these decisions, or with all so far; None for other tables."""
        if self._recount is None:
            return None
        return self._recount.after(dict(self.journal.decisions) if decisions is None else decisions)

    def close(self) -> None:
        """Write the reviewed table and let others in.

        Raises: CellfeatError where the disk takes no table; the journal has every decision all the same.
        """
        with self._guard:
            self._closed = True
        try:
            self.write()
        except OSError as error:
            raise CellfeatError(
                f"{self.table.reviewed}: not written ({error.strerror or error}). Every decision is in "
                f"{self.table.journal}, and the next `cellfeat review` writes the table from it"
            ) from error
        finally:
            self._file_lock.release()

    def counts(self) -> Counter[str]:
        """Cells that were accepted, corrected, no cells, unsure, or not looked at (`left`)."""
        known = self.journal.decisions
        found = Counter[str]()
        for cell in self.table.cells:
            answer = known.get(cell.id, "")
            if answer in self.table.classes:
                answer = "accepted" if answer == cell.answer else "corrected" if cell.answer else "answered"
            found[answer or "left"] += 1
        return found

    def _name(self, row: int) -> str:
        if not 0 <= row < len(self.table.cells):
            raise CellfeatError(f"row {row}: the table has {len(self.table.cells)}")
        return self.table.cells[row].id

    def _answer(self, answer: str) -> str:
        if answer not in self.table.answers:
            raise CellfeatError(f"{answer!r} is no answer; possible are {', '.join(self.table.answers)}")
        return answer


def _not_writable(table: ReviewTable, error: Exception) -> CellfeatError:
    reason = getattr(error, "strerror", None) or str(error)
    return CellfeatError(
        f"{table.path.parent}: cannot be written to ({reason}), and the review saves every decision there; copy the "
        "folder to where you may write"
    )
