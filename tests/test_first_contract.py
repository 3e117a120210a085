"""What was promised to the first plugins holds: one written then, unchanged since, passes the kit and runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import first_contract
import pytest

from cellfeat import compose
from cellfeat.console import SilentReporter
from cellfeat.registry import Registry, installed
from cellfeat.run import run
from cellfeat.testing import check_align, check_backbone, check_classifier, check_segmenter
from cellfeat.use import predict
from cellfeat.workplace import Workplace

pytestmark = pytest.mark.usefixtures("warm")
WRITTEN_THEN = "2db377fffa06f224bf83c84362883bcaa81031679712938255e82e6ba356405c"


@pytest.fixture
def work() -> Workplace:
    registry = Registry(list(installed().offers), [])
    registry.add("first", "first-contract", "1.0", lambda: first_contract)
    assert not registry.broken
    return Workplace(registry, SilentReporter(), "cpu")


def test_it_is_as_it_was_written():
    content = Path(first_contract.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest() == WRITTEN_THEN, "a change of it would hide a broken promise"


@pytest.mark.parametrize("method", [first_contract.Scale, first_contract.Softmax])
def test_its_aligners_pass_the_kit_called_as_then(method, tmp_path):
    assert isinstance(check_align(method, tmp_path), method), "it gave the fitted method"
    assert isinstance(check_align(method, tmp_path / "again", **DIFFERENTLY[method]), method)


DIFFERENTLY = {first_contract.Scale: {"floor": 0.1}, first_contract.Softmax: {"epochs": 2}}


def test_its_other_methods_pass_the_kit_called_as_then():
    assert isinstance(check_backbone(first_contract.Tiles, tiles=4), first_contract.Tiles)
    assert isinstance(check_segmenter(first_contract.Dark, 64, level=150), first_contract.Dark)
    assert hasattr(check_classifier(first_contract.nearest), "centroids_")


@pytest.mark.parametrize(("align", "classifier"), [("first-scale", "first-nearest"), ("first-softmax", None)])
def test_it_runs_from_images_to_predictions(work, laboratories, tmp_path, monkeypatch, align, classifier):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    recipe = compose.recipe(
        data=str(laboratories),
        backbone="first-tiles",
        segmenter="first-dark",
        align=align,
        classifier=classifier,
        protocol={"source": ["lab-a"], "folds": 2},
    )
    folder, records = run(recipe, tmp_path / "run", work, pictures=False)
    balanced = {record["target"]: record["scores"]["balanced_accuracy"]["mean"] for record in records}
    assert set(balanced) == {"lab-a", "lab-b", "lab-c"}
    assert balanced["lab-a"] > 0.3, "five classes"
    images = sorted((laboratories.parent / "images").rglob("*.png"))[:3]
    _, count = predict(folder, images, tmp_path / "answers.csv", "lab-b", "lab-a", True, work)
    assert count == 3
