"""What a report says of a run in words: what was shown to what, and nothing of where it lay."""

from __future__ import annotations

import pytest

from cellfeat import run_facts


def record(**changes):
    about = {"source": "a", "target": "b", "held_out_folds": False, "adapt": "test", "adapted_to": ["b"], "shots": 0}
    return {**about, "left_out": {}, "uses_target": True, "uses_labels": True, **changes}


@pytest.mark.parametrize(
    ("changes", "adaptable", "said"),
    [
        ({}, (), "the labelled cells of a with their labels, and all cells of b without labels (adapt: test)."),
        ({}, ("b", "c"), "and all cells of b, c without labels (adapt: test)."),
        ({"adapt": "none", "adapted_to": []}, ("b", "c"), "with their labels, and no cell of another laboratory."),
        ({"uses_labels": False}, (), "shown cells of a without their labels, and all cells of b"),
        (
            {"left_out": {"x": 3}},
            (),
            "the labelled cells of a (but x, n = 3: fewer cells than folds) with their labels",
        ),
        ({"shots": 7}, (), "with their labels, 7 cells of b (few-shot) likewise, and all other cells of b without"),
        (
            {"shots": 7, "adapt": "none", "adapted_to": []},
            (),
            "7 cells of b (few-shot) likewise, and no further cell of another laboratory.",
        ),
    ],
)
def test_it_is_said_what_an_alignment_was_shown(changes, adaptable, said):
    text = run_facts.was_shown([record(**changes), record(source="z", adapted_to=["y"])], "a", adaptable)
    assert text.startswith("The alignment of this pipeline was shown ")
    assert said in text
