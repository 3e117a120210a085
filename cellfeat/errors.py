"""Errors a user can act on: one line that says what was got, what was possible and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class CellfeatError(Exception):
    """Bad input or a state the user can mend; the command line prints it as one line and exits with 2."""


class UnseenDomainError(CellfeatError):
    """An aligner was asked to transform cells of a domain it was not fitted on and has no way to place."""

    def __init__(self, method: str, unseen: Iterable[str], seen: Iterable[str]) -> None:
        self.unseen = sorted(set(unseen))
        super().__init__(
            f"align {method!r} cannot place the new domain {', '.join(map(repr, self.unseen))}; it was fitted on "
            f"{', '.join(sorted(set(seen)))}. Fit it with the new domain among the adapted ones "
            "(run: --adapt test or heldout; predict, transform and smear: --refit; in Python: target= or refit)"
        )


def unknown(kind: str, got: str, choices: Iterable[str], remedy: str = "") -> str:
    """Message for a name that is not among `choices`: the nearest ones first, then all of them.

    >>> unknown("align", "cea", ["cae", "none"])
    "no align named 'cea'. Did you mean 'cae'? Available: cae, none"
    """
    names = sorted(choices)
    by_lower = {name.lower(): name for name in names}
    near = [by_lower[name] for name in get_close_matches(got.lower(), by_lower, n=2, cutoff=0.6)]
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listing = ", ".join(names) if names else "nothing"
    return f"no {kind} named {got!r}.{guess} Available: {listing}{'. ' + remedy if remedy else ''}"


@contextmanager
def blamed(method: str, name: str) -> Iterator[None]:
    """Around other people's code: an error that is no message for the user says at its end whose it is."""
    try:
        yield
    except CellfeatError:
        raise
    except Exception as error:
        error.add_note(
            f"This was raised by {method}. Tell its author, who finds more by `cellfeat plugins check {name}`."
        )
        raise
