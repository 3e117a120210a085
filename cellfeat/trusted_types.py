"""Which types a skops file may name: what is built from a file of strangers must not be able to run code.

skops itself refuses all but basic types, arrays, ufuncs and scikit-learn's public estimators. A name is no promise: any
module offers what it has imported, as `sklearn.utils._testing.check_output` is subprocess's own, so that what is
trusted in addition is named one by one. By a package are trusted only classes that have their home in it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Iterable

# What the public classifiers of scikit-learn and XGBoost are made of, fitted, beside what skops trusts by itself.
CLASSES = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRFClassifier",
    }
)
# The scores by which scikit-learn's selections of features choose: numbers of arrays, and nothing else.
FUNCTIONS = frozenset(f"sklearn.feature_selection._univariate_selection.{name}" for name in ("chi2", "f_classif"))


def refused(names: Iterable[str], trust: Collection[str] = ()) -> list[str]:
    """Those of the names that are not trusted, sorted.

    trust: whole names, of functions too, and beginnings of names, as "my_package.", for classes alone.
    """
    return sorted(name for name in names if not _is_trusted(name, tuple(trust)))


def _is_trusted(name: str, trust: tuple[str, ...]) -> bool:
    if name in CLASSES or name in FUNCTIONS or name in trust:
        return True
    return name.startswith(trust) and _is_class_of(name, trust)


def _is_class_of(name: str, trust: tuple[str, ...]) -> bool:
    """Whether the name leads to a class whose own home is trusted: not to a function, nor to what was imported."""
    module, _, attribute = name.rpartition(".")
    if module.endswith("__main__") and module not in sys.modules:  # a command, which would run
        return False
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception:  # whatever a module raises that is no module of ours
        return False
    return isinstance(found, type) and f"{found.__module__}.{found.__qualname__}".startswith(trust)
