"""Messages that may be passed on: they name files, and not the folders of whoever made them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

ROOT = r"(?:[a-z][a-z0-9+.-]*://|~?/|[A-Za-z]:\\|\\\\)"  # what a path or an address begins with


def without_folders(text: str, known: Iterable[str] = ()) -> str:
    """The text with the last name alone of every path and address in it that begins at a root.

    known: paths that may be in it, which spaces then cannot divide.
    """
    for path in known:
        if path in text:
            text = text.replace(path, PurePath(path).name)
    quoted = re.sub(rf"(['\"]){ROOT}[^'\"]*[/\\]([^'\"]*)\1", r"\1\2\1", text)
    return re.sub(rf"(?<![\w.])({ROOT})[^\s'\"]*[/\\](?=[^\s/\\])|(?<![\w./])/(?=\w)", "", quoted)
