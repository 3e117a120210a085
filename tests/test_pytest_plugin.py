"""The conformance kit as a pytest plugin: tests are named after checks, and faults told without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cellfeat.registry import installed

pytest_plugins = ["pytester"]

BACKBONES = """
import pytest
from cellfeat import Features

class Mean:
    image_size, interpolation, made = 8, "area", 0
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        Mean.made += 1
    def encode(self, images):
        return Features(images.float().mean((2, 3)) * self.scale)

class Counts(Mean):
    calls = 0
    def encode(self, images):
        self.calls += 1
        return Features(images.float().mean((2, 3)) + self.calls)
"""
CHEAP = "@pytest.mark.cellfeat_options(only=['members', 'runs', 'features', 'dtype'])\n"


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """pytester forgets what is imported in its runs, and torch cannot be imported twice."""
    import cv2
    import torch

    from cellfeat.testing import backbone, classifier, segmenter

    assert installed().offers
    assert all((cv2, torch, backbone, classifier, segmenter))


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # each of them would be imported in every run


@pytest.fixture
def run(pytester):
    """Runs a test module with this plugin, in this interpreter."""

    def ran(text: str, *options: str):
        pytester.makepyfile(BACKBONES + text)
        return pytester.runpytest_inprocess("-p", "cellfeat.pytest_plugin", "--strict-markers", *options)

    return ran


def test_one_function_becomes_a_test_for_every_check(run):
    result = run(
        '@pytest.mark.cellfeat("backbone", Mean, scale=2.0)\ndef test_contract(conformance):\n    conformance()\n'
        "def test_shared():\n    assert Mean.made < 12\n",
        *(
            "-v",
            "-rs",
            "--deselect",
            "test_one_function_becomes_a_test_for_every_check.py::test_contract[fresh-process]",
        ),
    )
    result.assert_outcomes(passed=17, skipped=2, deselected=1)
    result.stdout.fnmatch_lines(["*::test_contract?row-order? PASSED*", "*::test_contract?budget? PASSED*"])
    result.stdout.fnmatch_lines(["SKIPPED*it tells no quality", "SKIPPED*its factory has no `facts`"])


def test_names_of_tests_are_collected_without_running_the_method(run):
    result = run(
        'def factory():\n    raise SystemExit("ran")\n'
        '@pytest.mark.cellfeat("classifier", factory)\ndef test_contract(conformance):\n    conformance()\n',
        *("--collect-only", "-q"),
    )
    result.stdout.fnmatch_lines(["*::test_contract?members?", "*::test_contract?same-seed?", "22 tests collected*"])


def test_a_fault_is_told_with_its_remedy_and_without_a_traceback(run):
    result = run(
        '@pytest.mark.cellfeat_options(only=("same-answer", "row-order"))\n'
        '@pytest.mark.cellfeat("backbone", Counts)\ndef test_contract(conformance):\n    conformance()\n',
        "-rs",
    )
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*test_contract?same-answer? _*",
            "same-answer: embedding differs between two calls",
            "remedy: Seed what is *",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(["SKIPPED*not reached: same-answer failed"])
    result.stdout.no_fnmatch_line("*cellfeat/testing/*")


def test_a_check_whose_ground_is_not_asked_for_and_fails_is_no_silent_skip(run):
    result = run(
        '@pytest.mark.cellfeat_options(only=("row-order",))\n'
        '@pytest.mark.cellfeat("backbone", Counts)\ndef test_contract(conformance):\n    conformance()\n',
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["row-order: not reached: same-answer failed"])


def test_two_methods_on_one_function_are_refused_instead_of_one_being_passed_over(run):
    result = run(
        '@pytest.mark.cellfeat("backbone", Counts)\n@pytest.mark.cellfeat("backbone", "colour")\n'
        "def test_contract(conformance):\n    conformance()\n",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_contract has several markers, of which one alone would count*"])
    result = run(
        '@pytest.mark.cellfeat_options(only="members")\n@pytest.mark.cellfeat("backbone", "colour")\n'
        '@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.cellfeat("backbone", Counts))])\n'
        "def test_contract(conformance, n):\n    conformance()\n",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*several markers, of which one alone would count*"])


def test_a_method_can_be_named_and_its_parameters_are_checked(run):
    result = run(
        f'{CHEAP}@pytest.mark.cellfeat("backbone", "colour", bins=3)\ndef test_named(conformance):\n    conformance()\n'
        f'{CHEAP}@pytest.mark.cellfeat("backbone", "color")\ndef test_typo(conformance):\n    conformance()\n'
        f'{CHEAP}@pytest.mark.cellfeat("backbone", "colour", bin=3)\ndef test_wrong(conformance):\n    conformance()\n',
    )
    result.assert_outcomes(passed=4, failed=8)
    result.stdout.fnmatch_lines(["cellfeat: no backbone named 'color'. Did you mean 'colour'?*"])
    result.stdout.fnmatch_lines(["cellfeat: no parameter of backbone 'colour' named 'bin'. Did you mean 'bins'?*"])


def test_markers_of_a_class_and_options_of_the_slot_count(run):
    result = run(
        """
class Dark:
    def segment(self, images):
        assert images.shape[-1] == 20
        return images[:, 0] < 100

@pytest.mark.cellfeat("segmenter", Dark)
@pytest.mark.cellfeat_options(size=20, only=["runs"])
class TestDark:
    def test_runs(self, conformance):
        conformance()

    @pytest.mark.cellfeat_options(only=["shape", "dtype"])
    def test_form(self, conformance):
        conformance()

    def test_something_else(self):
        pass
""",
        "-v",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test_runs?runs? PASSED*", "*test_form?shape? PASSED*", "*test_form?dtype? PASSED*"])


def test_an_option_of_another_slot_is_told(run):
    result = run(
        '@pytest.mark.cellfeat_options(size=20, only=["runs"])\n'
        '@pytest.mark.cellfeat("backbone", Mean)\ndef test_contract(conformance):\n    conformance()\n'
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["cellfeat: *unexpected keyword argument 'size'"])


def test_the_budget_is_an_option_and_a_parameter_may_have_its_name(run):
    result = run(
        """
class Slow(Mean):
    def __init__(self, budget: int = 0) -> None:
        assert budget == 7
    def encode(self, images):
        import time
        time.sleep(0.03)
        return Features(images.float().mean((2, 3)))

@pytest.mark.cellfeat_options(budget=0.01, only=["budget"])
@pytest.mark.cellfeat("backbone", Slow, budget=7)
def test_contract(conformance):
    conformance()
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["budget: it took 0.0* s; the budget is 0.01 s"])


MISUSES = {
    '@pytest.mark.cellfeat("aligner", Mean)\ndef test_it(conformance):\n    conformance()': (
        "cellfeat: test_it: no slot named 'aligner'. Did you mean 'align'? *"
    ),
    '@pytest.mark.cellfeat("backbone")\ndef test_it(conformance):\n    conformance()': (
        "cellfeat: test_it: the marker takes a slot and a factory, and was given 1 arguments. Write @pytest.mark.*"
    ),
    '@pytest.mark.cellfeat("backbone", 7)\ndef test_it(conformance):\n    conformance()': (
        "cellfeat: test_it: 7 is neither a factory nor the name of an installed method. Write *"
    ),
    '@pytest.mark.cellfeat("backbone", Mean)\ndef test_it():\n    pass': (
        "cellfeat: test_it is marked, but has no argument `conformance`: nothing would be checked. Write *"
    ),
    "def test_it(conformance):\n    conformance()": (
        "cellfeat: test_it asks for `conformance`, but no marker says which method to look at. Write *"
    ),
    '@pytest.mark.cellfeat_options(seconds=3)\n@pytest.mark.cellfeat("backbone", Mean)\n'
    "def test_it(conformance):\n    conformance()": (
        "cellfeat: test_it: cellfeat_options takes budget=, only=, cells=, size= and was given seconds. Write *"
    ),
    '@pytest.mark.cellfeat_options(only=["row-orders"])\n@pytest.mark.cellfeat("backbone", Mean)\n'
    "def test_it(conformance):\n    conformance()": (
        "cellfeat: test_it: no check named 'row-orders'. Did you mean 'row-order'?*"
    ),
}


@pytest.mark.parametrize("text", MISUSES, ids=range(len(MISUSES)))
def test_a_misuse_is_one_plain_line(text, run):
    result = run(text)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([MISUSES[text]])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_test_that_never_calls_the_fixture_fails(run):
    result = run(f'{CHEAP}@pytest.mark.cellfeat("backbone", Mean)\ndef test_it(conformance):\n    pass\n')
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(["cellfeat: `conformance` was never called, so that nothing was checked. Write *"])


def test_checks_are_shared_out_among_processes(pytester):
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
import numpy as np
import pytest

class Nearest:
    def fit(self, features, labels):
        self.means = np.stack([features[labels == label].mean(0) for label in range(labels.max() + 1)])
        return self
    def predict(self, features):
        return ((features[:, None] - self.means) ** 2).sum(-1).argmin(1)

@pytest.mark.cellfeat_options(only=["members", "runs", "learns", "one-row"])
@pytest.mark.cellfeat("classifier", Nearest)
def test_it(conformance):
    conformance()
"""
    )
    result = pytester.runpytest_subprocess("-p", "xdist", "-p", "cellfeat.pytest_plugin", "-n", "2")
    result.assert_outcomes(passed=4)


def test_the_plugin_imports_pytest_and_nothing_heavy():
    code = (
        "import sys, pytest; before = set(sys.modules); import cellfeat.pytest_plugin; "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - {'cellfeat'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
