"""What a run refuses of a method, and what it tells of one, by what the method declares and does."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import Identity, labelled_cells, with_plugins

from cellfeat import CellfeatError
from cellfeat.evaluate import Evaluator
from cellfeat.pipeline import Pipeline, resolve
from cellfeat.recipe import parse
from cellfeat.run import prepared
from cellfeat.workplace import Workplace


def recipe_of(name: str, registry, **sections):
    content = {
        "dataset": {"manifest": "cells.csv"},
        "backbone": {"name": "colour"},
        "align": {"name": name},
        **sections,
    }
    return resolve(parse({"classifier": {"name": "lr"}, **content}), registry)


def test_a_column_that_no_cells_have_is_refused_with_the_nearest(context):
    registry = with_plugins(odd=type("Odd", (Identity,), {"reads": ("pooled", "maps")}))
    with pytest.raises(CellfeatError) as error:
        Pipeline.build(recipe_of("odd", registry), registry, (), context)
    assert str(error.value) == (
        "align 'odd' of toys reads 'maps': no column named 'maps'. Did you mean 'map' or 'mask'? Available: crop, "
        "image, map, mask, pooled. Tell the author of toys"
    )


class OneSource(Identity):
    several_sources = False


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    """A manifest of three laboratories, whose images are none: whoever opens one fails."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    rows = [f"{lab}-{n},{lab}-{n}.png,{n % 2},{lab}" for lab in "abc" for n in range(8)]
    for row in rows:
        (tmp_path / row.split(",")[1]).write_bytes(b"")
    path = tmp_path / "cells.csv"
    path.write_text("id,path,label,domain\n" + "\n".join(rows) + "\n")
    return path


def test_several_sources_are_refused_before_any_image_is_opened(manifest, context):
    registry = with_plugins(one=OneSource)
    work = Workplace(registry, context.reporter, device="cpu")
    left_out = {"name": "leave-one-domain-out", "folds": 2}
    recipe = recipe_of("one", registry, dataset={"manifest": str(manifest)}, protocol=left_out)
    with pytest.raises(CellfeatError) as error:
        prepared(recipe, work, context)
    assert str(error.value) == (
        "align 'one' is fitted on one source domain (several_sources = False), but is given 2: b, c. Use the protocol "
        "cross-domain (--set protocol.name=cross-domain), which gives it one after the other, or name one (--source)"
    )
    for protocol in ({"name": "cross-domain"}, {**left_out, "source": ["a"]}):
        recipe = recipe_of("one", registry, dataset={"manifest": str(manifest)}, protocol=protocol)
        assert prepared(recipe, work, context)


def test_an_evaluator_refuses_several_sources_too(context):
    registry = with_plugins(one=OneSource, many=Identity)
    cells = labelled_cells(domains=("a", "b", "c"))

    def sources(name: str) -> list[int]:
        recipe = recipe_of(name, registry, protocol={"name": "leave-one-domain-out", "folds": 2})
        return [len(split.source) for split in Evaluator(recipe, registry, cells, ("x", "y", "z"), context).splits(1)]

    with pytest.raises(CellfeatError, match="align 'one' is fitted on one source domain"):
        sources("one")
    assert sources("many") == [2, 2, 2]


def fitted(method: type, context) -> list[str]:
    """The notes of two fits of a method."""
    registry = with_plugins(mine=method)
    for _ in range(2):
        pipeline = Pipeline.build(recipe_of("mine", registry), registry, ("x", "y", "z"), context)
        pipeline.fit_align(labelled_cells(), context)
    return context.reporter.notes


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The working folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_files_outside_scratch_are_told_once_with_path_and_remedy_and_stop_nothing(context, elsewhere):
    class Untidy(Identity):
        number = 0

        def fit(self, cells, context):
            Untidy.number += 1
            Path(f"best-{Untidy.number}.txt").write_text("weights")
            Path("more.txt").write_text("weights")
            return self

    first = elsewhere / "best-1.txt"
    assert fitted(Untidy, context) == [
        f"align 'mine' wrote outside its scratch folder: {first} (and 1 more). A run that is started again does not "
        "find that, and runs side by side share it: keep checkpoints in context.scratch; tell its author"
    ]
    assert len(list(elsewhere.iterdir())) == 3


def test_what_torch_saves_is_seen_and_a_failing_fit_still_fails(context, elsewhere):
    class Fails(Identity):
        def fit(self, cells, context):
            import torch

            torch.save({"weight": torch.ones(1)}, "best.pt")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(Fails, context)
    [note] = context.reporter.notes
    assert str(elsewhere / "best.pt") in note


def test_scratch_the_cache_and_temporary_files_are_where_they_belong(context, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))

    class Tidy(Identity):
        def fit(self, cells, context):
            np.save(context.scratch / "state.npy", cells.pooled)
            (tmp_path / "cache" / "weights").mkdir(parents=True, exist_ok=True)
            (tmp_path / "cache" / "weights" / "w").write_text("x")
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
            return self

    assert fitted(Tidy, context) == []


def test_files_beside_the_method_s_own_module_are_seen(context, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "beside_itself.py").write_text(
        "import pathlib, torch\nfrom helpers import Identity\nclass Beside(Identity):\n"
        "    def fit(self, cells, context):\n"
        "        torch.save({}, str(pathlib.Path(__file__).parent / 'best.pt'))\n        return self\n"
    )
    monkeypatch.syspath_prepend(str(home))
    from beside_itself import Beside

    [note] = fitted(Beside, context)
    del sys.modules["beside_itself"]
    assert str(home / "best.pt") in note
