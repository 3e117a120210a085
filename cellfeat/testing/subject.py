"""A plugin under examination: its factory, the parameters it is checked with, and where it may work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cellfeat.slots import MEMBERS, Context
from cellfeat.testing.checks import Failed
from cellfeat.testing.toys import cpu_context

BUDGET = 60.0  # seconds for one fit, or one pass of an encoder, on the toys


@dataclass(eq=False)
class Subject:
    """What the checks of every slot share.

    folder: an empty one for scratch and saved states. budget: seconds that one fit, or one pass, may take.
    """

    slot: ClassVar[str]
    factory: Callable[..., Any]
    params: Mapping[str, Any]
    folder: Path
    budget: float = BUDGET
    _made: int = field(default=0, init=False)

    def judged(self) -> Any:
        """The object that the checks looked at, for whoever goes on with it; aligners and classifiers are fitted."""
        raise NotImplementedError

    def made(self, context: Context | None = None) -> Any:
        """A new product of the factory, with every member that its slot asks for."""
        self._made += 1
        given = dict(self.params)
        if "context" in inspect.signature(self.factory).parameters and "context" not in given:
            given["context"] = context or cpu_context(self.folder / f"made-{self._made}")
        product = self.factory(**given)
        missing = [member for member in MEMBERS[self.slot] if not hasattr(product, member)]
        if missing:
            needed = ", ".join(MEMBERS[self.slot])
            raise Failed(f"the {self.slot} lacks {', '.join(missing)}; it needs {needed}")
        return product
