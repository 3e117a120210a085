"""`cellfeat plugins check`: whether a plugin keeps the contract of its slots, told while it is being looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellfeat.errors import CellfeatError, unknown
from cellfeat.slots import SLOTS

if TYPE_CHECKING:
    from cellfeat.registry import Broken, Offer, Registry
    from cellfeat.testing.checks import Finding

STATES = {True: "ok", False: "FAILED", None: "not asked"}
STYLES = {True: "green", False: "bold red", None: "dim"}


@dataclass
class Examined:
    """One method, how it is looked at, and what was found so far. asked: how many checks there are for it."""

    offer: Offer
    params: dict[str, Any]
    only: list[str]
    asked: int
    found: list[Finding] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.offer.slot} {self.offer.name}"

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.found if finding.passed is False]

    @property
    def holds(self) -> bool:
        """Whether every check asked for was made, and none failed; --only may leave out what others wait for."""
        return len(self.found) == self.asked and not any(one.awaited or one.passed is False for one in self.found)

    def summary(self) -> str:
        """As in "backbone colour: 1 of 19 checks failed, 2 not asked, 3.4 s"."""
        skipped = sum(finding.passed is None for finding in self.found)
        seconds = sum(finding.seconds for finding in self.found)
        passed = len(self.found) - skipped - len(self.failed)
        verdict = f"{len(self.failed)} of {self.asked} checks failed" if self.failed else ""
        parts = [verdict or f"{passed} of {self.asked} checks passed"]
        parts += [f"{skipped} not asked"] if skipped else []
        parts += [f"{self.asked - len(self.found)} not reached"] if len(self.found) < self.asked else []
        return f"{self.title}: {', '.join(parts)}, {seconds:.1f} s"

    def as_dict(self) -> dict[str, Any]:
        states = {True: "passed", False: "failed", None: "not asked"}
        return {
            **{name: getattr(self.offer, name) for name in ("slot", "name", "plugin", "distribution", "version")},
            "params": {name: str(value) for name, value in self.params.items()},
            "passed": self.holds,
            "findings": [{**asdict(finding), "passed": states[finding.passed]} for finding in self.found],
        }


def check(
    name: Annotated[
        str, typer.Argument(help="A method's name, or distribution:name; or a plugin or distribution: all its methods")
    ],
    slot: Annotated[str | None, typer.Option(help=f"Of this slot only: {', '.join(SLOTS)}")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameters to check it with: epochs=1")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="This check alone; repeat for several")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds that one fit, or one pass, may take; default: 60")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document")] = False,
) -> None:
    """Look at a method with every check of its slot; each fault is told with what to do.

    Exit status: 0 where all passed that have something to look at, 1 where a check failed or could not be made or the
    plugin did not load, 2 for a wrong question.
    """
    from cellfeat.registry import installed

    offers, broken = _named(installed(), name, slot)
    examined = [*_examined(offers, sets or [], only or [])]
    complete = True
    try:
        for one in examined:
            _look(one, budget, silent=as_json)
    except KeyboardInterrupt:
        complete = False
    if as_json:
        print(json.dumps(_document(examined, broken, complete), indent=1))
    else:
        _tell(examined, broken, complete)
    if broken or not all(one.holds for one in examined):
        raise typer.Exit(1)


def document(
    name: str, slot: str | None, sets: Sequence[str], only: Sequence[str], budget: float | None
) -> Mapping[str, Any]:
    """What `--json` prints, found without a word on the terminal; arguments as of the command."""
    from cellfeat.registry import installed

    offers, broken = _named(installed(), name, slot, silent=True)
    examined = [*_examined(offers, sets, only)]
    for one in examined:
        _look(one, budget, silent=True)
    return _document(examined, broken, complete=True)


def _named(registry: Registry, name: str, slot: str | None, silent: bool = False) -> tuple[list[Offer], list[Broken]]:
    """What is to be looked at, and what of it did not load. Raises: CellfeatError for what is not there."""
    if slot is not None and slot not in SLOTS:
        raise CellfeatError(unknown("slot", slot, SLOTS))
    distribution, _, bare = name.rpartition(":")
    methods = [one for one in registry.offers if one.name == bare and distribution in ("", one.distribution)]
    whole = [one for one in registry.offers if name in (one.plugin, one.distribution)]
    broken = [one for one in registry.broken if name in (one.plugin, one.distribution, one.method)]
    if not methods and not whole and not broken:
        known = {text for one in registry.offers for text in (one.name, one.plugin, one.distribution)}
        raise CellfeatError(unknown("method or plugin", name, known, registry.not_loaded()))
    for offers in (methods, whole):
        found = [one for one in offers if slot in (None, one.slot)]
        if found:
            if not silent:
                _tell_of_others(name, found, whole)
            return found, broken if offers is whole else []
    if methods or whole:
        places = ", ".join(sorted({one.slot for one in (*methods, *whole)}))
        raise CellfeatError(f"{name!r} has nothing in the slot {slot}; it is in: {places}")
    return [], broken


def _tell_of_others(name: str, found: Sequence[Offer], whole: Sequence[Offer]) -> None:
    """A plugin may be called as one of its methods is, which is then meant."""
    from cellfeat.console import note

    others = [one for one in whole if one not in found and found[0].plugin == one.plugin]
    if others:
        note(f"{name} is a method, and the name of a plugin that has others: {_titles(others)}")


def _examined(offers: Sequence[Offer], sets: Sequence[str], only: Sequence[str]) -> Iterator[Examined]:
    """Every method with its parameters and checks. Raises: CellfeatError for those that none of them has."""
    from cellfeat.testing.checks import find
    from cellfeat.testing.kit import checks_of

    values = [_assigned(text) for text in sets]
    for section, key, value in values:
        takers = [one for one in offers if section in ("", one.slot)]
        if takers and not any(key in one.parameters().model_fields for one in takers):
            takers[0].arguments({key: value})  # says which there are
        if offers and not takers:
            raise CellfeatError(f"--set {section}.{key}: no {section} is looked at, but {_titles(offers)}")
    known = {item.name: item for one in offers for item in checks_of(one.slot)}
    for name in only:
        find([*known.values()], name)
    for one in offers:
        fields = one.parameters().model_fields
        given = {key: value for section, key, value in values if section in ("", one.slot) and key in fields}
        typed = one.arguments(given)
        names = [item.name for item in checks_of(one.slot)]
        chosen = [item for item in names if item in only] if only else names
        if chosen:
            yield Examined(one, {key: typed[key] for key in given}, chosen, len(chosen))


def _titles(offers: Iterable[Offer]) -> str:
    return ", ".join(f"{one.slot} {one.name}" for one in offers)


def _assigned(text: str) -> tuple[str, str, Any]:
    """(slot or "", key, value) of key=value or slot.key=value; values are YAML."""
    import yaml

    path, equals, value = text.partition("=")
    section, _, key = path.strip().rpartition(".")
    section = "classifier" if section == "clf" else section
    if not equals or not key or section not in ("", *SLOTS):
        raise CellfeatError(f"--set {text!r} is not of the form key=value, as in epochs=1, or slot.key=value")
    try:
        return section, key, yaml.safe_load(value)
    except yaml.YAMLError:
        return section, key, value


def _look(one: Examined, budget: float | None, silent: bool) -> None:
    """Make every check, and tell of each when it is done."""
    from cellfeat.console import console
    from cellfeat.testing.checks import find, looked_at
    from cellfeat.testing.kit import checks_of, subject
    from cellfeat.testing.subject import BUDGET

    if not silent:
        given = "".join(f", {key}={value}" for key, value in one.params.items())
        console.print(f"{one.title}, {one.offer.distribution} {one.offer.version}{given}", style="bold", markup=False)
    allowed = BUDGET if budget is None else budget
    with subject(one.offer.slot, one.offer.factory, one.params, None, allowed) as looked_on:
        for name in one.only:
            if not silent and console.is_terminal:
                console.print(f"  …         {name}", end="\r", markup=False)
            finding = looked_at(find(checks_of(one.offer.slot), name), looked_on)
            one.found.append(finding)
            if not silent:
                _show(finding)


def _show(finding: Finding) -> None:
    from rich.text import Text

    from cellfeat.console import console

    reason = f": {finding.text}" if finding.passed is None else ""
    state = (f"  {STATES[finding.passed]:<9}", STYLES[finding.passed])
    console.print(
        Text.assemble(state, f" {finding.check:<20}{finding.seconds:>7.1f} s  {finding.promise}{reason}"),
        overflow="ellipsis" if console.is_terminal else "ignore",
        no_wrap=True,
        crop=console.is_terminal,
    )


def _tell(examined: Sequence[Examined], broken: Sequence[Broken], complete: bool) -> None:
    """What failed and what to do, and a line for every method."""
    from cellfeat.console import console

    def line(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, style=style, soft_wrap=True)

    for item in broken:
        line(f"{item.plugin} of {item.distribution} did not load: {item.reason}", STYLES[False])
        if item.remedy:
            line(f"  what to do: {item.remedy}")
    for one in examined:
        for finding in one.failed:
            line(f"\n{one.title}: {finding.check}: {finding.text}", STYLES[False])
            line(f"  what to do: {finding.remedy}")
    if examined:
        line("")
    for one in examined:
        line(one.summary(), STYLES[False] if one.failed else None)
    if not complete:
        line("Interrupted; what had been found by then is above.")


def _document(examined: Sequence[Examined], broken: Sequence[Broken], complete: bool) -> Mapping[str, Any]:
    methods = [one.as_dict() for one in examined]
    return {
        "passed": complete and not broken and all(one["passed"] for one in methods),
        "complete": complete,
        "methods": methods,
        "broken": [asdict(item) for item in broken],
    }
