"""The page of a review, and the pictures on it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cellfeat import page, thumbnails
from cellfeat.cell_tables import NOT_A_CELL, UNSURE
from cellfeat.decode import read_rgb
from cellfeat.review_table import ReviewTable

LARGE = 640  # px of the longer side of an enlarged picture, at most
DIGITS = "123456789"
RESERVED = "nu"  # keys of the page itself: not a cell, undo
SCRIPTS = ("dom.js", "review_state.js", "review_queue.js", "review_large.js", "review_list.js", "review.js")


def render(table: ReviewTable) -> tuple[str, str]:
    """The whole page, and its content security policy."""
    values: dict[str, Any] = {
        "version": version("cellfeat"),
        "built_from": table.digest[:16],
        "title": f"Review of {table.name}",
        "cells": len(table.cells),
    }
    return page.render_served("review.html", ["review.css"], SCRIPTS, content(table), **values)


def content(table: ReviewTable) -> dict[str, Any]:
    """The table as JSON values; rows are numbers into `cells`, which lie in the order of the table."""
    place = {name: number for number, name in enumerate(table.classes)}
    return {
        "table": table.digest,
        "classes": table.classes,
        "keys": keys_of(table.classes),
        "notACell": NOT_A_CELL,
        "unsure": UNSURE,
        "cells": [
            {
                "id": cell.id,
                "answer": place.get(cell.answer, -1),
                "best": place[cell.best],
                "probability": cell.probability,
                "chances": [round(one, 4) for one in cell.probabilities],
                "flags": cell.flags,
                "set": cell.set,
            }
            for cell in table.cells
        ],
    }


def keys_of(classes: Sequence[str]) -> list[str]:
    """The keys that choose each class, as "1m": a digit for the first nine, and a letter while there are letters.

    A letter is the first one of the class's name that is free, or any other; a class without a key is named in full.
    """
    free = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in RESERVED]
    letters = [""] * len(classes)
    # First letters before others: what is typed without a look should be right.
    for wish in (lambda name: name[:1], lambda name: name, lambda name: "".join(free)):
        for number, name in enumerate(classes):
            found = next((letter for letter in wish(name.lower()) if letter in free), "") if not letters[number] else ""
            if found:
                free.remove(found)
                letters[number] = found
    return [f"{DIGITS[number : number + 1]}{letter}" for number, letter in enumerate(letters)]


def small_picture(table: ReviewTable, row: int) -> bytes:
    """A cell's image as a JPEG, at most 112 px on its longer side. Raises: ImageError where it is absent or none."""
    return thumbnails.jpeg(thumbnails.reduced(read_rgb(table.picture(row))), sharp=True)


def large_picture(table: ReviewTable, row: int) -> bytes:
    """A cell's image as a PNG, at most 640 px on its longer side. Raises: ImageError."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(thumbnails.reduced(read_rgb(table.picture(row)), LARGE)).save(file, format="PNG")
    return file.getvalue()
