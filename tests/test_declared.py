"""Declared facts: read from factories and objects, refused where they are of a wrong type."""

from __future__ import annotations

import functools
import json

import pytest
from helpers import Identity

from cellfeat.declared import Facts, facts, faults


class Declaring(Identity):
    several_sources, deterministic = False, False
    paper, licence = "Somebody, doi 10.1000/1", "MIT"


class Depends(Identity):
    """Of which the class does not tell what the parameters decide."""

    def __init__(self, inputs: str = "images") -> None:
        self.reads = ("image",) if inputs == "images" else ("pooled",)
        self._labels = inputs == "images"

    @property
    def uses_labels(self) -> bool:
        return self._labels


def test_what_is_not_declared_has_its_default():
    found = facts("align", Identity)
    assert found == Facts(("pooled",), "pooled", True, False, True, True, 1, "", "", "")
    assert facts("backbone", Identity) == Facts(), "reads to uses_labels are an aligner's alone"


def test_what_is_declared_is_read_and_the_method_s_licence_is_before_the_distribution_s():
    found = facts("align", Declaring, api=1, requires_cellfeat=">=0.1", licence="Apache-2.0")
    assert (found.several_sources, found.deterministic, found.paper) == (False, False, "Somebody, doi 10.1000/1")
    assert (found.licence, found.requires_cellfeat) == ("MIT", ">=0.1")
    assert facts("align", Identity, licence="Apache-2.0").licence == "Apache-2.0"


@pytest.mark.parametrize(
    "factory", [Declaring, functools.partial(Declaring), functools.partial(functools.partial(Declaring))]
)
def test_a_partial_factory_declares_what_it_calls_declares(factory):
    assert facts("align", factory).paper == "Somebody, doi 10.1000/1"


def test_an_attribute_of_a_function_is_declared_too():
    def make():
        return Identity()

    make.deterministic = False
    assert facts("classifier", make).deterministic is False
    assert facts("align", make).reads == ("pooled",)


def test_facts_that_depend_on_parameters_are_those_of_the_defaults_and_then_of_the_object():
    assert facts("align", Depends).reads == ("image",)
    assert facts("align", Depends).uses_labels is True
    found = facts("align", Depends, Depends(inputs="features"))
    assert (found.reads, found.uses_labels) == (("pooled",), False)


@pytest.mark.parametrize("reason", ["a parameter without a default", "a context", "an error"])
def test_facts_of_what_cannot_be_built_are_not_known(reason):
    def asks(model):
        return Depends()

    def wants(context=None):
        return Depends()

    def fails():
        raise SystemExit("no GPU")

    factory = {"a parameter without a default": asks, "a context": wants, "an error": fails}[reason]
    assert facts("align", factory) == Facts()


def test_nothing_is_built_where_the_factory_tells():
    class Heavy(Identity):
        def __init__(self):
            raise AssertionError("it was built")

    assert facts("align", Heavy).reads == ("pooled",)


def test_a_class_that_cannot_be_built_still_tells_what_its_attributes_say():
    class Needs(Identity):
        def __init__(self, path):
            pass

    assert facts("align", Needs).reads == ("pooled",)


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("reads", "pooled", "a tuple of column names"),
        ("reads", ("pooled", 1), "a tuple of column names"),
        ("writes", "map", "'pooled' or 'image'"),
        ("uses_target", "no", "True or False"),
        ("uses_labels", 1, "True or False"),
        ("several_sources", "no", "True or False"),
        ("deterministic", None, "True or False"),
        ("paper", 2020, "text"),
        ("licence", ("MIT",), "text"),
    ],
)
def test_a_fact_of_a_wrong_type_is_named(name, value, must):
    wrong = type("Wrong", (Identity,), {name: value})
    assert faults("align", wrong) == faults("align", wrong()) == [f"{name} is {value!r}, but must be {must}"]
    assert faults("align", Identity) == []


def test_whether_a_segmenter_detects_is_seen_or_said():
    class Detects:
        def detect(self, image): ...

    def make():
        return Detects()

    assert facts("segmenter", Detects).detects is facts("segmenter", functools.partial(Detects)).detects is True
    assert facts("segmenter", Identity).detects is False
    assert facts("segmenter", make).detects is None, "a function does not tell what it gives"
    assert facts("segmenter", make, Detects()).detects is True
    make.detects = "yes"
    assert faults("segmenter", make) == ["detects is 'yes', but must be True or False"]
    assert facts("backbone", Detects).detects is None


def test_what_another_slot_calls_reads_is_its_own_affair():
    assert faults("backbone", type("Reader", (), {"reads": 3})) == []


def test_facts_are_json():
    found = facts("align", Declaring).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["reads"] == ["pooled"]
    assert facts("classifier", dict).as_dict()["reads"] is None
