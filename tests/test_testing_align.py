"""The conformance kit's checks of aligners: right methods pass all, and each wrong one fails the one meant for it."""

from __future__ import annotations

import gc
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import align as mutants
from mutants.right_aligners import RIGHT, Centre, Paint

from cellfeat.testing import NonconformityError, checks_of, examine, toy_cells
from cellfeat.types import Cells

NAMES = [item.name for item in checks_of("align")]
FRESH = "fresh-process"  # which takes seconds: asked where it is meant
QUICK = [name for name in NAMES if name != FRESH]
MESSAGES = {
    "WithoutSave": "the align lacks save; it needs reads, writes, ",
    "CannotBeMade": r"the factory raises OSError: no weights here \(align.py, line ",
    "ReadsAString": "reads is 'pooled', but must be a tuple of column names",
    "ReadsTheUnknown": "reads names token; there are image, mask, map, pooled, crop",
    "WritesMaps": "writes is 'map', but must be 'pooled' or 'image'",
    "PerhapsTarget": "uses_target is None, but must be True or False",
    "SometimesDeterministic": "deterministic is 'mostly', but must be True or False",
    "PaperByYear": "paper is 2024, but must be text",
    "ReadsMore": r"no column of these cells named 'map'. .* must name in `reads` what it reads \(align.py, line ",
    "Stumbles": r"AttributeError: 'Stumbles' object has no attribute 'count' \(align.py, line ",
    "ChangesATuple": "TypeError: 'tuple' object does not support item assignment",
    "ChangesItsOptions": "FrozenInstanceError: cannot assign to field 'rate'",
    "SpeaksOfCUDA": "ValueError: the CUDA kernel has an odd size",
    "GivesTensor": "transform must give a NumPy array, not Tensor",
    "LosesARow": "36 cells went in, 35 rows came out",
    "OneColumn": r"transform gave the shape \(36, 8, 1\), must be \(cells, features\)",
    "CutsImages": r"transform gave images of the shape \(36, 3, 9, 32\), not \(36, 3, 32, 32\)",
    "Float64": "transform must give float32, not float64",
    "FloatImages": "transform must give uint8, not float32",
    "NaNOnOneDomain": "transform gave NaN or infinite values for 12 of 36 cells, of there",
    "FourClasses": r"predict_proba gave \(36, 4\), must be \(cells, classes\) = \(36, 3\)",
    "Scores": "the rows of predict_proba do not sum to 1",
    "NaNProbabilities": "predict_proba gave NaN or infinite probabilities",
    "SoftmaxOverCells": "one cell alone has other probabilities than among others: 1 of 1 rows differ, by up to 0",
    "ReversesProbabilities": "cells in another order get other rows: ",
    "ReversesCorrections": "cells in another order get other rows: ",
    "ReversesWeights": "cells in another order get other rows: ",
    "ReversesDrawings": "cells in another order get other rows: ",
    "NegativeCorrection": "adjust gave negative probabilities",
    "CorrectsByTheBatch": "one cell alone is corrected differently: 1 of 1 rows differ",
    "ThreeWeights": r"sample_weight gave \(3,\) for 12 cells",
    "NegativeWeight": "sample_weight gave negative weights",
    "NoNumberAsWeight": "sample_weight gave NaN or infinite weights",
    "NoWeight": "sample_weight gave no cell any weight",
    "DrawsFloats": r"reconstruct must give uint8 of \(36, 3, s, s\), but gave float64 \(36, 3, 128, 128\)",
    "ChangesTheContext": "FrozenInstanceError: cannot assign to field 'device'",
    "NamesTheHidden": "ValueError: assignment destination is read-only",
    "OverwritesDomains": "it changed domain of the cells of fit",
    "OverwritesColumns": "it changed pooled of the cells",
    "OverwritesProbabilities": "it changed the probabilities of adjust",
    "SeedsNumPy": "it changed NumPy's random numbers",
    "SilencesWarnings": "it changed Python's filters of warnings",
    "IgnoresCtrlC": "it changed the handler of Ctrl-C",
    "StopsTheCollector": "it changed the garbage collector",
    "RecursesDeeper": "it changed the limit of recursion",
    "AddsToThePath": "it changed the import path",
    "TakesTheGPU": "it chose the GPU that torch sees, though its context names the CPU",
    "TriesTheGPU": "it chose the GPU that torch sees, though its context names the CPU",
    "WritesBesideScratch": "it wrote shared.json, outside of its scratch folder",
    "WritesByCompiledCode": "it wrote last.safetensors, outside of its scratch folder",
    "WritesWhenLoaded": "load changed cache.json in the folder that it reads, which may be read-only",
    "Prints": "it printed 'fitting 36 cells'",
    "PrintsByCompiledCode": "it printed '99% done",
    "OverItsTotal": "the bar 'walk: a second bar' was advanced by 2 of 1",
    "WithoutText": "a bar has the text ''",
    "AdvancesAfterwards": "the bar 'walk: applying' was advanced outside of its `with`",
    "Backwards": "the bar 'walk: applying' was advanced by -3",
    "NeverShown": "the bar 'walk: applying' was never shown: there is no `with` around it",
    "SlowFactory": r"the factory took 0\.\d+ s, more than 0.2 s",
    "SlowPreparation": r"prepare took 0\.\d+ s, more than 0.2 s",
    "SlowFit": r"fit took 0\.\d+ s, more than 0.2 s",
    "SlowTransform": r"transform took 0\.\d+ s, more than 0.2 s",
    "SlowHead": r"predict_proba took 0\.\d+ s, more than 0.2 s",
    "SlowSave": r"save took 0\.\d+ s, more than 0.2 s",
    "Dropout": "asked again, it answers differently: ",
    "SortsByDomain": "cells in another order get other rows: ",
    "Whitens": "one cell alone is answered differently than among others: ",
    "RemembersRows": "one cell alone is answered differently than among others: ",
    "LooksAtLabels": "transform looks at labels: 36 of 36 rows differ, by up to 1",
    "CentresAsAtFirst": "one cell, asked before all others, is answered differently: ",
    "DoubleForFewCells": "one cell alone: transform gave float64, but float32 at first",
    "UnknownKey": "an unseen domain must be placed or refused by UnseenDomainError, not by KeyError: 'never-seen'",
    "UnseenNaN": "an unseen domain: transform gave NaN or infinite values",
    "SavesAPickleInDisguise": "means.bin: a pickle was saved; use safetensors, JSON or skops",
    "ForgetsTheScale": r"saved with scale = 0\.75, a loaded copy answers differently: 36 of 36 rows differ",
    "ForgetsTheHead": "a loaded copy answers differently: of the probabilities",
    "ForgetsTheShare": "a loaded copy answers differently: of the corrected probabilities",
    "KeepsThePlace": "saving or loading raises FileNotFoundError",
    "KeepsItInTheModule": "a copy loaded there answers differently",
    "SavesAPathIntoScratch": "saving or loading raises FileNotFoundError",
    "RemembersAFit": "a fit in other roles, here the second one, is another there: of the features",
    "DependsOnHashes": "a fit .*is another there: ",
    "Unseeded": "two fits with one seed differ: of the features 36 of 36 rows differ",
    "KeepsItOnTheClass": "another fit changed a fitted method: ",
    "RemembersLabels": "another fit changed the next one: ",
    "PeeksUpTheStack": "labels that it must not see change its answers: ",
    "NeedsATarget": "one domain: transform gave NaN or infinite values",
    "HeadNeedsATarget": "one domain: the probabilities are NaN or infinite",
    "DoubleWithoutATarget": "one domain: transform gave float64, but float32 at first",
    "HeadNeedsTwoClasses": "one class: head raises IndexError",
    "TakesOneSource": "two source domains: a fit works, but it raises ValueError",
    "NeedsTwoClasses": "one class: a fit works or is refused by a CellfeatError, but it raises IndexError",
    "DividesByTheSpread": "a lone cell: transform gave NaN or infinite values",
    "LosesEmptyMasks": r"empty masks: 36 cells went in, the shape \(33, 8\) came out",
    "StopsAtAnEmptyMask": "empty masks: a fit works, but it raises ValueError: an empty mask",
    "BelievesEveryCheckpoint": "a fit that was interrupted and resumed is another: ",
    "GoesOnWhenInterrupted": "fit went on although it was interrupted: it must let KeyboardInterrupt through",
}


def each(mutants_by_check):
    return [
        pytest.param(name, factory, id=f"{name}-{factory.__name__}")
        for name, factories in mutants_by_check.items()
        for factory in factories
    ]


pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    """What the wrong ones leave behind is not for the next."""
    monkeypatch.setattr(Cells, "hide_labels", Cells.hide_labels)
    monkeypatch.setattr(mutants, "REMEMBERED", {})
    monkeypatch.setattr(mutants, "SCALES", {})
    monkeypatch.setattr(mutants, "FITTED", {})


@pytest.mark.parametrize("name", RIGHT)
def test_right_methods_pass_every_check(name):
    factory, params = RIGHT[name]
    report = examine("align", factory, params)
    assert [item.check for item in report.findings] == NAMES
    report.raise_failures()


@pytest.mark.parametrize(("name", "factory"), each(mutants.MUTANTS))
def test_a_wrong_method_fails_the_check_that_is_meant_for_it_and_no_other(name, factory):
    asked = NAMES if name == FRESH else QUICK
    gc.collect()  # some search the memory of the process: of the cells of other tests nothing may be left
    report = examine("align", factory, only=asked, budget=0.2 if name == "budget" else 60)
    failed = {item.check: item.text for item in report.failed}
    assert set(failed) == {name} | mutants.ALSO.get(factory, set()), failed
    assert re.search(MESSAGES.get(factory.__name__, ""), failed[name]), failed[name]


def test_no_check_is_without_a_wrong_method():
    assert set(mutants.MUTANTS) == set(NAMES)
    assert set(MESSAGES) <= {factory.__name__ for all_ in mutants.MUTANTS.values() for factory in all_}


def skipped(factory, only=QUICK, **options):
    return {
        item.check: item.text
        for item in examine("align", factory, only=only, **options).findings
        if item.passed is None
    }


def test_what_rests_on_a_failed_check_says_so_and_what_is_absent_too():
    assert set(skipped(mutants.ReadsMore).values()) == {"not reached: reads failed"}
    assert skipped(mutants.Dropout)["row-order"] == "not reached: same-answer failed"
    assert skipped(
        Paint, ["head", "adjust", "sample-weight", "reconstruct", "progress", "empty-masks", "lone-cell"]
    ) == {
        **dict.fromkeys(["head", "adjust", "sample-weight", "reconstruct"], "the method has no such member"),
        "progress": "it shows no bar",
        "empty-masks": "it reads neither masks nor crops",
        "lone-cell": "its fit is shown no target cells",
    }
    assert skipped(RIGHT["lottery"][0], ["same-seed", "several-sources"]) == {
        "same-seed": "the method declares `deterministic = False`",
        "several-sources": "the method declares `several_sources = False`",
    }
    assert skipped(RIGHT["prior"][0], ["resume"]) == {
        "resume": "fit has no bar and reads nothing: there is nothing to interrupt it at"
    }


def test_a_slow_method_is_fitted_twice_and_no_more(monkeypatch):
    monkeypatch.setattr(mutants.SlowFit, "fits", 0)
    assert skipped(mutants.SlowFit, budget=0.2)["process"] == "not reached: budget failed"
    assert mutants.SlowFit.fits == 2


def test_the_error_names_every_failed_check_with_its_remedy(tmp_path):
    with pytest.raises(NonconformityError, match="align DrawsGlobally: 2 of ") as told:
        examine("align", mutants.DrawsGlobally, only=QUICK, folder=tmp_path).raise_failures()
    lines = str(told.value).splitlines()
    assert lines[1] == "process: it changed torch's random numbers"
    assert lines[3].startswith("same-seed: two fits with one seed differ")
    assert lines[4].startswith("    remedy: Draw every random number from `context.generator`")


def test_an_aligner_is_checked_on_cells_of_ones_own(monkeypatch):
    seen = []

    class Wide(Centre):
        def fit(self, cells, context):
            seen.append((cells.pooled.shape[1], sorted(set(cells.label.tolist()))))
            return super().fit(cells, context)

    cells = toy_cells(channels=20)
    named = replace(cells, label=np.where(cells.label < 0, -1, 10 * cells.label + 5))
    report = examine("align", Wide, only=QUICK, cells=named)
    report.raise_failures()
    assert {width for width, _ in seen} == {20}
    assert seen[0][1] == [-1, 0, 1, 2], "labels are encoded as in a run"


def test_a_method_that_no_other_process_can_find_is_not_asked_there():
    class Local(Centre):
        pass

    assert skipped(Local, [FRESH])[FRESH].startswith("another process cannot import the factory: ")


def test_checks_leave_the_process_as_it_was(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def state():
        return Path.cwd(), dict(os.environ), list(sys.path), torch.get_rng_state().tolist()

    before = state()
    for wrong in ("SetsTheEnvironment", "ChangesFolder", "DrawsGlobally", "WritesByCompiledCode", "Prints"):
        examine("align", getattr(mutants, wrong), only=QUICK)
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
