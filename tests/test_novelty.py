"""Warnings about cells unlike those that a run learnt from: silent for the same laboratory, plain for another."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import cache_in
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

import cellfeat as public
from cellfeat import CellfeatError, api, console, sharing
from cellfeat.batch_shift import COMPARED, LEAST_SCALE, Batch, Learnt
from cellfeat.feature_distance import FeatureCloud
from cellfeat.given import Given
from cellfeat.image_statistics import STATISTICS
from cellfeat.novelty import COMPONENTS, CutOut, Measured, Novelty, Reference, Typical
from cellfeat.novelty_remarks import Remedies, remarks
from cellfeat.reference_files import ABOUT, ARRAYS

RUN = {"backbone": "colour", "align": "none", "clf": "lr", "source": ["lab-a"], "target": ["lab-b"], "folds": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory, suite_cache) -> Iterator[Path]:
    with cache_in(suite_cache):
        yield tmp_path_factory.mktemp("novelty")


@pytest.fixture(scope="module")
def finished(place, laboratories) -> Path:
    """A run that learnt from the fifty cells of lab-a."""
    return api.run(laboratories, out=place / "run", pictures=False, **RUN)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def new_cells(place) -> Path:
    """Folder of cells of all laboratories that nobody has learnt from."""
    return api.demo(place / "new", per_class=4, size=32, seed=77).parent / "images"


def of(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}_*.png"))


# ---- features


def test_the_distance_is_mahalanobis_where_nothing_is_shrunk():
    rng = np.random.default_rng(0)
    spread = np.array([5.0, 1.0, 0.2])
    cloud = FeatureCloud.fit(rng.normal(size=(4000, 3)) * spread)
    assert cloud is not None
    steps = cloud.distances(np.diag(4 * spread))
    assert steps[0] == pytest.approx(4, rel=0.1)
    assert steps[0] > steps[1] > steps[2] > 1  # small variances are shrunk towards the mean one


def test_what_lies_beyond_the_directions_counts():
    rng = np.random.default_rng(0)
    seen = np.zeros((100, 200))
    seen[:, :3] = rng.normal(size=(100, 3))
    seen += 1e-3 * rng.normal(size=seen.shape)
    cloud = FeatureCloud.fit(seen)
    assert cloud is not None
    assert len(cloud.directions) == 20
    new = np.zeros((1, 200))
    new[0, 150] = 1.0
    assert cloud.distances(new)[0] > 10 * cloud.distances(seen).max()
    back = FeatureCloud.of_arrays(cloud.arrays())
    np.testing.assert_allclose(back.distances(seen), cloud.distances(seen), rtol=1e-3)


@pytest.mark.parametrize("features", [np.random.default_rng(0).normal(size=(19, 4)), np.ones((40, 4))])
def test_few_cells_and_equal_ones_have_no_cloud(features):
    assert FeatureCloud.fit(features) is None


# ---- a batch and its remarks


def learnt(domains: int = 1, cells: int = 300) -> Learnt:
    """Laboratories whose statistics are around 0, 5 deviations apart."""
    rng = np.random.default_rng(0)
    scale = np.append(2 * LEAST_SCALE, 1.0)
    domain = np.repeat([f"lab-{number}" for number in range(domains)], cells)
    values = scale * (rng.normal(size=(len(domain), len(COMPARED))) + 5 * np.repeat(np.arange(domains), cells)[:, None])
    return Learnt.of(values[:, :-1], values[:, -1], domain)


def batch(size: int, novel: int = 0, **off: float) -> Batch:
    """Cells as those of lab-0, but for statistics that are so many deviations off."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(size, len(COMPARED)))
    for name, deviations in off.items():
        values[:, COMPARED.index(name)] += deviations
    values *= np.append(2 * LEAST_SCALE, 1.0)
    return Batch(values[:, :-1], values[:, -1], novel, 0.01)


@pytest.mark.parametrize("size", [1, 5, 20, 200, 1000])
def test_the_same_laboratory_has_no_remark(size):
    assert remarks(batch(size, size // 100), learnt(), Remedies(refit=True)) == ()


def test_few_cells_prove_little():
    off = {"cell_share": -1.8}
    assert remarks(batch(4, **off), learnt(), Remedies()) == ()
    size, helps = remarks(batch(200, **off), learnt(), Remedies())
    assert size.startswith("The cells look smaller: -")
    assert "crops in which a cell takes" in helps


def test_between_two_laboratories_nothing_is_strange():
    assert remarks(batch(100, noise=3.0), learnt(2), Remedies()) == ()
    assert "noisier" in remarks(batch(100, noise=3.0), learnt(1), Remedies())[0]
    assert "noisier" in remarks(batch(100, noise=9.0), learnt(2), Remedies())[0]


@pytest.mark.parametrize(
    ("name", "deviations", "words"),
    [
        ("background_lightness", -4, "The background is darker (lightness -"),
        ("background_yellowness", 4, "The background is yellower (b* 1"),
        ("background_redness", -4, "The background is greener (a* -"),
        ("nucleus_density", 4, "The cells are stained darker in the nucleus (optical density 0.4"),
        ("stain_blueness", -4, "The cells are stained pinker"),
        ("contrast", -4, "The images have less contrast (spread of lightness -1"),
        ("sharpness", -4, "The images are blurrier (fine against coarse detail 0."),
        ("blockiness", 4, "The images are more strongly compressed"),
        ("pixels", -4, "The images are smaller (side in px "),
        ("cell_share", 4, "The cells look larger: 1"),
    ],
)
def test_each_difference_has_its_words(name, deviations, words):
    found = remarks(batch(50, **{name: deviations}), learnt(), Remedies())
    assert found[0].startswith(words)
    assert "learnt from" in found[0]
    assert found[-1].startswith("What may help: ")
    assert ("stain normalisation" in found[-1]) == name.startswith(("background", "nucleus", "stain", "contrast"))


def test_less_compression_is_no_remark_of_its_own():
    assert remarks(batch(50, blockiness=-4), learnt(), Remedies()) == ()


def test_what_is_advised_is_what_the_pipeline_can_do():
    strange = batch(50, 50, background_yellowness=5)
    count, light, helps = remarks(strange, learnt(), Remedies(refit=True))
    assert count == "50 of 50 images (100 %; 1 % would be by chance) are unlike the cells learnt from"
    assert light.endswith("than in the laboratory learnt from: lab-0")
    assert helps.startswith("What may help: --refit, which adapts to these images; stain normalisation (a run with")
    _, adapted, _, helps = remarks(strange, learnt(2), Remedies(refitted=True, normalises=True))
    assert adapted.startswith("The methods were adapted to these images")
    assert "--refit" not in helps
    assert "stain normalisation" not in helps


def test_features_alone_are_a_remark_about_kinds_of_cells():
    kinds = remarks(batch(50, features=5.0), learnt(), Remedies())[0]
    assert kinds.startswith("Light, stain, sharpness and size are as learnt, but the backbone's features are not")
    single = remarks(batch(100, 8), learnt(), Remedies())
    assert single[0].startswith("8 of 100 images (8 %; 1 % would be by chance)")
    assert single[1].startswith("The middle of the images is as learnt")
    assert remarks(batch(100, 3), learnt(), Remedies()) == ()


def test_a_statistic_that_is_known_of_no_cell_is_not_compared():
    strange = batch(50, cell_share=9)
    strange.statistics[:, -1] = np.nan
    assert remarks(strange, learnt(), Remedies()) == ()
    without = learnt()
    without.medians[:, STATISTICS.index("cell_share")] = np.nan
    assert remarks(batch(50, cell_share=9), without, Remedies()) == ()


# ---- a run


def test_new_cells_of_the_laboratory_are_as_learnt(finished, new_cells):
    found = public.load(finished).novelty(of(new_cells, "lab-a"))
    assert isinstance(found, Novelty)
    assert found.score.shape == (20,)
    assert found.remarks == ()
    assert found.novel.sum() <= 2
    np.testing.assert_array_equal(found.novel, found.score > 1)
    assert tuple(found.parts) == COMPONENTS


def test_another_laboratory_is_told_by_what_differs(finished, new_cells):
    """lab-b photographs in a yellower light, and stains with more eosin."""
    found = public.load(finished).novelty(of(new_cells, "lab-b"))
    assert found.novel.mean() > 0.9
    text = " ".join(found.remarks)
    assert "yellower (b*" in text
    assert "The cells are stained pinker" in text
    assert "darker (lightness" not in text
    other = public.load(finished).novelty(of(new_cells, "lab-c"))
    assert "The background is darker (lightness" in " ".join(other.remarks)


def test_the_share_of_a_typical_cell_is_known(finished):
    reference = Reference.read(finished / "pipelines" / "lab-a")
    assert reference is not None
    assert reference.cell_share == pytest.approx(0.44, abs=0.05)  # of a neutrophil, as it is drawn: 0.46


def test_arrays_are_judged_as_their_files(finished, new_cells):
    paths = of(new_cells, "lab-b")[::-1]
    run = public.load(finished)
    arrays = run.novelty([public.images.read_rgb(path) for path in paths])
    np.testing.assert_allclose(arrays.score, run.novelty(paths).score, rtol=1e-5)
    with pytest.raises(CellfeatError, match="features have no pixels; images are needed"):
        Given(*[np.array(["a"])] * 3, vectors=np.zeros((1, 5), np.float32)).images()


def test_what_is_kept_comes_back(finished, tmp_path):
    folder = finished / "pipelines" / "lab-a"
    reference = Reference.read(folder)
    assert reference is not None
    reference.save(tmp_path)
    again = Reference.read(tmp_path)
    assert (tmp_path / ABOUT).read_text() == (folder / ABOUT).read_text()
    assert (tmp_path / ARRAYS).read_bytes() == (folder / ARRAYS).read_bytes()
    rng = np.random.default_rng(0)
    assert again is not None
    assert reference.typical is not None
    assert reference.typical.cloud is not None
    cells = Measured(rng.normal(size=(4, len(STATISTICS))), rng.normal(size=(4, len(reference.typical.cloud.mean))))
    np.testing.assert_array_equal(again.judged(cells, Remedies()).score, reference.judged(cells, Remedies()).score)


def damaged(folder: Path, name: str, change: object) -> Path:
    (folder / name).write_text(change if isinstance(change, str) else json.dumps(change))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ABOUT, "{", "is damaged: Expecting property name"),
        (ABOUT, {"version": 1}, "is damaged: there is no 'features'"),
        (ABOUT, {"version": 9}, "is of version 9, and this cellfeat reads 1"),
        (ABOUT, [], "is damaged"),
        (ARRAYS, "nothing", "is damaged"),
    ],
)
def test_damaged_files_are_told(finished, tmp_path, name, change, message):
    folder = tmp_path / "copy"
    shutil.copytree(finished / "pipelines" / "lab-a", folder)
    with pytest.raises(CellfeatError, match=message):
        Reference.read(damaged(folder, name, change))
    (folder / ARRAYS).unlink()
    (folder / ABOUT).write_text("{}")
    with pytest.raises(CellfeatError, match="is damaged"):
        Reference.read(folder)


def test_arrays_of_another_reference_do_not_fit(finished, tmp_path):
    shutil.copytree(finished / "pipelines" / "lab-a", tmp_path / "copy")
    about = json.loads((tmp_path / "copy" / ABOUT).read_text())
    with pytest.raises(CellfeatError, match="arrays of the laboratories do not fit together"):
        Reference.read(damaged(tmp_path / "copy", ABOUT, {**about, "domains": ["lab-a", "lab-b"]}))


def test_nothing_of_a_single_cell_is_kept_or_sent(finished, laboratories, tmp_path):
    from safetensors.numpy import load_file

    folder = finished / "pipelines" / "lab-a"
    with laboratories.open() as file:
        rows = list(csv.DictReader(file))
    content = (folder / ABOUT).read_bytes() + (folder / ARRAYS).read_bytes()
    assert not [row["id"] for row in rows if row["id"].encode() in content]
    arrays = load_file(folder / ARRAYS)
    learnt_from = sum(row["domain"] == "lab-a" for row in rows)
    assert all(len(array) < learnt_from or array.ndim == 1 for array in arrays.values())
    assert len(arrays["directions"]) <= learnt_from / 5
    (tmp_path / "sent").mkdir()
    shared = sharing.prepare(finished, tmp_path / "sent", sharing.Wishes())
    assert {ABOUT, ARRAYS} <= {name for name, _ in shared.files}


def test_a_reference_that_fails_costs_no_result(finished, laboratories, place, tmp_path, monkeypatch, capfd):
    def fails(*arguments: object, **options: object) -> Reference:
        np.random.seed(0)  # noqa: NPY002 - as other people's code may
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr(Reference, "learn", fails)
    out, records = api.run(laboratories, out=tmp_path / "run", verbose=True, pictures=False, **RUN)  # type: ignore[arg-type]
    assert "note: the pipeline of lab-a will not warn of unlike cells: the disk is full" in capfd.readouterr().err
    before = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    assert [(one["target"], one["scores"]) for one in records] == [(one["target"], one["scores"]) for one in before]
    assert Reference.read(out / "pipelines" / "lab-a") is None
    with pytest.raises(CellfeatError, match="did not keep what its training cells look like: run again"):
        public.load(out).novelty(laboratories)


def test_a_method_that_reads_images_alone_compares_images_alone(finished, new_cells, laboratories):
    """Nothing is encoded for such a method, neither when it learns nor when it judges."""
    from cellfeat.datasets import read_manifest
    from cellfeat.types import Cells

    known = read_manifest(laboratories, domains=["lab-a"])
    cells = Cells.from_arrays(known.label, id=known.id, image=np.zeros((len(known), 3, 4, 4), np.uint8))
    reference = Reference.learn(known, cells, None, 1, uses_backbone=False)  # type: ignore[arg-type]
    assert not reference.encodes
    assert reference.cell_share == pytest.approx(0.44, abs=0.05)  # the data set has masks of its own
    strange = read_manifest(laboratories, domains=["lab-b"])
    found = reference.judge(strange, cells, None)  # type: ignore[arg-type]
    assert found.novel.mean() > 0.9
    assert "yellower" in " ".join(found.remarks)
    without = Reference.learn(dataclasses.replace(known, mask_path=None), cells, None, 1, False)  # type: ignore[arg-type]
    assert without.cell_share is None


def test_groups_are_held_out_whole():
    """Cells of one slide are alike; a cell is compared with those of other slides."""
    from cellfeat.novelty import _held_out

    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(8), 10)
    pooled = 10 * rng.normal(size=(8, 5))[slide] + 0.1 * rng.normal(size=(80, 5))
    cells = Measured(np.zeros((80, len(STATISTICS))), pooled)
    apart = _held_out(cells, slide.astype(str), 1)[:, 0]
    together = _held_out(cells, np.arange(80).astype(str), 1)[:, 0]
    assert np.median(apart) > 1.2 * np.median(together)
    assert np.isfinite(_held_out(cells, np.repeat("one", 80), 1)).all()


def test_predict_writes_and_says_it(cellfeat, finished, new_cells, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(console, "_said", set())  # a process says a note once, and other tests may have heard it
    folder = tmp_path / "images"
    folder.mkdir()
    for path in of(new_cells, "lab-b"):
        shutil.copy(path, folder)
    code, out, err = cellfeat("predict", finished, folder, "--json", "-o", "p.csv")
    assert code == 0, err
    said = json.loads(out)
    assert said["novel"] >= 18
    assert all(f"note: {remark}" in err for remark in said["remarks"])
    assert any("yellower" in remark for remark in said["remarks"])
    with Path("p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[4:6] == ["novelty", "novel"]
    assert sum(row["novel"] == "yes" for row in rows) == said["novel"]
    assert all((float(row["novelty"]) > 1) == (row["novel"] == "yes") for row in rows)
    shutil.copytree(finished, tmp_path / "old")
    for path in (tmp_path / "old" / "pipelines" / "lab-a").glob("reference.*"):
        path.unlink()
    code, out, _ = cellfeat("predict", tmp_path / "old", folder, "--json", "-o", "q.csv")
    assert code == 0
    assert "novel" not in json.loads(out)
    assert "novelty" not in Path("q.csv").read_text().splitlines()[0]


def test_less_compression_than_learnt_is_not_novel():
    place = STATISTICS.index("blockiness")
    typical = Typical(np.zeros(len(STATISTICS)), np.ones(len(STATISTICS)), None)
    off = np.zeros((2, len(STATISTICS)))
    off[:, place] = (-5, 5)
    assert typical.distances(Measured(off, None))[:, COMPONENTS.index("detail")].tolist() == [0, 5]


def test_a_typical_cell_is_far_from_nothing():
    cells = Measured(np.zeros((3, len(STATISTICS))), None)
    assert (Typical.fit(cells).distances(cells) == 0).all()


def test_remarks_on_a_photograph_are_on_the_cells_that_lie_alone(finished):
    reference = Reference.read(finished / "pipelines" / "lab-a")
    assert reference is not None
    assert reference.typical is not None
    statistics = np.tile(reference.typical.middle, (40, 1))
    statistics[:20, STATISTICS.index("background_yellowness")] += 60
    alone, field = np.arange(40) >= 20, np.array(["one", "two"] * 20)
    cells = Measured(statistics, None)
    by_border = reference.judged(cells, Remedies(), CutOut(alone, field))
    assert by_border.novel.tolist() == (~alone).tolist()
    assert by_border.remarks == ()
    said = reference.judged(cells, Remedies(), CutOut(~alone, field)).remarks
    assert said[0] == "20 of 20 whole cells that touch no other (100 %) are unlike the cells learnt from"
    assert "yellower" in said[1]
    assert reference.judged(cells, Remedies(), CutOut(np.zeros(40, bool), field)).remarks == ()


def test_crops_are_looked_at_in_the_size_of_the_training_images(laboratories):
    from cellfeat.datasets import read_manifest
    from cellfeat.novelty import measured

    few = read_manifest(laboratories, domains=["lab-a"]).select(np.arange(2))
    for side in (64, 300):
        assert 2 ** measured(few, None, side).statistics[:, STATISTICS.index("pixels")] == pytest.approx([side] * 2)


def test_the_false_alarm_counts_what_is_strange_in_any_component():
    """Of few cells each limit is the largest distance, so that each component's farthest cell is beyond the others."""
    from cellfeat.novelty import _false_alarm

    null = np.zeros((50, 5))
    null[range(5), range(5)] = 9
    assert _false_alarm(null, np.arange(50).astype(str), 1) == pytest.approx(0.1)
    assert _false_alarm(null, np.repeat("one", 50), 1) == pytest.approx(0.01)


def test_a_typical_cell_is_a_neutrophil(laboratories):
    from cellfeat.datasets import read_manifest
    from cellfeat.typical_share import typical_share

    known = read_manifest(laboratories, domains=["lab-a"])
    nothing = np.full(len(known), np.nan)
    share = typical_share(known, 1, lambda rows: nothing[rows])
    assert share == pytest.approx(0.46, abs=0.03)
    without = dataclasses.replace(known, mask_path=None)
    given = np.where(np.array(known.classes)[known.label] == "neutrophil", 0.5, 0.3)
    assert typical_share(without, 1, lambda rows: given[rows]) == 0.5
    named = dataclasses.replace(
        without, classes=tuple("Segmentkernige" if one == "neutrophil" else one for one in known.classes)
    )
    assert typical_share(named, 1, lambda rows: given[rows]) == 0.5
    assert typical_share(without, 1, lambda rows: nothing[rows]) is None
