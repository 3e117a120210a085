"""A second run says what it takes over from the first, and a first one says nothing of the kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cellfeat import compose
from cellfeat.console import SilentReporter
from cellfeat.registry import installed
from cellfeat.run import run
from cellfeat.workplace import Workplace


@pytest.fixture
def notes(laboratories, tmp_path, monkeypatch):
    """Run a recipe of cheap methods, and give what was noted about encoding."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))

    def of(name: str, **options) -> list[str]:
        work = Workplace(installed(), SilentReporter(), "cpu")
        protocol = {"source": ["lab-a"], "target": ["lab-b"], "folds": 2, **options.pop("protocol", {})}
        settings = {"data": str(laboratories), "backbone": "colour", "classifier": "majority", **options}
        run(compose.recipe(protocol=protocol, **settings), tmp_path / name, work, pictures=False)
        return [note for note in work.reporter.notes if "before" in note or "goes on" in note]

    return of


def test_images_that_were_encoded_before_are_counted(notes, tmp_path):
    some = "dataset.domains=[lab-a, lab-b]"
    assert notes("first", sets=[some]) == []
    [store] = [path.parent for path in tmp_path.rglob("store.json")]
    assert notes("second") == [f"100 of 150 images were encoded before (in {store})"]


def test_a_training_that_stopped_is_gone_on_with_and_said_so(notes, tmp_path, monkeypatch):
    """The checkpoint of an interrupted fit: the second run of the same recipe finds it, a third one trains anew."""
    from cellfeat_timm import loop

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    small = ["align.epochs=3", "align.iterations_per_epoch=2", "align.hidden=8", "align.bottleneck=4"]
    options = {"align": "dann", "classifier": None, "sets": small}
    saved = loop._save

    def stopped(checkpoint, key, work, stepper, done, best):
        saved(checkpoint, key, work, stepper, done, best)
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", stopped)
        with pytest.raises(KeyboardInterrupt):
            notes("run-1", **options)
    assert not (tmp_path / "run-1").exists()
    [first, second] = notes("run-1", **options)
    assert "150 of 150 images were encoded before" in first
    assert second == "dann: training goes on after epoch 2 of 3"
    shutil.rmtree(tmp_path / "run-1")
    assert [note.partition(" (")[0] for note in notes("run-1", **options)] == ["150 of 150 images were encoded before"]
    assert not list(Path(tmp_path / "cache" / "scratch" / "run").iterdir())
