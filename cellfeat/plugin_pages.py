"""What `cellfeat plugins` says of methods: their facts in words, and lists and pages for other programs and docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from cellfeat.declared import Facts
from cellfeat.parameters import default_text, kind
from cellfeat.registry import Broken, Offer, Registry
from cellfeat.requirements import OWN, plain
from cellfeat.single_files import is_single_file

KINDS = {"backbone": "backbone", "segmenter": "segmenter", "align": "alignment method", "classifier": "classifier"}
OPTIONS = {"backbone": "--backbone", "segmenter": "--segmenter", "align": "--align", "classifier": "--clf"}
UNTOLD = "depends on its parameters"
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fact_rows(slot: str, facts: Facts) -> list[tuple[str, str]]:
    """The facts by what a user calls them, those of aligners only for an aligner."""
    own = [
        ("reads", UNTOLD if facts.reads is None else ", ".join(facts.reads)),
        ("writes", facts.writes or UNTOLD),
        ("needs target images", _said(facts.uses_target)),
        ("needs labels", _said(facts.uses_labels)),
        ("several sources", _said(facts.several_sources)),
    ]
    return [
        *(own if slot == "align" else []),
        *([("finds cells in photographs", _said(facts.detects))] if slot == "segmenter" else []),
        ("deterministic", _said(facts.deterministic)),
        ("plugin API", str(facts.api)),
        ("requires cellfeat", facts.requires_cellfeat or "any"),
        ("licence", facts.licence or "not said"),
        ("paper", facts.paper or "none named"),
    ]


def _said(flag: bool | None) -> str:
    return UNTOLD if flag is None else "yes" if flag else "no"


def parameter_rows(offer: Offer) -> list[tuple[str, str, str]]:
    """(SECTION.KEY as `--set` takes it, type, default) of every parameter."""
    fields = offer.parameters().model_fields
    return [
        (f"{offer.slot}.{key}", kind(field.annotation), ADDRESS.sub("", default_text(field)))
        for key, field in fields.items()
    ]


def listing(registry: Registry) -> dict[str, Any]:
    """Every method with its facts, and what did not load, as JSON values."""
    ordered = sorted(registry.offers, key=lambda offer: (offer.slot, offer.name, offer.distribution))
    return {
        "offers": [_values(offer) for offer in ordered],
        "broken": [_reason(item) for item in registry.broken],
        "left_out": registry.left_out,
    }


def details(offers: Iterable[Offer], broken: Iterable[Broken]) -> dict[str, Any]:
    """Some methods with their documentation and parameters, and what did not load, as JSON values."""
    found = [
        {
            **_values(offer),
            "documentation": inspect.getdoc(offer.factory) or "",
            "parameters": [dict(zip(("set", "type", "default"), row, strict=True)) for row in parameter_rows(offer)],
        }
        for offer in offers
    ]
    return {"offers": found, "broken": [_reason(item) for item in broken]}


def _values(offer: Offer) -> dict[str, Any]:
    names = ("slot", "name", "plugin", "distribution", "version", "summary")
    return {**{name: getattr(offer, name) for name in names}, "facts": offer.facts().as_dict()}


def _reason(item: Broken) -> dict[str, str]:
    return {name: getattr(item, name) for name in ("plugin", "distribution", "reason", "remedy")}


def requirements(registry: Registry) -> str:
    """Lines for pip that name every distribution that offers something, but for cellfeat itself."""
    lines = []
    for name, version in sorted({(offer.distribution, offer.version) for offer in registry.offers}):
        if is_single_file(name, version):
            lines.append(f"# {name} {version} is a single file: make it a package first (cellfeat plugins new)")
        elif plain(name) != OWN:
            lines.append(f"{name}=={version}")
    return "".join(f"{line}\n" for line in lines)


def page(offer: Offer) -> str:
    """A method's whole page as Markdown, the same on every machine."""
    facts, parameters = fact_rows(offer.slot, offer.facts()), parameter_rows(offer)
    keys = [key.partition(".")[2] for key, _, _ in parameters]
    required = [f" --set {key}=…" for key, _, default in parameters if default == "required"]
    parts = [
        f"# {offer.name}",
        f"{KINDS[offer.slot].capitalize()} of the plugin `{offer.plugin}`, distribution `{offer.distribution}`.",
        f"```\ncellfeat run {OPTIONS[offer.slot]} {offer.name}{''.join(required)}\n```",
        _described(inspect.getdoc(offer.factory) or "", keys),
        "## Facts",
        _table(("fact", "value"), [(name, _cell(value)) for name, value in facts]),
        "## Parameters",
    ]
    if parameters:
        rows = [tuple(f"`{_cell(text)}`" for text in row) for row in parameters]
        parts.append(_table(("`--set`", "type", "default"), rows))
    else:
        parts.append("None.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _described(text: str, parameters: Sequence[str]) -> str:
    """A docstring as Markdown: what is said of a parameter becomes an item of a list, indentation means nothing."""
    if "```" in text or not text:  # its author wrote Markdown
        return text
    names = "|".join(map(re.escape, parameters)) or "(?!)"
    told = re.compile(rf"((?:{names})(?:, (?:{names}))*): ")
    blocks = [_block(block, told) for block in re.split(r"\n\s*\n", text)]
    return "\n\n".join(block for block in blocks if block)


def _block(block: str, told: re.Pattern[str]) -> str:
    """One paragraph, with an empty line before the first item of its list."""
    text, items = [], []
    for line in map(str.strip, block.splitlines()):
        found = told.match(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            items.append(f"- {names}: {line[found.end() :]}")
        elif items:
            items.append(f"  {line}")
        elif line != "Args:":
            text.append(line)
    return "\n\n".join("\n".join(lines) for lines in (text, items) if lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
