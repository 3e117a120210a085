"""Pages that open from a disk: one HTML file with its style, scripts, pictures and data inside, and no network.

Everything that comes from data is escaped: in HTML by the templates (Jinja, autoescape), in JSON so that no text can
end its block. A content security policy lets run the page's own scripts alone, by their digests, and forbids every
request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat.artifacts import atomic_file

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SHARED_STYLE, SHARED_SCRIPT = "page.css", "page.js"


def render(
    template: str, styles: Sequence[str] = (), scripts: Sequence[str] = (), data: Any = None, **values: Any
) -> str:
    """A whole page.

    Args:
        template: a file of `templates/` that extends `base.html`.
        styles, scripts: further files of `templates/`, after the ones that all pages share.
        data: JSON for the page's scripts, in `#data`; None: no such block.
        values: what the template shows; text is escaped.
    """
    from markupsafe import Markup

    own = [_text(name) for name in (SHARED_SCRIPT, *scripts)]
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup("\n".join(_text(name) for name in (SHARED_STYLE, *styles))),
            scripts=[Markup(text) for text in own],
            policy=policy(own),
            data=None if data is None else Markup(json_block(data)),
            **values,
        )
    )


def write(path: Path, text: str) -> None:
    """A page as a file, replaced whole."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """The content security policy of a page with these scripts: they run, nothing else does, nothing is fetched."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    # Drawn figures carry style attributes, so styles cannot be named by digest; without a source they fetch nothing.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_block(data: Any) -> str:
    """JSON that may stand between script tags, whatever texts it holds.

    Raises: ValueError where a number is NaN or infinite, which browsers do not read.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def sources_digest(names: Sequence[str]) -> str:
    """Beginning of the SHA-256 over these files of `templates/` and the ones that all pages share."""
    every = sorted({"base.html", SHARED_STYLE, SHARED_SCRIPT, *names})
    return hashlib.sha256("\0".join(_text(name) for name in every).encode()).hexdigest()[:16]


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
