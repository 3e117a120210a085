"""Temperature, conformal sets and abstaining: what is promised holds on cells drawn alike, and is kept with a run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_cli import cellfeat, one_line  # noqa: F401  a fixture
from test_predicted import finished  # noqa: F401  a fixture

from cellfeat import CellfeatError, Confidence, conformal, load, metrics, temperature, use
from cellfeat.artifact_info import describe
from cellfeat.conformal import Scores
from cellfeat.console import SilentReporter
from cellfeat.predicted import Predictions, write_shares
from cellfeat.registry import installed
from cellfeat.results import Prediction
from cellfeat.sharing import Wishes, prepare
from cellfeat.splits import Fold, Split
from cellfeat.verdicts import Wanted
from cellfeat.workplace import Workplace

NAMES = ("a", "b", "c")


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(n: int, seed: int, sharpness: float = 1.0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn by them; then the probabilities made too sure by `sharpness`."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, classes)) * 1.5
    labels = (softmax(scores).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return softmax(scores * sharpness), labels


def learnt(n: int = 600, seed: int = 0, sharpness: float = 2.0, folds: int = 5) -> Confidence:
    proba, labels = drawn(n, seed, sharpness)
    return Confidence.of(proba, labels, np.arange(n) % folds, np.arange(n), NAMES, np.ones(3, bool))


# temperature


def test_probabilities_twice_too_sharp_want_a_temperature_of_two():
    proba, labels = drawn(20_000, 0, 2.0)
    assert temperature.fitted(proba, labels) == pytest.approx(2, rel=0.04)
    np.testing.assert_allclose(
        temperature.tempered(softmax(np.log([[4.0, 2, 1]])), 2), [[2, 2**0.5, 1]] / np.float64(3 + 2**0.5)
    )


def test_the_largest_stays_the_largest_and_nothing_stays_nothing():
    rng = np.random.default_rng(1)
    proba = rng.dirichlet(np.full(5, 0.05), 2000)
    proba[:, 4] = 0
    proba /= proba.sum(axis=1, keepdims=True)
    near = np.array(
        [[0.4, np.nextafter(0.4, 1), 0.2, 0, 0], [np.nextafter(0.4, 1), 0.4, 0.2, 0, 0], [1e-300, 0, 0, 0, 0]]
    )
    proba = np.concatenate([proba, near])
    for degree in (0.05, 0.3, 1.0, 1.7, 20.0):
        found = temperature.tempered(proba, degree)
        np.testing.assert_array_equal(found.argmax(axis=1), proba.argmax(axis=1))
        assert (found[proba == 0] == 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


def test_a_few_cells_that_were_all_right_are_no_certainty():
    proba = np.tile([0.9, 0.05, 0.05], (20, 1))
    found = temperature.tempered(proba, temperature.fitted(proba, np.zeros(20, int)))[0]
    np.testing.assert_allclose(found, [1 - 2 / 3 / 22, 1 / 3 / 22, 1 / 3 / 22], atol=1e-3)  # one of 22 was of any class
    assert temperature.fitted(proba[:0], np.zeros(0, int)) == 1


def test_no_cell_has_a_say_in_its_own_temperature():
    proba, labels = drawn(300, 2, 2.0)
    fold = np.arange(300) % 3
    before = temperature.cross_fitted(proba, labels, fold)
    other = np.where(fold == 0, (labels + 1) % 3, labels)
    after = temperature.cross_fitted(proba, other, fold)
    np.testing.assert_array_equal(before[fold == 0], after[fold == 0])
    assert (before[fold == 1] != after[fold == 1]).all()


def test_a_temperature_is_kept_only_where_it_helps_cells_that_it_was_not_fitted_on():
    found = learnt(sharpness=2.0)
    assert found.after["log_loss"] < found.before["log_loss"]
    assert found.after["expected_error"] < found.before["expected_error"] / 2
    noise = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    labels = noise.argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 3  # one fold is wrong throughout, the others right: each misleads the others
    kept = Confidence.of(noise, labels, np.repeat(range(3), 4), np.arange(12), NAMES, np.ones(3, bool))
    assert (kept.temperature, kept.after) == (1.0, kept.before)
    np.testing.assert_allclose(kept.calibrated(noise), noise)


# sets


def test_thresholds_are_the_order_statistics_of_the_theorem():
    score = np.random.default_rng(0).permutation(99) / 100
    found = Scores.of(score, np.arange(99))
    assert [found.threshold(level) for level in (0.5, 0.9, 0.95, 0.99)] == [0.49, 0.89, 0.94, 0.98]
    assert found.threshold(0.991) == np.inf
    assert Scores.of(score[:8], np.arange(8)).threshold(0.9) == np.inf  # nine are needed
    assert Scores.of(score[:9], np.arange(9)).threshold(0.9) == score[:9].max()
    assert Scores.of(score[:0], np.arange(0)).threshold(0.1) == np.inf
    many = np.random.default_rng(1).random(20_000)
    thinned = Scores.of(many, np.arange(20_000))
    assert len(thinned.score) == conformal.MOST
    for level in (0.8, 0.9, 0.95):
        exact = np.sort(many)[int(np.ceil(20_001 * level)) - 1]
        assert exact <= thinned.threshold(level) < exact + 0.002


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_cover_every_class_whatever_the_shares_of_the_classes(coverage):
    rng = np.random.default_rng(5)
    proba, labels = drawn(40_000, 5, 2.0)
    held = np.arange(len(labels)) < 3000
    known = Confidence.of(proba[held], labels[held], np.arange(3000) % 5, np.arange(3000), NAMES, np.ones(3, bool))
    kept = ~held & (rng.random(len(labels)) < np.array([1.0, 0.3, 0.1])[labels])  # another mixture of the classes
    sets = known.sets(known.calibrated(proba[kept]), coverage)
    hit, label = sets[np.arange(len(sets)), labels[kept]], labels[kept]
    for one in range(3):
        n, m = int((labels[:3000] == one).sum()), int((label == one).sum())
        error = (coverage * (1 - coverage) * (1 / n + 1 / m)) ** 0.5
        assert hit[label == one].mean() > coverage - 3 * error
    assert 1 < sets.sum(axis=1).mean() < 3
    together = known.sets(known.calibrated(proba[~held]), coverage, by_class=False)
    whole = together[np.arange(len(together)), labels[~held]].mean()
    assert whole == pytest.approx(coverage, abs=0.02)


def test_a_patient_counts_once_however_many_cells_he_has():
    one_each = Scores.of(np.arange(9) / 10, np.arange(9))
    assert (one_each.n, one_each.groups, one_each.threshold(0.9)) == (9, 9, 0.8)
    crowded = Scores.of(np.arange(90) / 100, np.repeat(np.arange(9), 10))
    assert (crowded.n, crowded.groups, crowded.threshold(0.9)) == (90, 9, 0.89)
    assert Scores.of(np.arange(90) / 100, np.repeat(np.arange(8), [83, 1, 1, 1, 1, 1, 1, 1])).threshold(0.9) == np.inf
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):  # 29 patients whose scores lie apart, and one more
        centre = rng.normal(size=30)
        found = Scores.of((centre[:29, None] + rng.normal(size=(29, 20)) / 9).ravel(), np.repeat(range(29), 20))
        hits.append(centre[29] + rng.normal() / 9 <= found.threshold(0.8))
    assert np.mean(hits) > 0.8 - 3 * (0.16 / 300) ** 0.5


def test_classes_with_few_cells_are_in_every_set_and_told_and_untaught_ones_in_none():
    proba, labels = drawn(200, 3, classes=4)
    labels[labels == 2] = 0
    labels[:5] = 2
    kept = labels != 3
    taught = np.array([True, True, True, False])
    n = int(kept.sum())
    known = Confidence.of(proba[kept], labels[kept], np.arange(n) % 4, np.arange(n), ("a", "b", "c", "d"), taught)
    sure = np.array([[0.97, 0.02, 0.01, 0], [0.02, 0.96, 0.01, 0.01]])
    np.testing.assert_array_equal(known.sets(sure, 0.9)[:, 2:], [[True, False], [True, False]])
    assert known.unpromised(0.9) == {"c": 5}
    assert known.unpromised(0.5) == {}
    assert not known.grouped
    assert known.sets(np.array([[0.25, 0.25, 0.25, 0.25]]), 0.01).any()  # the best class is always in it


# learning, keeping


def test_it_learns_from_held_out_cells_with_labels_alone():
    proba, labels = drawn(40, 4)
    labels[7] = -1
    cells = SimpleNamespace(label=labels, group=np.array([f"patient-{i // 2}" for i in range(40)]))
    rows = np.arange(40)
    inside = [Prediction(k, rows[k::2], proba[k::2].argmax(axis=1), proba[k::2]) for k in range(2)]
    split = Split(("lab",), (Fold(rows[1::2], rows[::2]), Fold(rows[::2], rows[1::2])), {}, {}, {})
    result = SimpleNamespace(inside=inside, split=split)
    found = Confidence.learn(result, cells, (*NAMES, "never"))
    assert found.pooled.n == 39 == sum(one.n for one in found.by_class)
    assert (found.pooled.groups, found.grouped) == (20, True)
    assert found.taught == (True, True, True, False)
    known = labels != -1
    assert found.before == pytest.approx(metrics.calibration(labels[known], proba[known]))


def test_it_comes_back_as_it_was_and_a_damaged_file_is_one_line(tmp_path):
    known = learnt()
    assert Confidence.read(tmp_path) is None
    known.save(tmp_path)
    again = Confidence.read(tmp_path)
    proba, _ = drawn(50, 9)
    np.testing.assert_array_equal(again.calibrated(proba), known.calibrated(proba))
    for level in (0.5, 0.9, 0.999):
        np.testing.assert_array_equal(again.sets(proba, level), known.sets(proba, level))
    assert (again.before, again.after, again.classes, again.taught) == (known.before, known.after, NAMES, (True,) * 3)
    path = tmp_path / "confidence.json"
    said = json.loads(path.read_text())
    assert again.prior == known.prior
    assert known.prior == pytest.approx((1 / 3,) * 3, abs=0.1)
    path.write_text(json.dumps({key: value for key, value in said.items() if key != "prior"}))
    older = Confidence.read(tmp_path)
    assert (older.prior, older.temperature, older.after) == (None, known.temperature, known.after)
    one = said["by_class"][0]
    for wrong, words in [
        ("[]", "damaged"),
        ("{", "damaged"),
        (json.dumps({"format": 2}), "has format 2, this cellfeat reads 1"),
        (json.dumps({"format": 1}), "no 'classes' in it"),
        (json.dumps({**said, "temperature": -1}), "a temperature of -1"),
        (json.dumps({**said, "taught": [True]}), "3 classes, 1 taught or not"),
        (json.dumps({**said, "prior": [0.5, 0.5]}), "a prior that is no share of each class"),
        (json.dumps({**said, "prior": [1, 1, 0]}), "a prior that is no share of each class"),
        (json.dumps({**said, "pooled": {**one, "score": [1.0]}}), "no pairs of numbers"),
        (json.dumps({**said, "pooled": {**one, "score": one["score"][::-1]}}), "do not ascend"),
    ]:
        path.write_text(wrong)
        with pytest.raises(CellfeatError, match=r"confidence\.json") as error:
            Confidence.read(tmp_path)
        assert words in str(error.value)


def test_a_class_with_the_mark_between_the_classes_of_a_set_has_no_sets(tmp_path):
    learnt().save(tmp_path)
    Wanted(coverage=0.9).check(tmp_path)
    path = tmp_path / "confidence.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"classes": ["a|b", *said["classes"][1:]]}))
    Wanted().check(tmp_path)
    with pytest.raises(CellfeatError, match=r"--coverage: a class of .* is called 'a.b', .*leave --coverage out"):
        Wanted(coverage=0.9).check(tmp_path)


def test_what_cannot_be_wanted_is_refused():
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(CellfeatError, match="it is a probability from 0 to 1"):
            Wanted(abstain=wrong)
    for wrong in (0, 1, 90, float("nan")):
        with pytest.raises(CellfeatError, match=r"share between 0 and 1, such as 0\.9"):
            Wanted(coverage=wrong)
        with pytest.raises(CellfeatError, match="share between 0 and 1"):
            learnt(30).sets(np.ones((1, 3)) / 3, wrong)


# counting


def test_shares_are_of_the_answered_cells(tmp_path):
    proba = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.55, 0.45]])
    group = np.array(["p", "p", "p", "q"])
    answered = proba.max(axis=1) >= 0.7
    found = Predictions(("a", "b"), proba.argmax(axis=1), proba, group, answered=answered, sizes=np.array([1, 2, 1, 2]))
    first, second = found.by_group()
    assert (first.cells, first.unanswered, [part.share for part in first.shares]) == (3, 1, [0.5, 0.5])
    assert (second.unanswered, second.shares[0][:4]) == (1, (0, None, None, None))
    said = found.as_dict()
    assert (said["images"], said["not_answered"], said["set_sizes"]) == (4, 2, {"1": 2, "2": 2})
    assert [one["share"] for one in said["classes"]] == [0.5, 0.5]
    write_shares(tmp_path / "s.csv", found)
    with (tmp_path / "s.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["not_answered"] for line in lines] == ["1", "1"]
    assert (lines[1]["n_a"], lines[1]["share_a"], lines[1]["p_a"]) == ("0", "", "0.55")
    texts = [[str(cell) for column in table.columns for cell in column.cells] for table in found.tables()]
    assert ["(not answered)" in text for text in texts] == [True, False, True]
    assert "none answered" in texts[2]


# a run


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def pipeline_of(run: Path) -> Path:
    [found] = (run / "pipelines").iterdir()
    return found


def test_predict_tells_sets_and_abstains(cellfeat, finished, laboratories):  # noqa: F811
    images = laboratories.parent / "images"
    known = Confidence.read(pipeline_of(finished))
    code, out, err = cellfeat("predict", finished, images, "-o", "raw.csv", "--raw", "--json")
    assert (code, json.loads(out)["probabilities"]) == (0, "raw"), err
    code, out, err = cellfeat("predict", finished, images, "--coverage", 0.9, "--abstain", 0.8, "--json")
    assert code == 0, err
    assert "90 % of the cells of each class have it in their set if they are like the source's" in err
    raw, told, said = read(Path("raw.csv")), read(Path("predictions.csv")), json.loads(out)
    assert list(told[0])[:6] == ["id", "path", "label", "probability", "best_label", "set"]
    assert "best_label" not in raw[0]
    assert [row["best_label"] for row in told] == [row["label"] for row in raw]
    names = [f"p_{name}" for name in known.classes]
    before, after = (np.array([[float(row[name]) for name in names] for row in rows]) for rows in (raw, told))
    np.testing.assert_allclose(after, known.calibrated(before), atol=1e-4)
    for row in told:
        assert row["label"] == (row["best_label"] if float(row["probability"]) >= 0.8 else "")
        assert row["best_label"] in row["set"].split("|")
    assert said["probabilities"] == "calibrated"
    assert said["not_answered"] == sum(row["label"] == "" for row in told) > 0
    assert said["set_sizes"] == {
        str(size): sum(len(row["set"].split("|")) == size for row in told)
        for size in sorted({len(row["set"].split("|")) for row in told})
    }


def test_what_a_run_cannot_tell_is_refused_before_any_image_is_opened(cellfeat, finished, tmp_path):  # noqa: F811
    (tmp_path / "bad.png").write_text("no image")
    code, _, err = cellfeat("predict", finished, tmp_path / "bad.png", "--coverage", 1.5)
    assert (code, "share between 0 and 1" in one_line(err)) == (2, True)
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (pipeline_of(old) / "confidence.json").unlink()
    code, _, err = cellfeat("predict", old, tmp_path / "bad.png", "--coverage", 0.9)
    assert (code, "has no confidence.json" in one_line(err)) == (2, True)


def test_in_python_an_old_run_answers_raw_and_anothers_knowledge_is_refused(finished, laboratories, tmp_path):  # noqa: F811
    run, manifest = load(finished, device="cpu"), str(laboratories)
    raw, known = run.predict_proba(manifest, raw=True), Confidence.read(pipeline_of(finished))
    np.testing.assert_allclose(run.predict_proba(manifest), known.calibrated(raw), atol=1e-6)
    sets = run.predict_sets(manifest, 0.8)
    np.testing.assert_array_equal(sets, known.sets(known.calibrated(raw), 0.8))
    assert not np.array_equal(sets, run.predict_sets(manifest, 0.8, by_class=False)) or sets.all()
    answers, sure = run.predict(manifest), known.calibrated(raw).max(axis=1)
    np.testing.assert_array_equal(run.predict(manifest, abstain=0.8), np.where(sure >= 0.8, answers, ""))
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (pipeline_of(old) / "confidence.json").unlink()
    old_run = load(old, device="cpu")
    np.testing.assert_allclose(old_run.predict_proba(manifest), raw, atol=1e-6)
    with pytest.raises(CellfeatError, match=r"has no confidence\.json"):
        old_run.predict_sets(manifest)
    learnt().save(pipeline_of(old))
    with pytest.raises(CellfeatError, match="another pipeline's: its classes are a, b, c, and not"):
        load(old, device="cpu").predict(manifest)


def test_it_is_shared_without_an_id_and_used_where_it_is_fetched(finished, laboratories, tmp_path):  # noqa: F811
    prepare(finished, tmp_path / "model", Wishes())
    text = (tmp_path / "model" / "confidence.json").read_text()
    with laboratories.open() as file:
        assert not any(row["id"] in text for row in csv.DictReader(file))
    work = Workplace(installed(), SilentReporter(), "cpu")
    images = [laboratories.parent / "images"]
    for place, name in ((tmp_path / "model", "there.csv"), (finished, "here.csv")):
        use.predict(place, images, tmp_path / name, "new", None, False, work, wanted=Wanted(coverage=0.9))
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()
    assert "held-out cells" in describe(pipeline_of(finished)).facts["calibration"]


def test_labelled_cells_of_another_laboratory_tell_what_its_sets_must_hold(finished, laboratories):  # noqa: F811
    import pandas

    cells = pandas.read_csv(laboratories)
    cells["path"] = [str(laboratories.parent / path) for path in cells["path"]]
    other = cells[cells["domain"] == "lab-c"].drop(columns="label")
    labels = cells.loc[other.index, "label"].to_numpy()
    run = load(finished, device="cpu")
    told = run.recalibrated(other, labels)
    np.testing.assert_array_equal(told.predict(other), run.predict(other))
    np.testing.assert_array_equal(told.predict_proba(other, raw=True), run.predict_proba(other, raw=True))
    assert told.confidence.pooled.n == len(other)
    place = [run.classes_.tolist().index(name) for name in labels]
    for one in range(len(run.classes_)):
        own = np.array(place) == one
        assert told.predict_sets(other, 0.9)[own, one].mean() >= 0.9
    assert run.predict_sets(other, 0.9)[np.arange(len(place)), place].mean() < 0.9
    with pytest.raises(CellfeatError, match=r"50 cells have labels of shape \(1,\); give one for each"):
        run.recalibrated(other, labels[:1])
    with pytest.raises(CellfeatError, match=r"no class of this run named 'neutrofil'\. Did you mean 'neutrophil'"):
        run.recalibrated(other, ["neutrofil"] * len(other))
