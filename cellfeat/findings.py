"""What a look at something found: well, worth knowing, or a problem; and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """What was looked at, its state (ok, note, problem), in words, and what to do ("" where nothing is to be done)."""

    what: str
    state: str
    text: str
    remedy: str = ""
