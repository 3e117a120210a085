"""What a new plugin may be called, and what its parts are called after that."""

from __future__ import annotations

import re
import unicodedata
from importlib.metadata import entry_points
from typing import NamedTuple

import yaml

from cellfeat.errors import CellfeatError, unknown
from cellfeat.plugin_sources import GROUP
from cellfeat.registry import Registry

OWN = "cellfeat"
FORM = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 32  # the names made of it still fit a line of code


class Kind(NamedTuple):
    """One of the four slots, as the author of a plugin meets it.

    slot: its name in the registry. option: of `cellfeat run`. file: the module that holds the method.
    noun: what a method of this slot is called in a sentence.
    """

    slot: str
    option: str
    file: str
    noun: str


KINDS = {
    "align": Kind("align", "align", "aligner", "alignment method"),
    "backbone": Kind("backbone", "backbone", "backbone", "backbone"),
    "segmenter": Kind("segmenter", "segmenter", "segmenter", "segmenter"),
    "clf": Kind("classifier", "clf", "classifier", "classifier"),
}


class Names(NamedTuple):
    """What is called how in the repository of one method.

    `product` is the class or function that makes the method. It ends in the slot's word, so that no method's name can
    make it a keyword of Python, or hide a name that its module imports.
    """

    method: str
    distribution: str
    module: str
    product: str


def kind_of(slot: str) -> Kind:
    """The slot called `slot` on the command line, where a recipe's `classifier` is `clf` too."""
    kind = KINDS.get("clf" if slot == "classifier" else slot)
    if kind is None:
        raise CellfeatError(unknown("slot", slot, KINDS))
    return kind


def names_for(kind: Kind, name: str, registry: Registry) -> Names:
    """The names of a new method's parts.

    Raises: CellfeatError for a name that has not the form, that YAML reads as something else, or that cellfeat has.
    Two distributions with one method of a name force everybody to write `distribution:name`, also in recipes that are
    there already: hence a shipped method's name is refused, and that of a stranger's plugin, which few have, is not.
    """
    _check_form(name)
    module = f"{OWN}_{name.replace('-', '_')}"
    made = Names(name, f"{OWN}-{name}", module, _product(kind, name))
    shipped = {offer.name for offer in registry.offers if offer.slot == kind.slot and offer.distribution == OWN}
    if name in shipped:
        raise CellfeatError(
            f"cellfeat comes with the {kind.noun} {name!r}, and two of one name would have to be told apart wherever "
            f"it is asked for; choose another name, as in {f'my-{name}'!r}"
        )
    owners = {point.dist.name for point in entry_points(group=GROUP) if point.dist and _top(point.value) == module}
    if owners - {made.distribution}:
        raise CellfeatError(
            f"the package {module} is a part of {min(owners)} already, and this plugin would hide it; choose another "
            f"name than {name!r}"
        )
    return made


def offered_by_others(kind: Kind, names: Names, registry: Registry) -> list[str]:
    """Installed distributions, other than the new one, that offer this name in this slot."""
    offers = [offer for offer in registry.offers if (offer.slot, offer.name) == (kind.slot, names.method)]
    return sorted({offer.distribution for offer in offers} - {names.distribution})


def _check_form(name: str) -> None:
    hint = _nearest(name)
    if not FORM.fullmatch(name):
        raise CellfeatError(
            f"{name!r} cannot name a method: lower-case letters, digits and single hyphens, a letter first{hint}"
        )
    if len(name) > LONGEST:
        raise CellfeatError(f"{name!r} has {len(name)} characters; {LONGEST} at most, since much is named after it")
    if name == OWN or name.startswith(f"{OWN}-"):
        raise CellfeatError(f"{name!r} would make the distribution {OWN}-{name}: leave {OWN!r} away{hint}")
    if yaml.safe_load(name) != name:
        raise CellfeatError(f"{name!r} means {yaml.safe_load(name)!r} in the YAML of a recipe; choose another name")
    if name == "baseline":
        raise CellfeatError("'baseline' is the other row of the suite that comes with the plugin; choose another name")


def _nearest(name: str) -> str:
    """ "; try …" with the name of the right form that is nearest, where there is one."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-").removeprefix(f"{OWN}-")
    plain = f"my-{plain}" if plain[:1].isdigit() else plain
    return f"; try {plain!r}" if FORM.fullmatch(plain) and plain not in (name, OWN) and len(plain) <= LONGEST else ""


def _product(kind: Kind, name: str) -> str:
    """UnitLengthAligner; for a classifier, which a function makes, unit_length_classifier."""
    if kind.slot == "classifier":
        return f"{name.replace('-', '_')}_{kind.file}"
    return "".join(word.capitalize() for word in (*name.split("-"), kind.file))


def _top(value: str) -> str:
    """The top-level package of an entry point's value."""
    return value.partition(":")[0].partition(".")[0]
