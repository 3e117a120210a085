"""Intervals of differential counts, by the simulation of benchmarks/differential.py: they hold the truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from test_benchmarks import module, programs_beside_each_other, run  # noqa: F401  a fixture

TIMES, DRAWS = 6, 300
SEEDS = range(5)  # each calibrates a run anew
ERRORS = ("counted_error", "estimate_error")
MOST = {  # mean width in points: of 60 %, and of 1 %
    "80 % right": (28, 14),
    "99 % right": (13, 5),
    "80 % right, 10 cells": (75, 45),
    "80 % right, uneven source, even weights": (28, 14),
    "80 % right, abstains below 0.8": (60, 55),
    "99 % right, 3 % missed, 2 % false": (20, 12),
    "80 % of the rarest missed, 2 % false": (17, 8),
    "20 % of neutrophils missed, 10 % false": (40, 34),
}


@pytest.mark.parametrize("name", MOST)
def test_every_class_has_its_share_in_the_interval_and_not_everything_is_possible(name):
    program = module("differential")
    [scene] = [one for one in program.SCENES if one.name == name]
    scene = replace(scene, cells=min(scene.cells, 400))
    runs = [program.simulated(scene, TIMES, DRAWS, seed) for seed in SEEDS]
    found = {key: np.mean([one[key] for one in runs], axis=0) for key in ("coverage", "width", *ERRORS)}
    assert min(found["coverage"]) >= 0.9, found["coverage"]
    assert 100 * found["width"][0] < MOST[name][0], found["width"]
    assert 100 * found["width"][-1] < MOST[name][1], found["width"]
    if name.startswith("80 % right") and scene.cells == 400 and not scene.abstain:
        assert found["counted_error"][-1] > 3 * found["estimate_error"][-1], "errors of common classes, corrected"


def test_the_program_tells_every_scene(monkeypatch, capsys, tmp_path):
    program = module("differential")
    monkeypatch.setattr(program, "SCENES", program.SCENES[3:5])
    run(monkeypatch, "differential", "--times", 2, "--draws", 100, "--json", tmp_path / "d.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [one["name"] for one in lines] == ["80 % right, 10 cells", "99 % right, 10 cells"]
    assert np.shape([one["coverage"] for one in lines]) == (2, 5)
    assert "80 % right, 10 cells" in capsys.readouterr().out
