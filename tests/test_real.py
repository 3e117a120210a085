"""The main job on real cells of two laboratories, as a user would run it. Marked `real`: needs the images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import narrow_autoencoders

from cellfeat import CellfeatError, compose, recipe, records, use
from cellfeat.bench import SuiteRun
from cellfeat.console import SilentReporter
from cellfeat.ranking import read_rankings
from cellfeat.registry import installed
from cellfeat.results_folder import read_records
from cellfeat.run import run
from cellfeat.suite import Suite
from cellfeat.verification import verify
from cellfeat.workplace import Workplace

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch) -> None:
    monkeypatch.setenv("CELLFEAT_CACHE", str(cache))


@pytest.fixture(scope="module")
def manifest(real_data, tmp_path_factory) -> Path:
    """60 cells of tecom (with masks) and 60 of bccd."""
    return chosen(real_data, tmp_path_factory.mktemp("real") / "cells.csv", per_class=15)


@pytest.fixture(scope="module")
def few(real_data, tmp_path_factory) -> Path:
    """24 cells of each, where something is trained."""
    return chosen(real_data, tmp_path_factory.mktemp("real") / "few.csv", per_class=6)


def chosen(real_data: Path, path: Path, per_class: int) -> Path:
    """A manifest of tecom's and bccd's commonest four classes, so many cells each, by id."""
    taken: dict[tuple[str, str], int] = {}
    with (real_data / "manifest.csv").open() as file, path.open("w", newline="") as out:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
        writer = csv.writer(out)
        writer.writerow(["id", "path", "label", "domain", "mask_path"])
        for row in rows:
            key = (row["domain"], row["label"])
            taken[key] = taken.get(key, 0) + 1
            if row["domain"] in ("tecom", "bccd") and row["label"] != "basophil" and taken[key] <= per_class:
                mask = real_data / row["mask_path"] if row["mask_path"] else ""
                writer.writerow([row["id"], real_data / row["path"], row["label"], row["domain"], mask])
    return path


def workplace() -> Workplace:
    return Workplace(installed(), SilentReporter(), device="cpu")


def recipe_of(manifest: Path, **sections) -> recipe.Recipe:
    return recipe.parse({"dataset": {"manifest": str(manifest), "labels": "five-class"}, **sections})


def by_target(written: list[dict]) -> dict[str, dict]:
    return {f"{record['source']}>{record['target']}": record for record in written}


@pytest.mark.parametrize("classifier", ["svm-linear", "svm-poly", "svm-rbf", "lr", "ann", "rf", "xgboost"])
def test_every_classifier_learns_inside_a_laboratory(manifest, tmp_path, classifier):
    sections = {"classifier": {"name": classifier}, "protocol": {"folds": 3}}
    _, written = run(recipe_of(manifest, **sections), tmp_path / "run", workplace())
    found = by_target(written)
    assert set(found) == {"bccd>bccd", "bccd>tecom", "tecom>tecom", "tecom>bccd"}
    assert found["tecom>tecom"]["scores"]["balanced_accuracy"]["mean"] > 0.5, "four classes, chance is 0.25"
    assert found["tecom>tecom"]["majority"]["accuracy"] == 0.25


def test_the_autoencoder_from_images_to_the_table(few, tmp_path):
    align = {"name": "cae", "epochs": 2, "batch_size": 12, "encoder_depth": 2, "decoder_depth": 1, "head_width": 8}
    sections = {"align": align, "classifier": {"name": "svm-linear"}, "protocol": {"folds": 3, "source": ["tecom"]}}
    folder, written = run(recipe_of(few, **sections), tmp_path / "run", workplace())
    assert [record["adapted_to"] for record in written] == [["bccd"], ["bccd"]]
    assert all(record["scores"]["accuracy"]["mean"] is not None for record in written)
    state = json.loads((folder / "pipelines" / "tecom" / "align-0" / "state.json").read_text())
    assert len(state["history"]["total"]) == 2
    assert state["history"]["total"][1] < state["history"]["total"][0], "training did not lower the loss"


def test_a_suite_runs_compares_and_is_verified(manifest, tmp_path):
    protocol = {"name": "cross-domain", "folds": 3, "fitted_folds": 1}
    rows = {"none": {"align": "none"}, "own": {"align": "self-trained-lda"}, "majority": {"align": "none"}}
    rows["majority"]["classifiers"] = ["majority"]
    suite = Suite.model_validate(
        {"name": "real", "classifiers": ["lr"], "protocols": {"transfers": protocol}, "rows": rows}
    )
    outcome = SuiteRun(suite, tmp_path / "results", workplace(), str(manifest))()
    assert (outcome.done, outcome.failed) == (3, 0)
    (unadapted, adapted), failures = read_rankings(tmp_path / "results")
    assert failures == []
    assert [line[1] for line in unadapted.lines()[:2]] == ["none/lr", "majority/majority"], (
        "a method is better than none"
    )
    assert unadapted.lines()[1][2] == "25.0 [25.0, 25.0]"
    own = adapted.lines()[0]
    assert own[1] == "own/lr"
    assert float(own[2].split()[0]) > 40, "four classes, chance is 25"
    picked = [record for record in read_records(tmp_path / "results") if record["source"] == "tecom"]
    verdicts = verify(picked, tmp_path / "results", workplace(), str(manifest))
    assert [one.faults for one in verdicts] == [()] * len(picked)
    assert {one.equal for one in verdicts} == {1.0}


@pytest.mark.slow
def test_finetuning_on_masks_runs_first_and_is_cached(few, tmp_path, cache):
    finetune = {"masks": "truth", "domains": ["tecom"], "epochs": 2, "batch_size": 12, "lr": 5e-4}
    sections = {"finetune": finetune, "classifier": {"name": "lr"}, "protocol": {"folds": 3, "source": ["tecom"]}}
    folder, written = run(recipe_of(few, **sections), tmp_path / "one", workplace())
    assert "tecom (masks: truth)" in written[0]["weights_saw"]
    (adapter,) = (cache / "adapters").iterdir()
    stamp = (adapter / "adapter.json").stat().st_mtime_ns
    images = [row["path"] for row in csv.DictReader(few.open())][:2]
    shutil.move(folder, tmp_path / "moved")
    shutil.copytree(adapter, tmp_path / "kept")
    shutil.rmtree(adapter)
    use.predict(
        tmp_path / "moved", [Path(path) for path in images], tmp_path / "p.csv", "new", None, False, workplace()
    )
    shutil.move(tmp_path / "kept", adapter)
    work = workplace()
    _, again = run(recipe_of(few, **sections), tmp_path / "two", work)
    assert (adapter / "adapter.json").stat().st_mtime_ns == stamp
    assert any("fine-tuned before" in text for text in work.reporter.notes)
    assert [record["scores"] for record in again] == [record["scores"] for record in written]


@pytest.fixture(scope="module")
def narrow():
    """BC-SAM's autoencoder has one size, which the parameters do not tell."""
    with narrow_autoencoders():
        yield


SMALL = ["encoder_depth=2", "decoder_depth=1", "head_width=8", "batch_size=12"]
REDUCED = {"dorl": SMALL, "dorl-fixed": SMALL, "bc-sam": ["batch_size=12"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REDUCED))
def test_the_published_recipes_on_real_cells(few, narrow, tmp_path, name):
    """A few cells of each class; the adapter is made by the recipe's own `finetune:` on tecom's masks."""
    sets = ["backbone.weights=cell-tiny", "finetune.epochs=1", "finetune.batch_size=12", "align.epochs=1"]
    composed = compose.recipe(
        recipe=name,
        data=str(few),
        labels="five-class",
        protocol={"source": ["tecom"], "folds": 3},
        sets=[*sets, *(f"align.{one}" for one in REDUCED[name])],
    )
    folder, written = run(composed, tmp_path / "run", workplace())
    assert [(record["source"], record["target"], record["adapt"]) for record in written] == [
        ("tecom", "tecom", "test"),
        ("tecom", "bccd", "test"),
    ]
    assert "tecom (masks: truth)" in written[0]["weights_saw"]
    assert all(np.isfinite(record["scores"]["accuracy"]["mean"]) for record in written)
    pictures = {"adapter": ("losses.png", "masks.png"), "pipelines/tecom/align-0": ("losses.png", "examples.png")}
    assert all((folder / place / picture).stat().st_size > 5_000 for place in pictures for picture in pictures[place])
    images = [Path(row["path"]) for row in csv.DictReader(few.open())][:2]
    use.predict(folder, images, tmp_path / "p.csv", "new", None, False, workplace())
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 3


def test_masks_of_a_laboratory_without_any_are_refused(manifest, tmp_path):
    with pytest.raises(CellfeatError, match="no image of these domains has a mask_path"):
        run(recipe_of(manifest, finetune={"domains": ["bccd"]}), tmp_path / "run", workplace())


def test_cell_tiny_finds_real_cells(manifest, context):
    """Nothing was fitted to these masks; the figures of all 300 are in docs/real-data.md."""
    import torch

    from cellfeat import images, metrics

    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["mask_path"]]
    frames = [images.resize(images.read_rgb(Path(row["path"])), 224) for row in rows]
    truth = np.stack([images.resize_mask(images.read_mask(Path(row["mask_path"])), 224) for row in rows])
    batch = torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())
    found = installed().create("segmenter", "lora-sam", {}, context).segment(batch).numpy()
    assert metrics.intersection_over_union(found, truth).mean() > 0.8


def test_records_of_real_data_say_what_was_left_out(real_data, tmp_path):
    section = {"manifest": str(real_data / "manifest.csv"), "labels": "five-class", "domains": ["tecom", "bccd"]}
    content = {"dataset": section, "backbone": {"name": "colour", "bins": 4}, "classifier": {"name": "lr"}}
    folder, _ = run(recipe.parse(content), tmp_path / "run", workplace())
    found = by_target(records.read(folder / "records.jsonl"))
    assert found["tecom>tecom"]["left_out"] == {"basophil": 1}
    assert found["bccd>bccd"]["left_out"] == {"basophil": 2}
    assert found["tecom>bccd"]["cells"] == 341
    assert found["tecom>bccd"]["class_counts"]["basophil"] == 2, "the target keeps its cells"
    assert found["tecom>bccd"]["scored_classes"] == ["eosinophil", "lymphocyte", "monocyte", "neutrophil"]
