"""What a run leaves for its report: bounded, the same again, and never at the cost of a result."""

from __future__ import annotations

import hashlib
import io
import json
import re

import numpy as np
import pytest
from helpers import Identity, with_plugins
from observing import few_cells
from PIL import Image
from reporting import rewritten, small_run

from cellfeat import encode_cells, observation_files, records, thumbnails, transfers
from cellfeat.components import compressed
from cellfeat.observation_files import BEFORE, FOLDER, SUMMARY, after
from cellfeat.observations import NOTABLE, NOTABLE_IN_ALL, notable_count

LABS = ["lab-a", "lab-b", "lab-c"]


@pytest.fixture(autouse=True)
def shared_cache(suite_cache, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(suite_cache))


@pytest.fixture(scope="module")
def finished(laboratories, suite_cache, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        return small_run(laboratories, tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def few(laboratories, tmp_path):
    return few_cells(laboratories, tmp_path / "few.csv")


def test_counts_sample_and_pictures_are_those_of_the_data(finished):
    found = observation_files.read(finished)
    summary = found.summary
    assert list(summary["domains"]) == LABS
    assert all(set(one["classes"].values()) == {10} for one in summary["domains"].values())
    assert set(found.features) == {BEFORE, *map(after, LABS)}
    for sample in found.features.values():
        assert len(sample.id) == 150
        assert np.isfinite(sample.values).all()
        assert sorted(set(sample.domain.tolist())) == LABS
    assert summary["features"][BEFORE]["width"] == 12 * 3 + 2 * 27
    assert len(summary["shown"]) == 45
    kinds = {kind for _, kind, _ in found.pictures}
    assert kinds == {"original", "outline"}
    assert summary["masks"] == "colour"
    assert not summary["masks_of_originals"]
    assert summary["empty_masks"] == summary["examples_left_out"] == {}
    assert not summary["grey_levels"]["cells_are_examples"]
    assert max(max(one.width, one.height) for one in found.pictures.values()) <= thumbnails.SIDE


def test_the_notable_cells_of_every_transfer_have_a_picture(finished):
    found = observation_files.read(finished)
    classes = records.read(finished / "records.jsonl")[0]["classes"]
    known = transfers.read(finished / "predictions.parquet", classes)
    assert len(known) == 9
    for one in known:
        for rows in (one.mistakes(24), one.doubts(24)):
            assert all((name, "original", "") in found.pictures for name in one.id[rows].tolist())


def test_an_equal_run_leaves_equal_bytes(finished, laboratories, tmp_path):
    again = small_run(laboratories, tmp_path / "again")
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((run / FOLDER).iterdir())}
        for run in (finished, again)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_features_after_are_those_of_the_saved_pipeline(finished):
    sample = observation_files.read(finished).features[after("lab-a")]
    for name in LABS:  # per-domain-z gives every domain the mean 0, which the components keep
        assert np.abs(sample.values[sample.domain == name].mean(0)).max() < 1e-3 * np.abs(sample.values).max()


def test_without_pictures_no_image_is_kept(laboratories, tmp_path):
    folder = small_run(laboratories, tmp_path / "run", pictures=False)
    found = observation_files.read(folder)
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["features.parquet", SUMMARY]
    assert found.summary["pictures"] is False
    assert found.summary["grey_levels"]["frame"]
    assert b"\xff\xd8\xff" not in (folder / FOLDER / SUMMARY).read_bytes()


class Draws(Identity):
    """Draws every cell in one colour, which is told by its features."""

    def reconstruct(self, cells, context):
        assert set(cells.label.tolist()) == {-1}
        assert set(cells.columns) == {"pooled"}
        grey = (255 * np.clip(cells.pooled.max(1, keepdims=True), 0, 1)).astype(np.uint8)
        return np.broadcast_to(grey[:, :, None, None], (len(cells), 3, 16, 16)).copy()


def test_a_reconstruction_is_that_of_its_own_cell(few, tmp_path):
    folder = small_run(few, tmp_path / "run", align="draws", registry=with_plugins(draws=Draws))
    found = observation_files.read(folder)
    assert found.summary["depicted"] == dict.fromkeys(["lab-a", "lab-b"], "reconstruction by draws")
    drawn = {name: one for (name, kind, source), one in found.pictures.items() if kind == "reconstruction"}
    assert len(drawn) == 12
    cells = encode_cells(few, ("pooled",), backbone="colour", params={"bins": 3})
    wanted = dict(zip(cells.id.tolist(), 255 * cells.pooled.max(1), strict=True))
    greys = {name: np.asarray(Image.open(io.BytesIO(one.jpeg))).mean() for name, one in drawn.items()}
    assert greys == pytest.approx({name: wanted[name] for name in greys}, abs=2)
    assert len(set(np.round(list(greys.values())))) > 3


class Wrong(Draws):
    def reconstruct(self, cells, context):
        return np.zeros((len(cells), 16, 16, 3), np.float32)


class Stops(Draws):
    def reconstruct(self, cells, context):
        raise RuntimeError("out of\nink")


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Wrong, r"uint8 array of \(12, 3, s, s\), but gave float32 \(12, 16, 16, 3\)"), (Stops, "out of ink")],
)
def test_a_method_that_fails_when_looked_at_costs_its_picture_and_no_result(few, tmp_path, kind, said):
    folder = small_run(few, tmp_path / "run", align="fails", registry=with_plugins(fails=kind))
    found = observation_files.read(folder)
    assert len(records.read(folder / "records.jsonl")) == 4
    assert list(found.summary["missing"]) == ["reconstructions of lab-a", "reconstructions of lab-b"]
    for reason in found.summary["missing"].values():
        assert re.search(said, reason)
    assert set(found.features) == {BEFORE, after("lab-a"), after("lab-b")}


class Paints(Identity):
    reads = ("image",)
    writes = "image"

    def transform(self, cells, context):
        return 255 - cells.image


def test_what_a_method_wrote_is_shown_and_features_before_are_of_the_originals(few, tmp_path):
    folder = small_run(few, tmp_path / "run", align="paints", registry=with_plugins(paints=Paints))
    found = observation_files.read(folder)
    assert set(found.summary["depicted"].values()) == {"written by paints"}
    assert found.summary["masks"] == "colour"
    assert found.summary["masks_of_originals"]
    assert {kind for _, kind, _ in found.pictures} == {"original", "outline", "written"}
    before, later = found.features[BEFORE], found.features[after("lab-a")]
    assert len(before.id) == len(later.id) == 40
    assert not np.allclose(before.values, later.values)


class OwnHead(Identity):
    reads = ("image",)
    uses_labels = True

    def fit(self, cells, context):
        self.classes = int(cells.label.max()) + 1
        return self

    def transform(self, cells, context):
        return cells.image.mean((2, 3)).astype(np.float32)

    def predict_proba(self, cells, context):
        return np.full((len(cells), self.classes), 1 / self.classes)


def test_a_method_with_its_own_head_has_no_features_before_it(few, tmp_path):
    folder = small_run(few, tmp_path / "run", align="own", registry=with_plugins(own=OwnHead), classifier=None)
    found = observation_files.read(folder)
    assert set(found.features) == {after("lab-a"), after("lab-b")}
    assert "reads images" in found.summary["missing"]["features before alignment"]
    assert found.summary["masks"] == "the data set"


def test_several_seeds_unlabelled_cells_and_few_shots(laboratories, tmp_path):
    manifest = rewritten(
        laboratories, tmp_path / "m.csv", label=lambda row: "" if row["id"].endswith("01") else row["label"]
    )
    folder = small_run(manifest, tmp_path / "run", protocol={"name": "few-shot", "shots": 2, "seeds": [1, 2]})
    found = observation_files.read(folder)
    assert found.summary["missing"] == {}
    assert {one["unlabelled"] for one in found.summary["domains"].values()} == {5}
    assert "" in found.features[BEFORE].label
    assert len(found.summary["recall"]) == 9
    known = transfers.read(folder / "predictions.parquet", found.summary["classes"])
    assert {one.models for one in known if one.source == one.target} == {2}
    assert {one.models for one in known if one.source != one.target} == {4}


def test_only_the_main_process_writes(few, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.observations.is_main", lambda: False)
    folder = small_run(few, tmp_path / "run")
    assert not (folder / FOLDER).exists()


def test_nothing_is_left_in_the_cache(few, tmp_path, suite_cache):
    small_run(few, tmp_path / "run", align="draws", registry=with_plugins(draws=Draws))
    assert not list((suite_cache / "scratch" / "run").glob("observed-*"))


def test_pictures_are_bounded_whatever_the_number_of_transfers():
    assert notable_count(0) == 0
    assert notable_count(1) == NOTABLE
    assert all(2 * n * notable_count(n) <= NOTABLE_IN_ALL for n in range(1, 1000))


def test_components_keep_what_they_say():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 200))
    one = compressed(features.astype(np.float32), seed=0)
    assert one.values.shape == (80, 50)
    assert one.explained == pytest.approx(1)
    gaps = lambda x: ((x[:, None] - x[None]) ** 2).sum(-1)  # noqa: E731
    np.testing.assert_allclose(gaps(one.values.astype(float)), gaps(features), rtol=1e-3, atol=1e-2)
    assert compressed(np.ones((5, 4), np.float32), 0).explained == 1


def test_a_summary_is_json_that_anybody_reads(finished):
    text = (finished / FOLDER / SUMMARY).read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["schema"] == observation_files.SCHEMA
