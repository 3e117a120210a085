"""Names in CSV files that people open in spreadsheets."""

from __future__ import annotations


def plain(text: str) -> str:
    """A name that a spreadsheet would take for a formula is kept text by a leading apostrophe."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def unprotected(text: str) -> str:
    """A name as it was before `plain`."""
    return text[1:] if text[:1] == "'" and text[1:2] and text[1] in "=+-@\t\r" else text
