"""A classifier's answers are those of its fit, and each row's is its own: labels, probabilities and scores alike."""

from __future__ import annotations

import numpy as np

from cellfeat.testing.checks import Failed, Skipped
from cellfeat.testing.classifier_subject import PER_CLASS, Answers, ClassifierSubject, Rows, differing, noise
from cellfeat.testing.gates import gate, needs

TIMES = (1, 5)  # how often the toys are asked about in one call: as they are, and as many as 300 rows


@gate("Set `random_state` (by `context.seed`, for which the factory asks by an argument `context`).")
def same_seed(subject: ClassifierSubject) -> None:
    """Two fits with one seed answer equally, and so do two calls."""
    subject.answers_well()
    if not subject.says("deterministic", True):
        raise Skipped("it says that it is not deterministic")
    rows, unknown = noise(), noise(seed=2).features
    first, second = (subject.fitted(rows) for _ in range(2))
    wanted = subject.answers(first, unknown)
    if name := differing(subject.answers(first, unknown), wanted):
        raise Failed(f"two calls of {name} differ")
    if name := differing(subject.answers(second, unknown), wanted):
        raise Failed(f"two fits with one seed differ in {name}")


@gate("Begin every fit anew, keep nothing of an earlier one, and keep it in the object: not in its class or module.")
def forgets(subject: ClassifierSubject) -> None:
    """A second fit forgets the first, and changes no other object."""
    needs(subject, same_seed)
    rows = noise()
    asked = np.concatenate([noise(seed=2).features, rows.features])
    first = subject.fitted(rows)
    wanted = subject.answers(first, asked)
    used = subject.fitted(Rows(rows.features, np.roll(rows.labels, 1)))
    if name := differing(subject.answers(first, asked), wanted):
        raise Failed(f"after another object was fitted, on other labels, {name} answers differently")
    if name := differing(subject.answers(subject.fitted(rows, used), asked), wanted):
        raise Failed(
            f"fitted a second time, on other labels, {name} answers differently from one fitted on those alone"
        )


@gate("Answer the rows in the order in which they came, however many they are.")
def row_order(subject: ClassifierSubject) -> None:
    """Rows in another order get the same answers in that order."""
    needs(subject, same_seed, forgets)
    classifier, features = subject.answered[0], subject.rows.features
    wanted = subject.answers(classifier, features)
    rng = np.random.default_rng(4)
    for times in TIMES:
        order = np.concatenate([rng.permutation(len(features)) for _ in range(times)])
        if name := differing(subject.answers(classifier, features[order]), _at(wanted, order)):
            raise Failed(f"what {name} gives for {len(order)} rows does not follow their order")


@gate("Compute what is needed of other rows (means, deviations) in fit; each row is answered by itself.")
def one_row(subject: ClassifierSubject) -> None:
    """A row alone is answered as it is among others."""
    needs(subject, row_order)
    unsure = subject.fitted(noise()), noise(seed=2).features  # whose probabilities lie between 0 and 1
    for classifier, features in ((subject.answered[0], subject.rows.features), unsure):
        wanted = subject.answers(classifier, features)
        for row in range(0, len(features), PER_CLASS // 2):
            alone = slice(row, row + 1)
            if name := differing(subject.answers(classifier, features[alone]), _at(wanted, alone)):
                raise Failed(f"{name} answers a row alone differently")


def _at(answers: Answers, index: np.ndarray | slice) -> Answers:
    return {name: value[index] for name, value in answers.items()}
