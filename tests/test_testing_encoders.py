"""The conformance kit for backbones, segmenters and classifiers: right toys pass, and every wrong one is caught by the
check that is meant for it, and by no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import backbone, classifier, segmenter

from cellfeat.testing import (
    NonconformityError,
    check_backbone,
    check_classifier,
    check_segmenter,
    checks_of,
    examine,
)

SLOTS = {"backbone": backbone, "segmenter": segmenter, "classifier": classifier}
OWN = {"segmenter": {"size": 16}}
HURRY = 0.05  # seconds; what is too slow for it need not take longer


pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where a plugin may leave files that it should not."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def right() -> list:
    return [
        pytest.param(slot, factory, id=f"{slot}-{factory.__name__}")
        for slot, module in SLOTS.items()
        for factory in module.RIGHT
    ]


def wrong() -> list:
    return [
        pytest.param(slot, name, factory, id=f"{slot}-{name}-{number}")
        for slot, module in SLOTS.items()
        for name, factories in module.MUTANTS.items()
        for number, factory in enumerate(factories)
    ]


@pytest.mark.parametrize(("slot", "factory"), right())
def test_right_plugins_pass(slot, factory):
    report = examine(slot, factory, **OWN.get(slot, {}))
    report.raise_failures()
    assert [finding.check for finding in report.findings] == [item.name for item in checks_of(slot)]


@pytest.mark.parametrize(("slot", "name", "factory"), wrong())
def test_a_wrong_plugin_is_caught_by_the_check_that_is_meant_for_it(slot, name, factory):
    hurry = {"budget": HURRY} if name == "budget" else {}
    report = examine(slot, factory, **hurry, **OWN.get(slot, {}))
    assert {finding.check: finding.text for finding in report.failed}.keys() == {name}
    assert all(len(finding.text) > 10 for finding in report.failed)


@pytest.mark.parametrize("slot", SLOTS)
def test_every_check_has_a_mutant(slot):
    assert set(SLOTS[slot].MUTANTS) == {item.name for item in checks_of(slot)}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_check_says_what_it_asks_and_what_to_do(slot):
    for item in checks_of(slot):
        assert 10 < len(item.promise) < 120, item.name
        assert item.remedy.endswith((".", ")")), item.name
        assert len(item.remedy) > 20, item.name


@pytest.mark.parametrize("slot", SLOTS)
def test_where_a_plugin_cannot_be_built_the_rest_is_not_reached(slot):
    def broken():
        raise OSError("no weights")

    findings = {finding.check: finding for finding in examine(slot, broken).findings}
    assert findings.pop("runs").passed is False
    assert {finding.passed for finding in findings.values()} == {None}
    assert {finding.text for finding in findings.values()} == {"not reached: runs failed"}


def test_what_waits_for_what_is_told(tmp_path):
    texts = {f.check: f.text for f in examine("backbone", backbone.encoding(backbone.by_brightness)).findings}
    assert texts["one-image"] == "not reached: row-order failed"
    assert texts["batch-shape"] == "not reached: row-order failed"
    assert texts["quality-range"] == "it tells no quality"


class Careless(backbone.Unseeded):
    """Two faults, and more than one check sees the first."""

    deterministic = False

    def encode(self, images):
        print("encoding")
        return super().encode(images)


def test_what_says_that_it_is_not_deterministic_is_not_asked_for_it():
    findings = {finding.check: finding for finding in examine("backbone", Careless).findings}
    assert [name for name, finding in findings.items() if finding.passed is False] == ["quiet"]
    for name in ("same-answer", "row-order", "one-image", "batch-shape", "fresh-process"):
        assert findings[name].text == "it says that it is not deterministic"


class Free(classifier.UnseededFit):
    deterministic = False


def test_neither_is_such_a_classifier_but_the_rest_is_asked():
    report = examine("classifier", Free)
    assert not report.failed
    skipped = {f.check for f in report.findings if f.text == "it says that it is not deterministic"}
    assert skipped == {"same-seed", "row-order", "one-row", "forgets"}


@pytest.mark.parametrize(
    ("check", "factory", "message"),
    [
        (
            check_backbone,
            backbone.Growing,
            r"(?s)^backbone Growing: 1 of 19 .*\nsame-answer: embedding",
        ),
        (
            check_segmenter,
            segmenter.Alternating,
            r"(?s)^segmenter Alternating: 1 of 23 .*\n    remedy: Seed",
        ),
        (check_classifier, classifier.Useless, r"(?s)^classifier Useless: 1 of 22 .*\nlearns: of"),
    ],
)
def test_the_functions_raise_with_every_fault_and_its_remedy(check, factory, message):
    with pytest.raises(NonconformityError, match=message):
        check(factory)


def test_a_check_that_could_not_be_made_is_no_pass():
    report = examine("backbone", backbone.MUTANTS["same-answer"][0], only=["row-order"])
    assert not report.failed
    with pytest.raises(NonconformityError, match="1 of 1 checks failed\nrow-order: not reached: same-answer failed"):
        report.raise_failures()


def test_parameters_reach_the_factory_and_scratch_lies_in_the_folder(tmp_path):
    seen = []

    def factory(side, *, context):
        seen.append((side, context.scratch))
        return backbone.Told(side, context=context)

    examine("backbone", factory, {"side": 32}, folder=tmp_path / "here").raise_failures()
    assert {side for side, _ in seen} == {32}
    assert all(scratch.is_relative_to(tmp_path / "here") for _, scratch in seen)
    assert len({scratch for _, scratch in seen}) == len(seen), "every object has its own"


def test_a_plugin_leaves_nothing_in_the_process_of_the_checks(capfd):
    def act(images):
        print("printed")
        os.write(2, b"written\n")
        torch.set_default_dtype(torch.float64)
        os.environ["CELLFEAT_MUTANT"] = "1"
        os.chdir("/")
        np.random.seed(3)  # noqa: NPY002 - the fault itself

    before = np.random.get_state()[1].tolist(), Path.cwd()  # noqa: NPY002
    report = examine("backbone", backbone.doing(act))
    assert {finding.check for finding in report.failed} == {"process", "quiet"}
    assert capfd.readouterr() == ("", "")
    assert torch.get_default_dtype() == torch.float32
    assert "CELLFEAT_MUTANT" not in os.environ
    assert (np.random.get_state()[1].tolist(), Path.cwd()) == before  # noqa: NPY002


def test_an_interruption_gets_through():
    def interrupted(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine("backbone", backbone.doing(interrupted))


@pytest.mark.parametrize("slot", SLOTS)
def test_names_of_checks_are_known_without_torch(slot):
    code = f"import sys; from cellfeat.testing.kit import checks_of; checks_of({slot!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
