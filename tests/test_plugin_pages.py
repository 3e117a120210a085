"""What is said of methods to people and to programs: facts in words, JSON, requirements, Markdown."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Literal

import pytest
from helpers import Identity

from cellfeat.plugin_pages import fact_rows, listing, page, parameter_rows, requirements
from cellfeat.registry import Broken, Offer, Registry, installed


class Method(Identity):
    """Does nothing, well.

    Somebody, 2020: x -> 2 * x | y.

    epochs: how often nothing
        is done. mode: how.
    width, path: of nothing.

    1. First.
    """

    paper, deterministic = "Somebody, 2020", False

    def __init__(
        self,
        epochs: int = 3,
        mode: Literal["a", "b"] = "a",
        width: int | None = None,
        path: Path = Path("a/b"),
        call=lambda: None,
    ) -> None: ...


def offer(factory=Method, slot="align", name="nothing", **about) -> Offer:
    return Offer(slot, name, factory, "toys", "toys-dist", "1.0", **about)


def test_facts_are_said_in_words():
    assert dict(fact_rows("align", offer(requires_cellfeat=">=0.1", licence="MIT").facts())) == {
        "reads": "pooled",
        "writes": "pooled",
        "needs target images": "yes",
        "needs labels": "no",
        "several sources": "yes",
        "deterministic": "no",
        "plugin API": "1",
        "requires cellfeat": ">=0.1",
        "licence": "MIT",
        "paper": "Somebody, 2020",
    }


def test_facts_that_are_not_known_are_said_to_depend_on_parameters():
    def make(model):
        return Method()

    rows = dict(fact_rows("align", offer(make).facts()))
    assert {rows[name] for name in ("reads", "writes", "needs target images", "needs labels")} == {
        "depends on its parameters"
    }
    assert (rows["requires cellfeat"], rows["licence"], rows["paper"]) == ("any", "not said", "none named")


def test_other_slots_have_no_facts_of_aligners():
    assert [name for name, _ in fact_rows("classifier", offer(dict, "classifier").facts())] == [
        *("deterministic", "plugin API", "requires cellfeat", "licence", "paper")
    ]


def test_a_segmenter_says_whether_it_finds_cells_in_photographs():
    class Detects(Method):
        def detect(self, image): ...

    said = [dict(fact_rows("segmenter", offer(one, "segmenter").facts())) for one in (Detects, Method, lambda: None)]
    assert [one["finds cells in photographs"] for one in said] == ["yes", "no", "depends on its parameters"]


PAGE = """\
# nothing

Alignment method of the plugin `toys`, distribution `toys-dist`.

```
cellfeat run --align nothing
```

Does nothing, well.

Somebody, 2020: x -> 2 * x | y.

- `epochs`: how often nothing
  is done. mode: how.
- `width`, `path`: of nothing.

1. First.

## Facts

| fact | value |
| --- | --- |
| reads | pooled |
| writes | pooled |
| needs target images | yes |
| needs labels | no |
| several sources | yes |
| deterministic | no |
| plugin API | 1 |
| requires cellfeat | any |
| licence | not said |
| paper | Somebody, 2020 |

## Parameters

| `--set` | type | default |
| --- | --- | --- |
| `align.epochs` | `int` | `3` |
| `align.mode` | `Literal['a', 'b']` | `'a'` |
| `align.width` | `int \\| None` | `None` |
| `align.path` | `Path` | `'a/b'` |
| `align.call` | `Any` | `<function Method.<lambda>>` |
"""


def test_a_page_is_the_same_on_every_machine():
    assert page(offer()) == PAGE


def test_a_page_names_what_must_be_given_and_a_method_without_parameters_says_so():
    def make(model: str):
        """Made of a model."""

    text = page(offer(make, "classifier"))
    assert "cellfeat run --clf nothing --set classifier.model=…\n" in text
    assert "| `classifier.model` | `str` | `required` |" in text
    assert page(offer(functools.partial(Identity))).endswith("## Parameters\n\nNone.\n")


def test_a_documentation_that_is_markdown_stays_as_it_is():
    def make():
        """One.

            indented

        ```
        a: b
        ```
        """

    assert "One.\n\n    indented\n\n```\na: b\n```\n\n## Facts" in page(offer(make, "classifier"))


@pytest.mark.parametrize("one", installed().offers, ids=lambda one: f"{one.slot}-{one.name}")
def test_every_shipped_method_has_a_page_without_a_trace_of_this_machine(one):
    text = page(one)
    for word in (" at 0x", str(Path.home()), sys.prefix, "PosixPath", "\n\n\n"):
        assert word not in text
    assert all(f"`{key}`" in text for key, _, _ in parameter_rows(one))


def test_a_listing_is_json_with_facts_and_what_is_broken():
    broken = Broken("bad", "bad-dist", "SyntaxError: x", "mend it")
    found = listing(Registry([offer(), offer(dict, "classifier", "a")], [broken], ["cae"]))
    assert json.loads(json.dumps(found)) == found
    assert [(one["slot"], one["name"]) for one in found["offers"]] == [("align", "nothing"), ("classifier", "a")]
    first = found["offers"][0]
    assert (first["plugin"], first["distribution"], first["version"]) == ("toys", "toys-dist", "1.0")
    assert (first["summary"], first["facts"]["deterministic"]) == ("Does nothing, well.", False)
    assert found["broken"] == [
        {"plugin": "bad", "distribution": "bad-dist", "reason": "SyntaxError: x", "remedy": "mend it"}
    ]
    assert found["left_out"] == ["cae"]


def test_requirements_name_the_distributions_of_others():
    offers = [
        Offer("align", name, Method, "p", distribution, version)
        for name, distribution, version in (
            ("a", "toys-dist", "1.0"),
            ("b", "toys-dist", "1.0"),
            ("c", "cellfeat", "0.1.0"),
            ("d", "mine.py", "0123456789ab"),
            ("e", "another", "2.0"),
        )
    ]
    assert requirements(Registry(offers)).splitlines() == [
        "another==2.0",
        "# mine.py 0123456789ab is a single file: make it a package first (cellfeat plugins new)",
        "toys-dist==1.0",
    ]
    assert requirements(Registry([])) == ""
