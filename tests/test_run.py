"""A whole run on a small drawn data set: what lands in the folder, and what never does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import Identity, with_plugins

from cellfeat import CellfeatError, SavesState, UnseenDomainError, recipe, records, use
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.finetune import checked_params
from cellfeat.metrics import SCORES
from cellfeat.registry import installed
from cellfeat.report import result_table
from cellfeat.run import run
from cellfeat.workplace import Workplace


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Three drawn laboratories, five classes, six cells each, 64 px."""
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=6, size=64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def recipe_of(manifest: Path, align="none", **sections) -> recipe.Recipe:
    return recipe.parse(
        {
            "dataset": {"manifest": str(manifest)},
            "backbone": sections.pop("backbone", {"name": "colour", "bins": 4}),
            "align": {"name": align},
            "classifier": {"name": "lr"},
            "protocol": {"folds": 3, **sections.pop("protocol", {})},
            **sections,
        }
    )


def workplace(registry=None, **options) -> Workplace:
    return Workplace(registry or installed(), SilentReporter(), device="cpu", **options)


@pytest.fixture(scope="session")
def finished(manifest, tmp_path_factory) -> tuple[Path, list[dict]]:
    """A finished run with per-domain-z."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(recipe_of(manifest, "per-domain-z"), tmp_path_factory.mktemp("runs") / "first", workplace())


def test_the_folder_holds_recipe_records_predictions_and_pipelines(finished, manifest):
    folder, returned = finished
    labs = ["lab-a", "lab-b", "lab-c"]
    assert sorted(path.name for path in (folder / "pipelines").iterdir()) == labs
    assert {path.name for path in folder.parent.iterdir()} == {"first"}, "something was left beside the run"
    written = records.read(folder / "records.jsonl")
    assert written == json.loads(json.dumps(returned))
    assert sorted((r["source"], r["target"]) for r in written) == sorted((s, t) for s in labs for t in labs)
    for record in written:
        assert record["held_out_folds"] == (record["source"] == record["target"])
        assert record["adapt"] == "test"
        assert record["adapted_to"] == [lab for lab in labs if lab != record["source"]]
        assert {"torch", "scikit-learn", "cellfeat"} <= set(record["versions"])
        assert record["encoding"]["precision"] == "float32"
        assert record["encoding"]["batch"] == 16
        assert record["plugins"]["align:per-domain-z"].startswith("cellfeat ")
        assert set(record["plugin_facts"]) == set(record["plugins"])
        assert record["plugin_facts"]["align:per-domain-z"]["reads"] == ["pooled"]
        assert record["plugin_facts"]["align:per-domain-z"]["paper"].startswith("Li et al., Pattern Recognition 80")
        assert record["plugin_facts"]["classifier:lr"]["api"] == 1
        for name in SCORES[:1]:
            score = record["scores"][name]
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    resolved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert resolved["backbone"] == {"name": "colour", "bins": 4, "cell_only": True}
    assert resolved["classifier"]["max_iter"] == 500


def test_predictions_are_those_that_were_scored(finished):
    folder, written = finished
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    for record in written:
        rows = table[(table.source == record["source"]) & (table.target == record["target"])]
        per_fold = rows.groupby("fold").apply(lambda part: np.mean(part.label == part.predicted), include_groups=False)
        if record["held_out_folds"]:
            assert len(rows) == record["cells"]
            assert np.mean(rows.label == rows.predicted) == pytest.approx(record["scores"]["accuracy"]["mean"])
        else:
            assert len(rows) == 3 * record["cells"]
            assert list(per_fold) == pytest.approx(record["scores"]["accuracy"]["models"])
        probabilities = rows[[f"p_{name}" for name in record["classes"]]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        chosen = np.array(record["classes"])[probabilities.argmax(1)]
        assert (chosen == rows.predicted).all()


def test_the_table_names_method_targets_majority_and_what_adapt_means(finished):
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(result_table(finished[1]))
    text = console.export_text()
    for part in ("colour · per-domain-z · lr", "lab-a → lab-b", "lab-a (held-out folds)", "majority class → lab-c"):
        assert part in text
    assert "transductive" in text
    assert "at least 10" in text


def test_a_run_folder_is_never_overwritten(finished, manifest):
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    with pytest.raises(CellfeatError, match="never overwritten"):
        run(recipe_of(manifest), finished[0], workplace())
    assert before == {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}


def test_a_failed_run_leaves_nothing_under_the_final_name(manifest, tmp_path):
    class Stops(Identity):
        def fit(self, cells, context):
            if len(set(cells.domain.tolist())) and (tmp_path / "second").exists():
                raise KeyboardInterrupt
            (tmp_path / "second").touch()
            return self

    Stops.uses_target = True
    out = tmp_path / "runs" / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(recipe_of(manifest, "stops"), out, workplace(with_plugins(stops=Stops)))
    assert not out.exists()
    (partial,) = out.parent.iterdir()
    assert partial.name.startswith("stopped.partial-")
    assert len(records.read(partial / "records.jsonl")) == 3, "what the first source gave is kept"


def test_a_second_run_encodes_nothing(manifest, tmp_path, monkeypatch):
    run(recipe_of(manifest), tmp_path / "one", workplace())
    assert not list((tmp_path / "cache" / "scratch" / "run").iterdir()), "checkpoints of a finished run are left"
    monkeypatch.setattr("cellfeat.encoding.BatchEncoder.compute", lambda *_: pytest.fail("an image was encoded again"))
    run(recipe_of(manifest), tmp_path / "two", workplace())
    first, second = (records.read(tmp_path / name / "records.jsonl") for name in ("one", "two"))
    assert [r["scores"] for r in first] == [r["scores"] for r in second]


def test_skip_bad_goes_on_and_lists_what_it_left_out(manifest, tmp_path):
    import csv
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(manifest.parent, copy)
    with (copy / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    Path(copy / rows[0]["path"]).write_bytes(b"no image")
    Path(copy / rows[40]["path"]).unlink()
    with pytest.raises(CellfeatError, match=rows[40]["path"].rpartition("/")[2]):
        run(recipe_of(copy / "manifest.csv"), tmp_path / "out", workplace())
    assert not (tmp_path / "cache" / "stores").exists(), "it stopped before any long work"
    run(recipe_of(copy / "manifest.csv"), tmp_path / "out", workplace(skip_bad=True))
    with (tmp_path / "out" / "skipped.csv").open() as file:
        assert {row["id"] for row in csv.DictReader(file)} == {rows[0]["id"], rows[40]["id"]}
    assert records.read(tmp_path / "out" / "records.jsonl")[0]["dataset"]["skipped"] == 2


def test_predict_places_a_new_domain_or_says_refit(finished, manifest, tmp_path):
    folder, _ = finished
    images = sorted((manifest.parent / "images").glob("lab-b*"))
    with pytest.raises(CellfeatError, match="choose one with --source"):
        use.predict(folder, images, tmp_path / "p.csv", "new", None, False, workplace())
    with pytest.raises(UnseenDomainError, match=r"'new'.*--refit"):
        use.predict(folder, images, tmp_path / "p.csv", "new", "lab-a", False, workplace())
    assert not (tmp_path / "p.csv").exists()
    _, count = use.predict(folder, images, tmp_path / "p.csv", "new", "lab-a", True, workplace())
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert count == len(images) == len(lines) - 1
    assert lines[0].startswith("id,path,label,probability,novelty,novel,p_basophil")
    with pytest.raises(CellfeatError, match="never overwritten"):
        use.predict(folder, images, tmp_path / "p.csv", "new", "lab-a", True, workplace())


def test_predict_answers_as_the_saved_pipeline_does(manifest, tmp_path):
    folder, _ = run(recipe_of(manifest), tmp_path / "plain", workplace())
    images = sorted((manifest.parent / "images").glob("lab-c*"))
    use.predict(folder, images, tmp_path / "p.csv", "new", "lab-a", False, workplace())
    import pandas as pd

    table = pd.read_csv(tmp_path / "p.csv")
    probabilities = table[[name for name in table if name.startswith("p_")]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    labels = np.array([name[2:] for name in table if name.startswith("p_")])
    assert (labels[probabilities.argmax(1)] == table.label).all()
    np.testing.assert_allclose(table.probability, probabilities.max(1))


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_extract_and_transform_write_features_with_provenance(finished, manifest, tmp_path, ending):
    folder, _ = finished
    pooled, aligned = tmp_path / f"pooled.{ending}", tmp_path / f"aligned.{ending}"
    assert use.extract(recipe_of(manifest), pooled, workplace()) == (90, aligned_width(ending, pooled))
    use.transform(folder, str(manifest), aligned, "lab-a", False, workplace())
    ids, domains, vectors, about = read_features(aligned)
    assert list(ids) == sorted(ids)
    assert about["pipeline"] == "lab-a"
    lab_b = vectors[domains == "lab-b"]
    spread = lab_b.std(0)
    np.testing.assert_allclose(lab_b.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(spread[spread > 1e-3], 1, atol=1e-2)
    assert read_features(pooled)[3]["backbone"]["name"] == "colour"


def aligned_width(ending: str, path: Path) -> int:
    return read_features(path)[2].shape[1]


def read_features(path: Path):
    if path.suffix == ".h5ad":
        import anndata

        data = anndata.read_h5ad(path)
        return data.obs_names, data.obs["domain"].to_numpy(), data.X, json.loads(data.uns["cellfeat"]["json"])
    table = pq.read_table(path)
    frame = table.to_pandas()
    vectors = frame[[name for name in frame if name[0] == "f" and name[1:].isdigit()]].to_numpy()
    return frame["id"], frame["domain"].to_numpy(), vectors, json.loads(table.schema.metadata[b"cellfeat"])


def test_several_seeds_give_a_record_each(manifest, tmp_path):
    _, written = run(
        recipe_of(manifest, protocol={"seeds": [1, 2], "source": ["lab-a"], "target": ["lab-b"]}),
        tmp_path / "seeds",
        workplace(),
    )
    assert [(r["seed"], r["target"]) for r in written] == [(s, t) for s in (1, 2) for t in ("lab-a", "lab-b")]


def test_a_method_without_state_survives_the_run(manifest, tmp_path):
    class Third(SavesState, Identity):
        uses_target = False

    folder, _ = run(recipe_of(manifest, "third"), tmp_path / "out", workplace(with_plugins(third=Third)))
    assert (folder / "pipelines" / "lab-a" / "align-0" / "state.json").is_file()


def test_a_refit_learns_from_the_images_it_is_given(tmp_path):
    """Two sets of equally many images must not share one training: what the second is told depends on the second."""
    manifest = write_demo(tmp_path / "few", per_class=3, size=64)
    align = {"name": "cae", "epochs": 1, "batch_size": 15, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8}
    sections = {"dataset": {"manifest": str(manifest)}, "align": align, "classifier": {"name": "lr"}}
    protocol = {"folds": 3, "source": ["lab-a"], "target": ["lab-b"]}
    content = {**sections, "backbone": {"name": "lora-sam", "image_size": 64}, "protocol": protocol}
    folder, _ = run(recipe.parse(content), tmp_path / "run", workplace())
    images = sorted((manifest.parent / "images").glob("lab-c*"))
    answers = []
    for name, chosen in {"one": images[:3], "two": images[-3:], "again": images[:3]}.items():
        use.predict(folder, [*chosen, images[10]], tmp_path / f"{name}.csv", "new", None, True, workplace())
        (shared,) = (line for line in (tmp_path / f"{name}.csv").read_text().splitlines() if images[10].name in line)
        answers.append(shared)
    assert answers[0] != answers[1], "the second refit used the training of the first"
    assert answers[0] == answers[2]
    assert not list((tmp_path / "cache" / "scratch").glob("refit-*"))


def test_a_domain_without_labels_is_adapted_to_and_not_scored(manifest, tmp_path):
    rows = manifest.read_text().splitlines()
    header = rows[0].split(",")
    label = header.index("label")
    changed = [rows[0]]
    for row in rows[1:]:
        cells = row.split(",")
        cells[header.index("path")] = str(manifest.parent / cells[header.index("path")])
        cells[header.index("mask_path")] = ""
        cells[label] = "" if "lab-c" in cells[0] else cells[label]
        changed.append(",".join(cells))
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(changed) + "\n")
    work = workplace()
    for adapt in ("test", "heldout"):
        folder, written = run(recipe_of(path, "per-domain-z", protocol={"adapt": adapt}), tmp_path / adapt, work)
        labs = ["lab-a", "lab-b"]
        assert sorted((r["source"], r["target"]) for r in written) == sorted((s, t) for s in labs for t in labs)
        assert written[0]["adapted_to"] == ["lab-b", "lab-c"]
    assert any("lab-c has no labelled cell" in text for text in work.reporter.notes)
    assert sorted(path.name for path in (folder / "pipelines").iterdir()) == labs


def test_a_method_without_a_head_gets_a_classifier(manifest, tmp_path):
    content = recipe_of(manifest).as_dict() | {"classifier": None}
    content["protocol"] |= {"source": ["lab-a"], "target": ["lab-b"]}
    _, written = run(recipe.parse(content), tmp_path / "out", workplace())
    assert written[0]["recipe"]["classifier"]["name"] == "svm-linear"


def test_another_segmenter_or_other_weights_are_another_store(manifest, tmp_path):
    from safetensors.numpy import load_file, save_file

    shipped = installed().find("backbone", "lora-sam").factory.named_weights["cell-tiny"].path
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(shipped.read_bytes())
    small = {"name": "lora-sam", "image_size": 64}
    part = {"backbone": small, "segmenter": {**small, "weights": str(weights)}}
    use.extract(recipe_of(manifest, **part), tmp_path / "one.parquet", workplace())
    tensors = load_file(shipped)
    from safetensors import safe_open

    with safe_open(shipped, "np") as file:
        meta = file.metadata()
    save_file(
        {name: value * 0.5 if "mask_decoder" in name else value for name, value in tensors.items()}, weights, meta
    )
    use.extract(recipe_of(manifest, **part), tmp_path / "two.parquet", workplace())
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 2


def test_an_adapter_beside_a_section_that_makes_one_is_refused(manifest, tmp_path):
    backbone = {"name": "lora-sam", "adapter": str(tmp_path)}
    with pytest.raises(CellfeatError, match=r"makes an adapter of its own.* --set finetune=null"):
        run(recipe_of(manifest, backbone=backbone, finetune={"epochs": 1}), tmp_path / "out", workplace())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": "many"}, "finetune 'lora-sam': epochs is 'many', but must be int"),
        ({"epoch": 3}, "no parameter of finetune named 'epoch'. Did you mean 'epochs'"),
    ],
)
def test_wrong_parameters_of_finetune_show_before_any_image_is_opened(manifest, tmp_path, monkeypatch, params, message):
    monkeypatch.setattr("cellfeat.run.load_dataset", lambda *_: pytest.fail("images were opened"))
    with pytest.raises(CellfeatError, match=message):
        run(recipe_of(manifest, backbone={"name": "lora-sam"}, finetune=params), tmp_path / "out", workplace())


def test_numbers_of_finetune_may_be_written_as_yaml_reads_them():
    composed = recipe.parse({"finetune": {"lr": "1e-4"}})  # YAML reads 1e-4, without a point, as text
    assert checked_params(composed, installed()) == {"lr": 1e-4}


def test_a_manifest_elsewhere_stays_where_it_is_and_a_signature_is_no_content(tmp_path, monkeypatch):
    from cellfeat.run import _with_absolute_paths

    url = "https://host/cells.csv?signature=abc"
    there, again = (recipe.parse({"dataset": {"manifest": text}}) for text in (url, url.replace("abc", "xyz")))
    assert _with_absolute_paths(there).dataset.manifest == url
    assert there.digest == again.digest
    here = recipe.parse({"dataset": {"manifest": "cells.csv"}})
    monkeypatch.chdir(tmp_path)
    assert _with_absolute_paths(here).dataset.manifest == str(tmp_path / "cells.csv")
