"""Commands on a folder that `CellFeatures.save` or `CellClassifier.save` wrote: true words, or one clear line."""

from __future__ import annotations

import numpy as np
import pytest

import cellfeat
from cellfeat import onnx_export, use
from cellfeat.artifact_info import describe
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.errors import CellfeatError
from cellfeat.registry import installed
from cellfeat.sharing import Wishes, prepare
from cellfeat.workplace import Workplace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of features and one of images."""
    place = tmp_path_factory.mktemp("python")
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    cellfeat.CellClassifier(None, align="none", clf="lr").fit(features, np.arange(30) % 3).save(place / "of features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(place / "cache"))
        manifest = write_demo(place / "scans", per_class=2, size=32)
        cellfeat.CellFeatures("colour", backbone_params={"bins": 3}, align="none").fit(str(manifest)).save(
            place / "of images"
        )
    return place


def test_without_a_backbone_there_are_no_images_to_take(saved, tmp_path):
    folder, work = saved / "of features", Workplace(installed(), SilentReporter(), "cpu")
    line = r"of features was fitted in Python on features that were given .*cellfeat\.load\('.*of features'\) takes"
    with pytest.raises(CellfeatError, match=line):
        use.predict(folder, [saved / "scans" / "images"], tmp_path / "p.csv", "new", None, False, work)
    with pytest.raises(CellfeatError, match=line):
        use.transform(folder, str(saved / "scans" / "manifest.csv"), tmp_path / "f.parquet", None, False, work)
    with pytest.raises(CellfeatError, match=line):
        onnx_export.chosen_part(folder, None, (), installed())
    assert onnx_export.chosen_part(saved / "of images", None, (), installed()).name == "colour"


def test_info_tells_what_it_is_and_nothing_that_it_cannot_know(saved):
    found = describe(saved / "of features")
    assert (found.kind, found.next) == ("CellClassifier, fitted in Python", ())
    assert found.facts["backbone"] == "none: it takes features"
    assert found.facts["classes"] == ["0", "1", "2"]
    found = describe(saved / "of images")
    assert found.kind == "CellFeatures, fitted in Python"
    assert [command.split()[1] for command in found.next] == ["transform"]
    assert not {"data", "protocol", "use"} & set(found.facts)


@pytest.mark.parametrize(("name", "maker"), [("of features", "CellClassifier"), ("of images", "CellFeatures")])
def test_it_is_not_shared_with_the_reason(saved, name, maker, tmp_path):
    with pytest.raises(CellfeatError, match=f"{name} was saved by {maker} in Python, whose parameters and messages"):
        prepare(saved / name, tmp_path, Wishes())
