"""The protocols: who is shown what, that hidden labels change nothing, and that a run repeats itself."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import Identity, labelled_cells, with_plugins

from cellfeat import CellfeatError, hookimpl, metrics
from cellfeat.evaluate import Evaluator, Shown, check_enough
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import Registry, installed
from cellfeat.scoring import score

CLASSES = ("x", "y", "z")


def evaluator_of(cells, context, registry=None, align="none", classifier="lr", sharing=None, **protocol):
    registry = registry or installed()
    align = align if isinstance(align, list) else [align]
    recipe = parse(
        {
            "backbone": {"name": "colour"},
            "align": [{"name": name} for name in align],
            "classifier": {"name": classifier},
            "protocol": {"folds": 3, **protocol},
        }
    )
    return Evaluator(resolve(recipe, registry), registry, cells, CLASSES, context, **sharing or {})


def spy(uses_target: bool, uses_labels: bool, log: list):
    """An aligner that changes nothing and writes down what fit was shown."""

    class Spy(Identity):
        def fit(self, cells, context):
            rows = [tuple(row) for row in cells.pooled]
            log.append({"rows": rows, "label": cells.label.copy(), "target": cells.is_target.copy()})
            return self

    Spy.uses_target, Spy.uses_labels = uses_target, uses_labels
    return Spy


@pytest.mark.parametrize("adapt", ["none", "test", "heldout"])
@pytest.mark.parametrize("uses_target", [True, False])
@pytest.mark.parametrize("uses_labels", [True, False])
def test_who_is_shown_what(adapt, uses_target, uses_labels, context):
    cells = labelled_cells()
    log: list = []
    registry = with_plugins(spy=spy(uses_target, uses_labels, log))
    evaluator = evaluator_of(cells, context, registry, "spy", adapt=adapt, source=["a"])
    (split,) = evaluator.splits(1)
    result = evaluator.run(split, 1)
    row_of = {tuple(row): number for number, row in enumerate(cells.pooled)}
    shown = [np.array([row_of[row] for row in fit["rows"]]) for fit in log]
    for fit, rows in zip(log, shown, strict=True):
        domains = set(cells.domain[rows[fit["target"]]])
        assert domains <= {"b"}
        assert (fit["label"][fit["target"]] == -1).all(), "a target label was shown"
        source = rows[~fit["target"]]
        assert set(cells.domain[source]) == {"a"}
        wanted = cells.label[source] if uses_labels else np.full(len(source), -1)
        np.testing.assert_array_equal(fit["label"][~fit["target"]], wanted)
    effective = adapt if uses_target else "none"
    assert result.adapt == effective
    assert result.adapted_to == dict.fromkeys("ab", [] if effective == "none" else ["b"])
    targets = [set(rows[fit["target"]]) for fit, rows in zip(log, shown, strict=True)]
    sources = [set(rows[~fit["target"]]) for fit, rows in zip(log, shown, strict=True)]
    everything = set(split.targets["b"])
    if effective == "test" and not uses_labels:
        assert len(log) == 1
        assert sources[0] == set(split.rows)
        assert targets[0] == everything
        return
    halves = 2 if effective == "heldout" else 1
    assert len(log) == 3 * halves
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        assert source == set(split.folds[number // halves].train)
        assert target == everything if effective == "test" else len(target) == (18 if effective == "heldout" else 0)
    if effective == "heldout":
        assert targets[0] | targets[1] == everything
        assert not targets[0] & targets[1]


def test_heldout_never_scores_a_cell_with_a_fit_that_saw_it(context):
    cells = labelled_cells()

    class Memory(Identity):
        def fit(self, cells, context):
            self.seen = {tuple(row) for row in cells.pooled[cells.is_target]}
            return self

        def transform(self, cells, context):
            hits = np.array([tuple(row) in self.seen for row in cells.pooled])
            return np.hstack([cells.pooled, hits[:, None]]).astype(np.float32)

    transformed: list = []

    class Tattler(Memory):
        def transform(self, cells, context):
            answer = super().transform(cells, context)
            transformed.append((len(cells), float(answer[:, -1].sum())))
            return answer

    evaluator = evaluator_of(cells, context, with_plugins(tattler=Tattler), "tattler", adapt="heldout", source=["a"])
    (split,) = evaluator.splits(1)
    evaluator.run(split, 1)
    scored = [hits for count, hits in transformed if count == 18]  # halves of the 36 target cells
    assert scored
    assert not any(scored)


@pytest.mark.parametrize(
    "align",
    [
        *("none", "per-domain-z", "mean-centre", "coral", "subspace", "ot-linear", "ot-entropic", "tca", "importance"),
        *("label-shift", ["per-domain-z", "coral"], ["per-domain-z", "label-shift"]),
    ],
)
@pytest.mark.parametrize("adapt", ["test", "heldout"])
def test_permuting_hidden_target_labels_changes_no_prediction(align, adapt, context):
    cells = labelled_cells(domains=("a", "b", "c"))
    label = cells.label.copy()
    target = np.flatnonzero(cells.domain != "a")
    label[target] = np.random.default_rng(0).permutation(label[target])
    answers = []
    for variant in (cells, replace(cells, label=label)):
        evaluator = evaluator_of(variant, context, None, align, "svm-linear", adapt=adapt, source=["a"])
        (split,) = evaluator.splits(1)
        result = evaluator.run(split, 1)
        answers.append({p.fold: {tuple(p.rows): p.proba} for ps in result.targets.values() for p in ps})
    first, second = ([p for fold in answer.values() for p in fold.values()] for answer in answers)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_repeats_itself(context):
    cells = labelled_cells()
    results = []
    for _ in range(2):
        evaluator = evaluator_of(cells, context, None, ["per-domain-z"], "svm-rbf")
        results.append([evaluator.run(split, 5) for split in evaluator.splits(5)])
    for first, second in zip(*results, strict=True):
        for one, other in zip(first.inside, second.inside, strict=True):
            np.testing.assert_array_equal(one.proba, other.proba)
        for name in first.targets:
            for one, other in zip(first.targets[name], second.targets[name], strict=True):
                np.testing.assert_array_equal(one.proba, other.proba)


def test_the_refit_uses_every_source_row_and_the_fit_that_is_at_hand(context):
    cells = labelled_cells()
    log: list = []
    registry = with_plugins(spy=spy(True, False, log))
    evaluator = evaluator_of(cells, context, registry, "spy", source=["a"])
    (split,) = evaluator.splits(1)
    evaluator.run(split, 1)
    pipeline = evaluator.refit(split, 1)
    assert len(log) == 1, "a label-free method under adapt: test is fitted once per source"
    expected = evaluator_of(cells, context, registry, "spy", source=["a"]).refit(split, 1)
    np.testing.assert_array_equal(pipeline.predict(cells, context)[1], expected.predict(cells, context)[1])


def test_scores_are_the_published_means_over_folds_and_pooled_inside(context):
    cells = labelled_cells()
    evaluator = evaluator_of(cells, context, source=["a"])
    (split,) = evaluator.splits(1)
    result = evaluator.run(split, 1)
    scored = score(result, cells, 3)
    answers = [np.mean(p.classes == cells.label[p.rows]) for p in result.targets["b"]]
    assert scored["b"].mean["accuracy"] == pytest.approx(np.mean(answers))
    assert scored["b"].std["accuracy"] == pytest.approx(np.std(answers))
    rows = np.concatenate([p.rows for p in result.inside])
    assert sorted(rows) == sorted(split.rows), "every source cell is scored once"
    hits = np.concatenate([p.classes == cells.label[p.rows] for p in result.inside])
    assert scored["a"].mean["accuracy"] == pytest.approx(hits.mean())


def test_leave_one_domain_out_trains_on_all_others(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    evaluator = evaluator_of(cells, context, name="leave-one-domain-out", adapt="none")
    splits = {split.name: list(split.targets) for split in evaluator.splits(1)}
    assert splits == {"b+c": ["a"], "a+c": ["b"], "a+b": ["c"]}
    result = evaluator.run(next(evaluator.splits(1)), 1)
    assert score(result, cells, 3)["a"].mean["accuracy"] > 0.5


def test_data_that_no_protocol_can_use_is_refused():
    with pytest.raises(CellfeatError, match="at least two"):
        check_enough(labelled_cells(domains=("a",)), 5)
    check_enough(labelled_cells(domains=("a",)), 5, alone=True)
    with pytest.raises(CellfeatError, match="cannot be divided into 500 folds"):
        check_enough(labelled_cells(domains=("a",)), 500, alone=True)


def test_majority_is_the_targets_own_commonest_class():
    labels = np.array([0] * 30 + [1] * 10)
    assert metrics.majority(labels, 3)["accuracy"] == 0.75
    assert metrics.majority(labels, 3)["balanced_accuracy"] == 0.5


# Few-shot


def seen_by(log, cells) -> list[dict]:
    """Of every fit: rows of the source, target rows with a label, target rows without."""
    row_of = {tuple(row): number for number, row in enumerate(cells.pooled)}
    found = []
    for fit in log:
        rows, target, known = np.array([row_of[row] for row in fit["rows"]]), fit["target"], fit["label"] >= 0
        parts = {"source": ~target, "labelled": target & known, "hidden": target & ~known}
        found.append({name: set(rows[part].tolist()) for name, part in parts.items()})
        # 0, 1 and 2 are all taught, so that the labels a method sees are the data set's own.
        np.testing.assert_array_equal(fit["label"][known], cells.label[rows[known]])
    return found


@pytest.mark.parametrize("adapt", ["none", "test", "heldout"])
@pytest.mark.parametrize("uses_target", [True, False])
@pytest.mark.parametrize("uses_labels", [True, False])
def test_few_shot_labels_are_shown_to_those_who_ask_for_both_and_no_others(adapt, uses_target, uses_labels, context):
    cells = labelled_cells()
    log: list = []
    registry = with_plugins(spy=spy(uses_target, uses_labels, log))
    evaluator = evaluator_of(cells, context, registry, "spy", name="few-shot", shots=2, adapt=adapt, source=["a"])
    (split,) = evaluator.splits(1)
    shown, rest = set(split.shown["b"].tolist()), set(split.adaptable["b"].tolist())
    assert len(shown) == 6
    assert not shown & rest
    result = evaluator.run(split, 1)
    fits = seen_by(log, cells)
    effective = adapt if uses_target else "none"
    for fit in fits:
        assert set(cells.domain[list(fit["source"])]) == {"a"}
        assert fit["labelled"] == (shown if uses_target and uses_labels else set())
        known_rows = shown if uses_target and not uses_labels else set()
        assert known_rows <= fit["hidden"], "they are target cells like others for a method without labels"
        unlabelled = fit["hidden"] - known_rows
        assert unlabelled == rest if effective == "test" else unlabelled <= rest
        assert bool(unlabelled) == (effective != "none")
        if not uses_target:
            assert not fit["hidden"]
    scored = result.predicted_rows("b")
    assert not shown & set(scored.tolist())
    assert set(scored.tolist()) == rest


@pytest.mark.parametrize("align", ["none", "per-domain-z"])
def test_the_classifier_learns_from_the_training_fold_and_the_shown_cells_and_no_others(align, context, monkeypatch):
    from cellfeat.classification import ClassifierHead

    cells, taught, fit = labelled_cells(), [], ClassifierHead.fit

    def spied(make, features, labels, groups, *rest):
        taught.append((labels, groups))
        return fit(make, features, labels, groups, *rest)

    monkeypatch.setattr("cellfeat.pipeline.ClassifierHead.fit", spied)
    evaluator = evaluator_of(cells, context, None, align, name="few-shot", shots=2, source=["a"])
    (split,) = evaluator.splits(1)
    evaluator.run(split, 1)
    assert len(taught) == 3
    for fold, (labels, groups) in zip(split.folds, taught, strict=True):
        rows = np.concatenate([fold.train, split.shown["b"]])
        assert sorted(zip(groups, labels, strict=True)) == sorted(
            zip(cells.group[rows], cells.label[rows], strict=True)
        )


def test_a_class_that_only_the_shown_cells_have_can_be_answered(context):
    cells = labelled_cells()
    keep = (cells.domain == "b") | (cells.label < 2)
    cells = cells[keep]
    evaluator = evaluator_of(cells, context, None, "per-domain-z", name="few-shot", shots=4, source=["a"])
    (split,) = evaluator.splits(1)
    result = evaluator.run(split, 1)
    assert 2 not in cells.label[split.rows]
    found = score(result, cells, 3)["b"]
    assert found.confusion[2][2] > 0


# One target at a time


def test_apart_each_fit_sees_one_target_alone(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    log: list = []
    registry = with_plugins(spy=spy(True, False, log))
    evaluator = evaluator_of(cells, context, registry, "spy", together=False, source=["a"])
    (split,) = evaluator.splits(1)
    result = evaluator.run(split, 1)
    fits = seen_by(log, cells)
    assert [set(cells.domain[list(fit["hidden"])]) for fit in fits] == [{"b"}, {"c"}]
    assert [len(fit["hidden"]) for fit in fits] == [36, 36]
    assert result.adapted_to == {"a": ["b"], "b": ["b"], "c": ["c"]}
    assert (result.together, result.split) == (False, split)
    assert set(result.targets) == {"b", "c"}
    for name in "bc":
        alone = evaluator_of(cells, context, registry, "spy", source=["a"], target=[name])
        expected = alone.run(next(alone.splits(1)), 1)
        for one, other in zip(result.targets[name], expected.targets[name], strict=True):
            np.testing.assert_array_equal(one.proba, other.proba)
            np.testing.assert_array_equal(one.rows, other.rows)
        if name == "b":
            for one, other in zip(result.inside, expected.inside, strict=True):
                np.testing.assert_array_equal(one.proba, other.proba)
    assert len(result.inside) == 3


def test_together_one_fit_sees_all_targets_and_a_method_without_targets_needs_one(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    for uses_target, together, fits in ((True, True, 1), (False, False, 3)):
        log: list = []
        registry = with_plugins(spy=spy(uses_target, False, log))
        evaluator = evaluator_of(cells, context, registry, "spy", together=together, source=["a"])
        result = evaluator.run(next(evaluator.splits(1)), 1)
        assert len(log) == fits, "one for the source, or one for each fold, whatever the number of targets"
        assert result.together
    assert set(result.targets) == {"b", "c"}


def test_apart_few_shot_labels_of_other_targets_are_not_shown(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    log: list = []
    registry = with_plugins(spy=spy(True, True, log))
    evaluator = evaluator_of(
        cells, context, registry, "spy", name="few-shot", shots=2, together=False, source=["a"], fitted_folds=1
    )
    (split,) = evaluator.splits(1)
    evaluator.run(split, 1)
    fits = seen_by(log, cells)
    assert [fit["labelled"] for fit in fits] == [set(split.shown["b"].tolist()), set(split.shown["c"].tolist())]


# Who is never handed target rows


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "protocol",
    [
        {"name": name, "adapt": adapt, "together": together}
        for name in ("cross-domain", "leave-one-domain-out", "few-shot")
        for adapt in ("none", "heldout", "test")
        for together in ((True, False) if name != "leave-one-domain-out" else (True,))
    ],
    ids=lambda protocol: "-".join(map(str, protocol.values())),
)
def test_a_method_that_asks_for_no_target_is_never_handed_any(protocol, symmetric, context):
    """Also in a chain with one that asks, and where both say that they treat source and target alike."""
    cells = labelled_cells(domains=("a", "b", "c"))
    log: list = []
    other: list = []
    without, asking = spy(False, False, log), spy(True, False, other)
    without.symmetric = asking.symmetric = symmetric
    registry = with_plugins(without=without, asking=asking)
    evaluator = evaluator_of(cells, context, registry, ["without", "asking"], shots=2, fitted_folds=1, **protocol)
    split = next(iter(evaluator.splits(1)))
    evaluator.run(split, 1)
    evaluator.refit(split, 1)
    assert log
    for fit in seen_by(log, cells):
        assert set(cells.domain[list(fit["source"])]) == set(split.source)
        assert not fit["labelled"] | fit["hidden"]
    asked = protocol["adapt"] != "none" or protocol["name"] == "few-shot"
    assert any(fit["hidden"] for fit in seen_by(other, cells)) == asked


# Fits that are shared


def test_a_symmetric_method_is_fitted_once_for_all_sources(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    for symmetric, count in ((True, 1), (False, 3)):
        log: list = []
        method = spy(True, False, log)
        method.symmetric = symmetric
        evaluator = evaluator_of(cells, context, with_plugins(spy=method), "spy")
        results = [evaluator.run(split, 1) for split in evaluator.splits(1)]
        assert len(log) == count
        if symmetric:
            assert (log[0]["label"] == -1).all()
            assert len(log[0]["rows"]) == len(cells)
            answers = results
    for one, other in zip(answers, results, strict=True):
        for name in one.targets:
            for first, second in zip(one.targets[name], other.targets[name], strict=True):
                np.testing.assert_array_equal(first.rows, second.rows)
                np.testing.assert_allclose(first.proba, second.proba)  # a method that does nothing: so nothing differs


def test_a_symmetric_fit_says_nothing_of_the_targets_labels(context):
    """A class that only the target has is not answered."""
    cells = labelled_cells()
    cells = cells[(cells.domain == "b") | (cells.label < 2)]
    method = spy(True, False, [])
    method.symmetric = True
    evaluator = evaluator_of(cells, context, with_plugins(spy=method), "spy", source=["a"])
    result = evaluator.run(next(evaluator.splits(1)), 1)
    for one in result.targets["b"]:
        assert (one.proba[:, 2] == 0).all()
        np.testing.assert_allclose(one.proba.sum(1), 1)


@pytest.mark.parametrize("align", ["per-domain-z", "coral", ["per-domain-z", "label-shift"]])
@pytest.mark.parametrize("adapt", ["test", "heldout"])
def test_a_shared_fit_gives_the_predictions_of_one_of_its_own(align, adapt, context):
    from collections import OrderedDict

    cells = labelled_cells(domains=("a", "b", "c"))
    shared, part = {"fits": OrderedDict(), "kept_fits": 12}, {"source": ["a"], "fitted_folds": 2}
    for classifier in ("lr", "majority", "lr"):
        answers = []
        for sharing in (shared, None):
            evaluator = evaluator_of(cells, context, None, align, classifier, sharing, adapt=adapt, **part)
            answers.append(evaluator.run(next(evaluator.splits(1)), 1))
        for name in ("a", "b", "c"):
            for one, other in zip(*(answer.predictions(name) for answer in answers), strict=True):
                np.testing.assert_array_equal(one.proba, other.proba)
        assert answers[0].seconds > 0
    of_folds = 2 if align == ["per-domain-z", "label-shift"] else 1  # it uses labels
    assert len(shared["fits"]) == (of_folds if adapt == "test" else 4)


def test_no_more_fits_are_kept_than_asked_for(context):
    from collections import OrderedDict

    cells, log = labelled_cells(), []
    registry = with_plugins(spy=spy(True, True, log))
    for kept, fitted in ((2, 6), (3, 3)):
        log.clear()
        sharing = {"fits": OrderedDict(), "kept_fits": kept}
        for classifier in ("lr", "majority"):
            evaluator = evaluator_of(cells, context, registry, "spy", classifier, sharing, source=["a"])
            evaluator.run(next(evaluator.splits(1)), 1)
        assert len(sharing["fits"]) == kept
        assert len(log) == fitted, "of three folds, two are at hand, and those the wrong ones; or all"


def test_a_shared_fit_is_of_the_same_seed_and_rows(context):
    from collections import OrderedDict

    cells, log = labelled_cells(domains=("a", "b", "c")), []
    registry = with_plugins(spy=spy(True, False, log))
    sharing = {"fits": OrderedDict(), "kept_fits": 12}
    for seed, target in ((1, ["b"]), (2, ["b"]), (1, ["c"]), (1, ["b"])):
        evaluator = evaluator_of(cells, context, registry, "spy", "lr", sharing, source=["a"], target=target)
        evaluator.run(next(evaluator.splits(seed)), seed)
    assert len(log) == 3


# Hidden labels


@pytest.mark.parametrize("align", ["per-domain-z", "coral", "importance", ["per-domain-z", "label-shift"]])
@pytest.mark.parametrize(
    "protocol",
    [{"name": "few-shot", "shots": 2}, {"name": "few-shot", "shots": 2, "together": False}, {"together": False}],
    ids=["few-shot", "few-shot-apart", "apart"],
)
def test_permuting_hidden_target_labels_changes_no_prediction_few_shot_and_apart(align, protocol, context):
    """The split is drawn once: which cells are shown depends on the labels, and what is learned then does not."""
    cells = labelled_cells(domains=("a", "b", "c"))
    evaluator = evaluator_of(cells, context, None, align, adapt="test", source=["a"], fitted_folds=1, **protocol)
    (split,) = evaluator.splits(1)
    shown = np.concatenate([np.zeros(0, int), *split.shown.values()])
    hidden = np.setdiff1d(np.flatnonzero(cells.domain != "a"), shown)
    assert len(shown) == (12 if "name" in protocol else 0)
    label = cells.label.copy()
    label[hidden] = np.random.default_rng(0).permutation(label[hidden])
    variants = [cells, replace(cells, label=label)]
    if len(shown):  # and those that are shown do change something, so that this test can see
        told = cells.label.copy()
        told[shown] = (told[shown] + 1) % 3
        variants.append(replace(cells, label=told))
    answers = []
    for variant in variants:
        one = evaluator_of(variant, context, None, align, adapt="test", source=["a"], fitted_folds=1, **protocol)
        result = one.run(split, 1)
        answers.append(np.concatenate([p.proba for ps in result.targets.values() for p in ps]))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not len(shown) or not np.array_equal(answers[0], answers[2])


def test_a_symmetric_method_is_not_fitted_again_for_the_pipeline_that_is_kept(context):
    cells, log = labelled_cells(domains=("a", "b", "c")), []
    alike = spy(True, False, log)
    alike.symmetric = True
    evaluator = evaluator_of(cells, context, with_plugins(spy=alike), "spy")
    for split in evaluator.splits(1):
        evaluator.run(split, 1)
        pipeline = evaluator.refit(split, 1)
        assert pipeline.head is not None
        assert set(pipeline.predict(cells, context)[0]) <= {0, 1, 2}
    assert len(log) == 1, "one fit serves three sources and what is kept of each"


def test_checkpoints_of_another_version_of_a_plugin_are_not_found(context):
    """What other code left half done must not be gone on from under the name of this one."""
    cells, folders = labelled_cells(), []
    for version in ("1.0", "1.1", "1.0"):
        registry = Registry(list(installed().offers))
        hook = hookimpl(lambda: {"mine": Identity})
        registry.add("mine", "mine", version, lambda hook=hook: SimpleNamespace(cellfeat_align=hook))
        recipe = resolve(parse({"align": {"name": "mine"}, "classifier": {"name": "lr"}}), registry)
        evaluator = Evaluator(recipe, registry, cells, ("x", "y", "z"), context)
        split = next(evaluator.splits(1))
        folders.append(evaluator._context(1, Shown(split.rows, np.zeros(0, int), np.zeros(0, int))).scratch)
    assert folders[0] == folders[2] != folders[1]
