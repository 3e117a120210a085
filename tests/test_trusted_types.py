"""What may be read from a skops file of strangers: all that fitted classifiers are made of, and nothing that runs."""

from __future__ import annotations

import json
import subprocess
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from cellfeat_classifiers import cellfeat_classifier, factories
from cellfeat_classifiers.balanced import balanced_weight
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from xgboost import XGBRFClassifier

from cellfeat.artifacts import load_estimator, save_estimator
from cellfeat.classification import trusted_by
from cellfeat.errors import CellfeatError
from cellfeat.trusted_types import CLASSES, FUNCTIONS, refused

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"rf": {"n_estimators": 2}, "xgboost": {"n_estimators": 2}, "ann": {"max_iter": 3, "early_stopping": False}}
SHIPPED = {
    f"{name} {weight}": (make, SMALL.get(name, {}) | ({} if name == "majority" else {"class_weight": weight}))
    for name, make in cellfeat_classifier().items()
    for weight in ("none", "balanced")
}
OTHERS = {  # of other people's plugins
    "calibrated": lambda: CalibratedClassifierCV(GaussianNB(), cv=2),
    "temperature": lambda: CalibratedClassifierCV(GaussianNB(), method="temperature", cv=2),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=1),
    "process": GaussianProcessClassifier,
    "process with a width": lambda: GaussianProcessClassifier(optimizer=None),
    "neighbours": lambda: KNeighborsClassifier(algorithm="kd_tree"),
    "ball": lambda: KNeighborsClassifier(algorithm="ball_tree"),
    "sgd": lambda: MLPClassifier((2,), solver="sgd", max_iter=2),
    "voting": lambda: VotingClassifier([("a", LogisticRegression())]),
    "forest": lambda: XGBRFClassifier(n_estimators=2, n_jobs=1),
    "selected": lambda: make_pipeline(SelectKBest(k=2), LogisticRegression()),
}


def fitted(estimator):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopped early
        return estimator.fit(rng.normal(size=(36, 3)) + 2 * np.eye(3)[np.arange(36) % 3], np.arange(36) % 3)


def types_in(path: Path) -> set[str]:
    found = set()

    def noted(part):
        found.add(f"{part.get('__module__')}.{part.get('__class__')}")
        return part

    with zipfile.ZipFile(path) as archive:
        json.loads(archive.read("schema.json"), object_hook=noted)
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Every classifier of ours, and some of other people's, fitted."""
    folder = tmp_path_factory.mktemp("saved")
    paths = {name: folder / f"{name}.skops" for name in (*SHIPPED, *OTHERS)}
    for name, (make, params) in SHIPPED.items():
        save_estimator(fitted(make(**params)), paths[name])
    for name, other in OTHERS.items():
        save_estimator(fitted(other()), paths[name])
    return paths


@pytest.mark.parametrize("name", [*SHIPPED, *OTHERS])
def test_a_classifier_is_read_back(saved, name):
    trust = trusted_by(SHIPPED[name][0]) if name in SHIPPED else ()
    loaded = load_estimator(saved[name], trust)
    assert loaded.predict(np.eye(3)).shape == (3,)


def test_nothing_is_trusted_that_no_classifier_needs(saved):
    used = set().union(*map(types_in, saved.values()))
    assert CLASSES - used == set()
    assert FUNCTIONS - used == {"sklearn.feature_selection._univariate_selection.chi2"}  # its twin for counts
    skops_own = {name for path in saved.values() for name in used - set(skops.io.get_untrusted_types(file=path))}
    assert not refused(used - skops_own, ("cellfeat_classifiers.",))


def disguised(path: Path, module: str) -> Path:
    """A pipeline that runs the text that a constant classifier answers, with subprocess under another module's name."""
    says = DummyClassifier(strategy="constant", constant=f"touch {path.with_name('ran')}")
    says.fit(np.zeros((1, 1)), [says.constant])
    runs = FunctionTransformer(subprocess.check_output, kw_args={"shell": True})
    skops.io.dump(make_pipeline(FunctionTransformer(says.predict), runs), path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["schema.json"] = files["schema.json"].replace(b'"subprocess"', json.dumps(module).encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_command_under_a_trusted_packages_name_is_not_run(tmp_path):
    path = disguised(tmp_path / "classifier.skops", "sklearn.utils._testing")
    names = skops.io.get_untrusted_types(file=path)
    skops.io.load(path, trusted=names).transform(np.zeros((1, 1)))
    assert (tmp_path / "ran").exists(), "what the names would do"
    (tmp_path / "ran").unlink()
    for trust in ((), ("sklearn.",), ("sklearn.utils.",), trusted_by(LogisticRegression)):
        with pytest.raises(CellfeatError, match=r"not trusted: .*sklearn\.utils\._testing\.check_output; it was not"):
            load_estimator(path, trust).transform(np.zeros((1, 1)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.testing.runstring",  # exec
        "cellfeat_classifiers.factories.rf",  # a function
        "cellfeat_classifiers.kernel_svc.SVC",  # imported there
        "cellfeat_classifiers.kernel_svc.KernelSVC.fit",  # a method
        "cellfeat_classifiers.kernel_svc",
        "cellfeat_classifiers.absent.Thing",
        "cellfeat.__main__.app",
        "xgboost.sklearn.XGBClassifier.predict",
    ],
)
def test_by_a_package_only_its_own_classes_are_trusted(name):
    trust = ("numpy.", "cellfeat.", "cellfeat_classifiers.", "xgboost.")
    assert refused([name, "cellfeat_classifiers.kernel_svc.KernelSVC"], trust) == [name]


def test_a_function_is_trusted_by_its_whole_name(tmp_path):
    save_estimator(FunctionTransformer(balanced_weight), tmp_path / "f.skops")
    own = trusted_by(factories.rf)
    with pytest.raises(CellfeatError, match=r"not trusted: cellfeat_classifiers\.balanced\.balanced_weight; it was"):
        load_estimator(tmp_path / "f.skops", own)
    loaded = load_estimator(tmp_path / "f.skops", (*own, "cellfeat_classifiers.balanced.balanced_weight"))
    assert loaded.func is balanced_weight


@pytest.mark.parametrize("content", [b"PK", b'{"__class__": "dict"}', b"[" * 100_000])
def test_a_file_that_somebody_made_up_is_one_line(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "f.skops", "w") as archive:
        archive.writestr("schema.json", content)
    with pytest.raises(CellfeatError, match=r"f\.skops is damaged: ") as caught:
        load_estimator(tmp_path / "f.skops")
    assert "\n" not in str(caught.value)
