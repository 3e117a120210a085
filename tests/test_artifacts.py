"""Atomic files and folders; arrays, JSON values and estimators that come back as they were."""

from __future__ import annotations

import json
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfeat import reference_files
from cellfeat.artifacts import (
    STATE_FILE,
    TENSOR_FILE,
    SavesState,
    atomic_file,
    atomic_folder,
    load_estimator,
    load_module,
    load_state,
    save_estimator,
    save_state,
)
from cellfeat.errors import CellfeatError


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "values.csv"
    for text in ("first", "second"):
        with atomic_file(path) as partial:
            partial.write_text(text)
            assert partial.suffix == ".csv"  # writers choose the format by it
            assert text == "first" or path.read_text() == "first"
            written = partial.stat().st_ino
        assert path.read_text() == text
        assert path.stat().st_ino == written  # renamed, which is atomic; a copy is not
    assert listing(path.parent) == ["values.csv"]


def test_a_broken_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "values.csv"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["values.csv"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "values.csv"
    with atomic_file(path) as one, atomic_file(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"  # the block that ends last


def test_files_and_folders_have_the_permissions_of_any_other(tmp_path, umask):
    with atomic_file(tmp_path / "file") as partial:
        partial.write_text("")
    with atomic_folder(tmp_path / "folder"):
        pass
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
    save_state(tmp_path / "state", {"a": np.zeros(2)})
    reference_files.write(tmp_path / "state", {"a": np.zeros(2)}, {})
    written = [path for path in (tmp_path / "state").iterdir() if path.suffix == ".safetensors"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o666 & ~umask] * 2


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "run"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert listing(path.parent) == ["run"]


def test_a_folder_that_exists_is_never_overwritten(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with pytest.raises(CellfeatError, match=r"run exists and is never overwritten; choose another name"):
        atomic_folder(path).__enter__()


def test_a_broken_folder_leaves_nothing(tmp_path):
    def fill() -> None:
        with atomic_folder(tmp_path / "run") as partial:
            (partial / "a").write_text("1")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fill()
    assert listing(tmp_path) == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_arrays_come_back_bit_for_bit(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 2, size=(3, 4)).astype(dtype)
    save_state(tmp_path, {"plain": array, "turned": array.T, "one": array[0, 0], "none": array[:0]})
    loaded, meta = load_state(tmp_path)
    assert meta == {}
    for name, wanted in {"plain": array, "turned": array.T, "one": array[0, 0], "none": array[:0]}.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == wanted.shape
        np.testing.assert_array_equal(loaded[name], wanted)


def test_tensors_are_saved_even_when_they_have_gradients(tmp_path):
    tensor = torch.arange(3.0, requires_grad=True)
    save_state(tmp_path, {"x": tensor})
    np.testing.assert_array_equal(load_state(tmp_path)[0]["x"], [0, 1, 2])


def test_meta_keeps_numpy_numbers(tmp_path):
    save_state(tmp_path, {}, {"a": np.float32(0.1), "b": np.int64(3), "c": np.bool_(True), "d": [1, None, "é"]})
    meta = load_state(tmp_path)[1]
    assert meta == {"a": float(np.float32(0.1)), "b": 3, "c": True, "d": [1, None, "é"]}


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(
        TypeError, match=r"domains is an array of <U1, but numbers alone can be saved; keep it as a list"
    ):
        save_state(tmp_path, {"domains": np.array(["a", "b"])})
    with pytest.raises(TypeError, match="a set cannot be saved as JSON"):
        save_state(tmp_path, {}, {"names": {1}})


@pytest.mark.parametrize("name", [TENSOR_FILE, STATE_FILE])
def test_an_incomplete_folder_is_named(tmp_path, name):
    save_state(tmp_path, {"x": np.zeros(2)})
    (tmp_path / name).unlink()
    with pytest.raises(CellfeatError, match=f"has no {name}: it is not a saved method, or its copy is incomplete"):
        load_state(tmp_path)


def test_a_module_is_filled_strictly(tmp_path):
    def network(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width))

    one = network(3)
    one(torch.randn(8, 2))
    save_state(tmp_path, one.state_dict(), {"width": 3})
    other = network(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_module(tmp_path, other) == {"width": 3}
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_module(tmp_path, network(4))


class Method(SavesState):
    def __init__(self, epochs: int = 3, context: object = None, *, name: str | None = None) -> None:
        self.epochs, self.name = epochs, name
        self.cache, self._private_ = object(), object()

    def fit(self) -> Method:
        self.mean_ = np.arange(3.0)
        self.by_domain_ = {"a/b": np.ones(2), "c": torch.zeros(2)}
        self.classes_, self.scale_, self.empty_ = ["x", "y"], np.float32(0.5), {}
        self.matrix_ = torch.eye(2)
        return self


def test_a_method_is_saved_with_its_arguments_and_what_it_learned(tmp_path):
    Method(7, name="m").fit().save(tmp_path)
    loaded = Method.load(tmp_path)
    assert (loaded.epochs, loaded.name) == (7, "m")
    assert (loaded.classes_, loaded.scale_, loaded.empty_) == (["x", "y"], 0.5, {})
    np.testing.assert_array_equal(loaded.mean_, np.arange(3.0))
    np.testing.assert_array_equal(loaded.by_domain_["a/b"], [1, 1])
    np.testing.assert_array_equal(loaded.by_domain_["c"], [0, 0])
    assert isinstance(loaded.matrix_, np.ndarray)
    assert set(json.loads((tmp_path / STATE_FILE).read_text())["values"]) == {"classes_", "scale_", "empty_"}


def test_a_method_without_arguments_is_saved(tmp_path):
    class Plain(SavesState):
        pass

    Plain().save(tmp_path)
    assert isinstance(Plain.load(tmp_path), Plain)


def test_an_argument_that_is_not_kept_is_an_error_and_no_silent_default(tmp_path):
    class Forgetful(SavesState):
        def __init__(self, epochs: int = 3) -> None:
            self.steps = epochs * 10

    with pytest.raises(TypeError, match=r"Forgetful must keep its argument epochs as self.epochs to be saved"):
        Forgetful(5).save(tmp_path)


class Stranger:
    """An estimator from a package that nobody vouched for."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.zeros(len(features))


def test_a_scikit_learn_pipeline_comes_back(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 3)), np.arange(30) % 3
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    save_estimator({"estimator": fitted, "classes": np.arange(3), "temperature": 1.5}, tmp_path / "c.skops")
    loaded = load_estimator(tmp_path / "c.skops")
    np.testing.assert_array_equal(loaded["estimator"].predict_proba(features), fitted.predict_proba(features))
    assert loaded["classes"].tolist() == [0, 1, 2]
    assert loaded["temperature"] == 1.5


def test_foreign_types_are_refused_by_name_unless_trusted(tmp_path):
    save_estimator(Stranger(), tmp_path / "s.skops")
    with pytest.raises(CellfeatError, match=r"holds types that are not trusted: .*\.Stranger; it was not loaded"):
        load_estimator(tmp_path / "s.skops")
    package = f"{Stranger.__module__.partition('.')[0]}."
    assert isinstance(load_estimator(tmp_path / "s.skops", trust=(package,)), Stranger)


def test_functions_that_run_code_are_refused(tmp_path):
    from sklearn.preprocessing import FunctionTransformer

    save_estimator(FunctionTransformer(eval), tmp_path / "f.skops")
    with pytest.raises(CellfeatError, match=r"not trusted: builtins\.eval"):
        load_estimator(tmp_path / "f.skops")


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_damaged_state_is_one_line(tmp_path, name):
    save_state(tmp_path, {"x": np.zeros(3)}, {"y": 1})
    (tmp_path / name).write_bytes(b"{damaged")
    with pytest.raises(CellfeatError, match="is damaged:"):
        load_state(tmp_path)
