"""A figure's two forms: inline SVG for a page, which follows the page's theme, and a file for a publication.

Both come from one drawing. Text stays text, and a text of the data is never read as markup or as mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cellfeat.artifacts import atomic_file
from cellfeat.drawing import own_style
from cellfeat.errors import CellfeatError
from cellfeat.figures import (
    COLOURS,
    FAINT,
    FILE_POINTS,
    INK,
    LINE,
    ONE_COLUMN,
    PAGE_POINTS,
    PAPER,
    QUIET,
    Figure,
    Panel,
    free,
    printable,
    slug,
)

FORMATS = ("svg", "pdf", "png")
PAGE_WIDTH = 360  # px of one column: what a phone has

_VARIABLES = {PAPER: "--paper", INK: "--ink", QUIET: "--quiet", LINE: "--line", FAINT: "--faint"}
_VARIABLES |= {colour: f"--c{number}" for number, colour in enumerate(COLOURS)}
_MADE_BY = "Made by cellfeat report"
_OWN = {  # what a file begins with that a report, or its figure, left; a PDF says it near its end
    ".html": rb'<!doctype html>\s*<html[^>]*>\s*<head>\s*(<meta [^>]*>\s*)*?<meta name="cellfeat-built-from" '
    rb'content="report-',
    ".svg": rb"<\?xml[^>]*\?>\s*<svg [^>]*>\s*<desc>Made by cellfeat report</desc>",
    ".png": rb"(?s)\x89PNG.{0,200}?tEXtSoftware\0Made by cellfeat report",
    ".pdf": rb"(?s)%PDF-.*/Creator \(Made by cellfeat report\)",
}
_FAMILIES = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_DPI = 300


def for_page(panel: Panel, prefix: str) -> str:
    """The panel as an SVG element with the page's colours. prefix: of its ids, which no other drawing may share."""
    scale = PAGE_WIDTH / ONE_COLUMN
    with _canvas(panel.width, panel.height) as figure:
        panel.draw(figure, PAGE_POINTS)
        root = _svg(figure, prefix)
    root.set("width", f"{panel.width * scale:.0f}")
    root.set("height", f"{panel.height * scale:.0f}")
    root.set("role", "img")
    root.set("aria-label", printable(f"{panel.title}: {panel.alt}" if panel.title else panel.alt, 2000))
    for element in root.iter():
        style = element.get("style")
        if style:
            element.set("style", _themed(style))
    _hoist(root)
    return ElementTree.tostring(root, encoding="unicode")


def save(figure: Figure, folder: Path, kind: str, taken: set[str] | None = None) -> list[Path]:
    """Write a figure as one file, or as a file per panel; gives their paths. kind: one of `FORMATS`.

    A file of that name that a report made is replaced. taken: names in this folder that other figures have; these
    figures' are added.

    Raises: CellfeatError where another file has the name.
    """
    name, taken = slug(figure.name), set() if taken is None else taken
    parts = [(name, list(figure.panels))]
    if figure.apart:
        parts = [(f"{name}-{slug(panel.title)}", [panel]) for panel in figure.panels]
    written = []
    for wanted, panels in parts:
        path = folder / f"{free(wanted, taken)}.{kind}"
        refuse_foreign(path)
        with atomic_file(path) as partial:
            partial.write_bytes(_file(panels, 1 if figure.apart else figure.columns, kind))
        written.append(path)
    return written


def refuse_foreign(path: Path) -> None:
    """Raises: CellfeatError where something exists that is no report's page or figure."""
    own = _OWN.get({".htm": ".html"}.get(path.suffix.lower(), path.suffix.lower()), rb"(?!)")
    if path.exists() and not (path.is_file() and re.match(own, path.read_bytes())):
        raise CellfeatError(f"{path} exists and was not made by cellfeat report; move it away, or choose another name")


@contextmanager
def _canvas(width: float, height: float) -> Iterator[Any]:
    """An empty figure of so many mm in our own style."""
    import logging
    import warnings

    import matplotlib
    from matplotlib.figure import Figure as Drawing

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "cellfeat",
        "pdf.fonttype": 42,
        "font.family": ["DejaVu Sans"],
        "path.simplify": False,
        "axes.edgecolor": QUIET,
        "text.color": INK,
    }
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with own_style(), matplotlib.rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        # Signs that the measuring font lacks are drawn by the reader's own in SVG.
        warnings.filterwarnings("ignore", message=".*Glyph.*missing from.*font")
        logger.setLevel(logging.ERROR)
        try:
            yield Drawing(figsize=(width / 25.4, height / 25.4), facecolor="none", layout="constrained")
        finally:
            logger.setLevel(level)


def _svg(figure: Any, prefix: str) -> ElementTree.Element:
    """The drawing as an SVG element without namespaces, metadata and needless ids."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(text.getvalue())
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.set(name.partition("}")[2], element.attrib.pop(name))
    for parent in root.iter():
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    _name_ids(root, prefix)
    root.attrib.pop("version", None)
    return root


def _name_ids(root: ElementTree.Element, prefix: str) -> None:
    """Ids that are referred to begin with the prefix; the others go."""
    used = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "href" and value.startswith("#"):
                used.add(value[1:])
                element.set(name, f"#{prefix}-{value[1:]}")
            elif value.startswith("url(#"):
                used.add(value[5:-1])
                element.set(name, f"url(#{prefix}-{value[5:-1]})")
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{prefix}-{own}")


def _themed(style: str) -> str:
    def variable(found: re.Match[str]) -> str:
        name = _VARIABLES.get(found[0])
        return f"var({name})" if name else found[0]

    style = re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", style)  # as some matplotlibs write it
    style = re.sub(r"font-family: [^;]*;? ?", "", style)  # the page's own family
    return re.sub(r"#[0-9a-f]{6}\b", variable, style)


def _hoist(root: ElementTree.Element) -> None:
    """Say the style that all points of a group share once, and their places by tenths of a point."""
    for group in root.iter("g"):
        points = group.findall("use")
        if len(points) < 2 or len({point.get("style") for point in points}) > 1:
            continue
        style = points[0].get("style")
        for point in points:
            point.attrib.pop("style", None)
            for name in ("x", "y"):
                point.set(name, f"{float(point.get(name, 0)):.1f}")
        if style and not group.get("style"):
            group.set("style", style)
        elif style:
            group.set("style", f"{group.get('style')}; {style}")


def _file(panels: Sequence[Panel], columns: int, kind: str) -> bytes:
    """The panels as one drawing, row by row."""
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    width = max(sum(panel.width for panel in row) for row in rows)
    heights = [max(panel.height for panel in row) for row in rows]
    with _canvas(width, sum(heights)) as figure:
        figure.set_facecolor(PAPER)
        grid = figure.subfigures(len(rows), columns, squeeze=False, height_ratios=heights)
        for row, places in zip(rows, grid, strict=True):
            for panel, place in zip(row, places, strict=False):
                place.set_facecolor("none")
                if panel.title:
                    place.suptitle(
                        printable(panel.title, 60), fontsize=FILE_POINTS, x=0.02, ha="left", parse_math=False
                    )
                panel.draw(place, FILE_POINTS)
        return _svg_file(figure, width, sum(heights)) if kind == "svg" else _other_file(figure, kind)


def _svg_file(figure: Any, width: float, height: float) -> bytes:
    root = _svg(figure, "f")
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("width", f"{width:g}mm")
    root.set("height", f"{height:g}mm")
    for element in root.iter():
        style = element.get("style")
        if style:
            style = re.sub(r"(font: [\d.]+px) [^;]*", rf"\1 {_FAMILIES}", style)
            element.set("style", re.sub(r"font-family: [^;]*", f"font-family: {_FAMILIES}", style))
    root.insert(0, ElementTree.Element("desc"))
    root[0].text = _MADE_BY
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _other_file(figure: Any, kind: str) -> bytes:
    metadata = {"pdf": {"Creator": _MADE_BY, "CreationDate": None}, "png": {"Software": _MADE_BY}}[kind]
    data = BytesIO()
    figure.savefig(data, format=kind, dpi=_DPI, metadata=metadata)
    return data.getvalue()
