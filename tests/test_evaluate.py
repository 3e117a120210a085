"""The protocols: who is shown what, that hidden labels change nothing, and that a run repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import Identity, labelled_cells, with_plugins

from cellfeat import CellfeatError, metrics
from cellfeat.evaluate import Evaluator, check_enough
from cellfeat.pipeline import resolve
from cellfeat.recipe import parse
from cellfeat.registry import installed
from cellfeat.scoring import score

CLASSES = ("x", "y", "z")


def evaluator_of(cells, context, registry=None, align="none", classifier="lr", **protocol):
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
    return Evaluator(resolve(recipe, registry), registry, cells, CLASSES, context)


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


def test_majority_is_the_targets_own_commonest_class():
    labels = np.array([0] * 30 + [1] * 10)
    assert metrics.majority(labels, 3)["accuracy"] == 0.75
    assert metrics.majority(labels, 3)["balanced_accuracy"] == 0.5
