"""What a classifier promises: (N, D) float32 features to labels 0..K-1, saved without a pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cellfeat.classification import ClassifierHead, trusted_by
from cellfeat.errors import CellfeatError
from cellfeat.testing import classifier_rows as rows
from cellfeat.testing import common_checks as common
from cellfeat.testing.checks import Check, Failed, Skipped, check, told
from cellfeat.testing.classifier_subject import CLASSES, TOLERANCE, ClassifierSubject, Rows, differing, noise, separable
from cellfeat.testing.fresh import Arrays, in_fresh_process
from cellfeat.testing.gates import after, gate, needs

ACCURACY = 0.8  # of classes that lie several deviations apart
AGREEING = 0.9  # of rows: how often the largest of other scores is the label (votes decide otherwise, at times)


@gate("Take features of float32, which is what a run hands out: `features = np.asarray(features, float)` in both.")
def float32(subject: ClassifierSubject) -> None:
    """Features of float32 are fitted and answered."""
    needs(subject, common.members, common.runs)
    try:
        _ = subject.answered
    except (Exception, SystemExit) as error:
        raise Failed(f"float32 raises {told(error)}; float64 works") from error


@gate("Return one label for every row, (N,).")
def shape(subject: ClassifierSubject) -> None:
    """Its answer is one label per row."""
    subject.works()
    _, predicted = subject.answered
    if predicted.shape != subject.rows.labels.shape:
        raise Failed(f"predict gives the shape {predicted.shape}, must be {subject.rows.labels.shape}")
    if predicted.dtype.kind not in "iuf":
        raise Failed(f"predict gives {predicted.dtype}, must be the labels' numbers")


@check("Return `self` from `fit`, as scikit-learn does.")
def fit_returns_self(subject: ClassifierSubject) -> None:
    """What fit gives is the classifier itself."""
    subject.works()
    classifier = subject.made()
    with subject.watched():
        given = classifier.fit(subject.rows.features.copy(), subject.rows.labels.copy())
    if given is not classifier:
        raise Failed(f"fit gives {type(given).__name__}, must be the classifier itself")


@check("See that labels and features reach the fit in the same order, and that it ends where it has learned.")
def learns(subject: ClassifierSubject) -> None:
    """Classes that lie far apart are told apart."""
    subject.answers_well()
    after(subject, rows.row_order)
    _, predicted = subject.answered
    share = float(np.mean(predicted == subject.rows.labels))
    if share <= ACCURACY:
        raise Failed(f"of classes that lie far apart it told {share:.0%} of the rows it was fitted on")


@check("Answer with labels that fit was given, whatever the row and however many classes there are.")
def classes(subject: ClassifierSubject) -> None:
    """Of two, three or five classes, and for rows unlike any seen, it answers with labels that it was given."""
    subject.answers_well()
    common.in_time(subject)
    strangers = np.concatenate([noise().features, 100 * noise(seed=5).features])
    for count in (2, CLASSES, 5):
        toys = separable(count)
        try:
            predicted = subject.asked(subject.fitted(toys), strangers)
        except (Exception, SystemExit) as error:
            raise Failed(f"labels 0..{count - 1} raise {told(error)}") from error
        foreign = sorted(set(predicted.tolist()) - set(toys.labels.tolist()))
        if foreign:
            raise Failed(f"fitted on the labels 0..{count - 1} it answered {', '.join(map(str, foreign))}")


@check("Give a column for each label 0..K-1 in that order, rows summing to 1, or leave `predict_proba` out.")
def probabilities(subject: ClassifierSubject) -> None:
    """Probabilities, where it has them, are (rows, classes), sum to 1, and agree with its labels."""
    subject.answers_well()
    after(subject, rows.one_row)
    if not hasattr(subject.answered[0], "predict_proba"):
        raise Skipped("it has no `predict_proba`")
    for count in (CLASSES, 2):
        toys = separable(count)
        classifier = subject.fitted(toys)
        proba = subject.asked(classifier, toys.features, "predict_proba").astype(float)
        if proba.shape != (len(toys.labels), count):
            raise Failed(f"predict_proba gives the shape {proba.shape}, must be {(len(toys.labels), count)}")
        if not np.isfinite(proba).all() or proba.min() < 0:
            raise Failed("predict_proba gives negative probabilities, or NaN")
        if not np.allclose(proba.sum(axis=1), 1, atol=TOLERANCE):
            raise Failed("the rows of predict_proba do not sum to 1")
        _check_agreeing("predict_proba", proba.argmax(axis=1), subject.asked(classifier, toys.features))


@check("Give (N,) for two classes, positive for label 1, and (N, K) for more, or leave `decision_function` out.")
def scores(subject: ClassifierSubject) -> None:
    """Scores, where it has them and no probabilities, are as scikit-learn's and agree with its labels."""
    subject.answers_well()
    after(subject, rows.one_row)
    if hasattr(subject.answered[0], "predict_proba") or not hasattr(subject.answered[0], "decision_function"):
        raise Skipped("it has no `decision_function`, or probabilities beside it")
    for count in (CLASSES, 2):
        toys = separable(count)
        classifier = subject.fitted(toys)
        found = subject.asked(classifier, toys.features, "decision_function").astype(float)
        wanted = (len(toys.labels), count) if count > 2 else (len(toys.labels),)
        if found.shape != wanted:
            raise Failed(f"decision_function gives the shape {found.shape} for {count} classes, must be {wanted}")
        best = found.argmax(axis=1) if count > 2 else (found > 0).astype(int)
        _check_agreeing("decision_function", best, subject.asked(classifier, toys.features))


def _check_agreeing(what: str, best: np.ndarray, predicted: np.ndarray) -> None:
    share = float(np.mean(best == predicted))
    if share < AGREEING:
        raise Failed(f"the largest of {what} is the predicted label in {share:.0%} of the rows; are columns in order?")


@check("Work on copies: `np.array(features)`; scikit-learn's `copy=False` writes into what it is given.")
def inputs(subject: ClassifierSubject) -> None:
    """Features and labels stay as they were, and may be read-only."""
    subject.works()
    features, labels = (array.copy() for array in subject.rows)
    classifier = subject.made()
    with subject.watched():
        classifier.fit(features, labels)
        classifier.predict(features)
    for name, array, before in (("features", features, subject.rows.features), ("labels", labels, subject.rows.labels)):
        if array.shape != before.shape or not np.array_equal(array, before):
            raise Failed(f"it changed the {name} that it was given")
        array.setflags(write=False)
    classifier = subject.made()
    try:
        with subject.watched():
            classifier.fit(features, labels)
            classifier.predict(features)
    except (Exception, SystemExit) as error:
        raise Failed(f"read-only arrays raise {told(error)}") from error


@check("Answer with the one class, or raise ValueError or CellfeatError with a message that says what is missing.")
def one_class(subject: ClassifierSubject) -> None:
    """One class alone is fitted, or refused in words."""
    subject.answers_well()
    common.in_time(subject)
    toys = Rows(subject.rows.features, np.zeros_like(subject.rows.labels))
    try:
        predicted = subject.asked(subject.fitted(toys), toys.features)
    except (ValueError, CellfeatError) as error:
        if str(error).strip():
            return
        raise Failed(f"one class alone raises {type(error).__name__} without a message") from error
    except (Exception, SystemExit) as error:
        raise Failed(f"one class alone raises {told(error)}") from error
    if predicted.any():
        raise Failed(
            f"fitted on label 0 alone it answered {', '.join(map(str, sorted(set(predicted.ravel().tolist()))))}"
        )


@gate(
    "Keep what was learned in attributes of the object, of types of your own package, scikit-learn's or those that "
    "`factory.trusted` names."
)
def saves(subject: ClassifierSubject) -> None:
    """Saved by skops and read back with the types that a run trusts, it answers equally."""
    subject.answers_well()
    after(subject, rows.forgets)
    common.in_time(subject)
    classifier, folder = subject.answered[0], subject.folder / "saved"
    folder.mkdir(exist_ok=True)
    try:
        with subject.watched():
            ClassifierHead(classifier, np.arange(CLASSES)).save(folder)
            loaded = ClassifierHead.load(folder, trusted_by(subject.factory)).estimator
        again = subject.asked(loaded, subject.mixed)
    except (Exception, SystemExit) as error:
        raise Failed(f"it cannot be saved and read back: {told(error)}") from error
    if not np.array_equal(again, subject.asked(classifier, subject.mixed)):
        raise Failed("a copy that was saved and read back answers differently")
    if hasattr(classifier, "predict_proba"):
        one, other = (subject.asked(item, subject.mixed, "predict_proba") for item in (classifier, loaded))
        if not np.allclose(one, other, atol=TOLERANCE):
            raise Failed("a copy that was saved and read back gives other probabilities")


@check("Save everything that predict needs; nothing of the process that fitted is there when a saved run is used.")
def fresh_process(subject: ClassifierSubject) -> None:
    """Read back in a new process, it answers equally."""
    needs(subject, saves)
    common.in_time(subject)
    got = in_fresh_process(
        loaded_and_asked,
        subject.factory,
        subject.params,
        subject.folder,
        {"features": subject.mixed},
        slot=subject.slot,
    )
    if name := differing(got, subject.answers(subject.answered[0], subject.mixed)):
        raise Failed(f"{name} of a copy that a new process read back answers differently")


def loaded_and_asked(factory: Callable[..., Any], params: Mapping[str, Any], folder: Path, arrays: Arrays) -> Arrays:
    """In the new process: what the saved classifier gives for the features."""
    head = ClassifierHead.load(folder / "saved", trusted_by(factory))
    return dict(Examined(factory, params, folder / "fresh").answers(head.estimator, arrays["features"]))


@dataclass(eq=False)
class Examined(ClassifierSubject):
    """A classifier, and the checks that others wait for."""

    working: ClassVar[tuple[Check, ...]] = (common.members, common.runs, float32)
    formed: ClassVar[tuple[Check, ...]] = (shape,)


SUBJECT = Examined

CHECKS: tuple[Check, ...] = (
    common.members,
    common.runs,
    float32,
    shape,
    fit_returns_self,
    rows.same_seed,
    rows.row_order,
    learns,
    rows.one_row,
    classes,
    probabilities,
    scores,
    inputs,
    one_class,
    saves,
    rows.forgets,
    common.device,
    common.process,
    common.quiet,
    common.scratch,
    fresh_process,
    common.budget,
)
