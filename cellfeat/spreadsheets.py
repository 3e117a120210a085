"""Names in CSV files that people open in spreadsheets."""

from __future__ import annotations

MARKS = tuple("=+-@\t\r")  # what begins with one of them is a formula to a spreadsheet


def plain(text: str) -> str:
    """A name that a spreadsheet would take for a formula is kept text by a leading apostrophe."""
    return f"'{text}" if text.startswith(MARKS) else text


def unprotected(text: str) -> str:
    """A name as it was before `plain`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(MARKS) else text
