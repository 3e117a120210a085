"""Pages that open from a disk: one HTML file with its style, scripts, pictures and data inside, and no network.

Everything that comes from data is escaped: in HTML by the templates (Jinja, autoescape), in JSON so that no text can
end its block. A content security policy lets run the page's own scripts alone, by their digests, and forbids every
request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
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
    own = [_text(name) for name in (SHARED_SCRIPT, *scripts)]
    return _rendered(template, _style(styles), own, policy(own), data, values)


def render_served(
    template: str, styles: Sequence[str] = (), scripts: Sequence[str] = (), data: Any = None, **values: Any
) -> tuple[str, str]:
    """As `render`, of a page that a server of this machine hands out, which it may ask for pictures and data: the page,
    and its content security policy for the server to send along."""
    own, style = [_text(name) for name in (SHARED_SCRIPT, *scripts)], _style(styles)
    framed = f"\n{style}\n"  # as it stands in base.html
    served = (
        f"default-src 'none'; script-src {_digests(own)}; style-src {_digests([framed])}; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return _rendered(template, style, own, served, data, values), f"{served}; frame-ancestors 'none'"


def _style(names: Sequence[str]) -> str:
    return "\n".join(_text(name) for name in (SHARED_STYLE, *names))


def _rendered(
    template: str, style: str, scripts: Sequence[str], allowed: str, data: Any, values: Mapping[str, Any]
) -> str:
    from markupsafe import Markup

    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            policy=allowed,
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
    # Drawn figures carry style attributes, so styles cannot be named by digest; without a source they fetch nothing.
    return (
        f"default-src 'none'; script-src {_digests(scripts)}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digests(texts: Sequence[str]) -> str:
    """These inline texts as sources of a policy."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


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
