"""Factories of the published classifiers, and the majority that they have to beat.

Every parameter that is not named here is the library's default.

Parameters: the notebooks of DoRL (Li et al., Pattern Recognition 170:112000, 2025) and BC-SAM (Li et al., ISBI 2024),
which fixed the random state to 1234 and standardised the features for all but the two tree ensembles. Departure: the
random forest uses all cores instead of the 64 of the authors' machine, which changes no prediction; nor does
`KernelSVC`, which fits scikit-learn's support vector machines faster.

`seed`: the random state; None takes the run's, whose default is the published 1234.

`class_weight`: "none", as published; "balanced" lets every class weigh the same in the fit, however rare it is: a cell
of a class with n_c of n cells in K classes weighs n / (K n_c), as in scikit-learn. An align method's weights of cells
are multiplied by it; their sums then take the place of n and n_c, but for the support vector machines, as in
scikit-learn.
"""

from __future__ import annotations

from typing import Any, Literal

from cellfeat import CellfeatError, Context

PUBLISHED_SEED = 1234
LARGEST_SEED = 2**32 - 1  # NumPy's, which scikit-learn draws from
ClassWeight = Literal["none", "balanced"]


def rf(
    n_estimators: int = 200,
    max_depth: int | None = 16,
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Random forest on the raw features; `max_depth` None grows every tree to pure leaves.

    class_weight: "balanced" lets every tree draw as many cells of each class, the rare ones several times (scikit-learn
    before 1.9: weighs them in the tree).
    """
    from sklearn.ensemble import RandomForestClassifier

    _at_least(1, n_estimators=n_estimators, max_depth=max_depth)
    return RandomForestClassifier(
        n_estimators=n_estimators,
        max_depth=max_depth,
        class_weight=_class_weight(class_weight),
        n_jobs=-1,
        random_state=_seed(seed, context),
    )


def svm_linear(
    C: float = 1.0, class_weight: ClassWeight = "none", seed: int | None = None, context: Context | None = None
) -> Any:
    """Support vector machine with a linear kernel, one against one, on standardised features (DoRL's best row).

    class_weight: "balanced" gives each class a C of its own, C n / (K n_c).
    """
    return _svm(kernel="linear", C=C, class_weight=class_weight, seed=_seed(seed, context))


def svm_poly(
    C: float = 1.0,
    degree: int = 3,
    gamma: Literal["scale", "auto"] | float = "scale",
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Support vector machine with a polynomial kernel on standardised features.

    class_weight: "balanced" gives each class a C of its own, C n / (K n_c).
    """
    _at_least(1, degree=degree)
    return _svm(kernel="poly", C=C, degree=degree, gamma=gamma, class_weight=class_weight, seed=_seed(seed, context))


def svm_rbf(
    C: float = 1.0,
    gamma: Literal["scale", "auto"] | float = "scale",
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Support vector machine with a Gaussian kernel on standardised features (BC-SAM only).

    class_weight: "balanced" gives each class a C of its own, C n / (K n_c).
    """
    return _svm(kernel="rbf", C=C, gamma=gamma, class_weight=class_weight, seed=_seed(seed, context))


def lr(
    C: float = 1.0,
    max_iter: int = 500,
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Multinomial logistic regression (L-BFGS) on standardised features.

    class_weight: "balanced" weights the loss of every cell.
    """
    from sklearn.linear_model import LogisticRegression

    _positive(C=C)
    _at_least(1, max_iter=max_iter)
    weight = _class_weight(class_weight)
    return _scaled(LogisticRegression(C=C, max_iter=max_iter, class_weight=weight, random_state=_seed(seed, context)))


def ann(
    hidden: tuple[int, ...] = (100,),
    max_iter: int = 1000,
    early_stopping: bool = True,
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Multi-layer perceptron (ReLU, Adam) on standardised features; `early_stopping` holds out a tenth of the rows.

    class_weight: "balanced" weights the loss of every cell, and the held-out accuracy by which training is stopped.
    """
    from sklearn.neural_network import MLPClassifier

    from cellfeat_classifiers.balanced_ann import BalancedMLPClassifier

    _at_least(1, max_iter=max_iter, **{f"hidden[{i}]": size for i, size in enumerate(hidden)})
    kind = BalancedMLPClassifier if _class_weight(class_weight) else MLPClassifier
    return _scaled(
        kind(
            hidden_layer_sizes=hidden,
            max_iter=max_iter,
            early_stopping=early_stopping,
            random_state=_seed(seed, context),
        )
    )


def xgboost(
    n_estimators: int = 100,
    max_depth: int = 6,
    learning_rate: float = 0.3,
    base_score: float | None = None,
    class_weight: ClassWeight = "none",
    seed: int | None = None,
    context: Context | None = None,
) -> Any:
    """Gradient-boosted trees (histogram method) on the raw features; on the GPU when the run is on CUDA.

    base_score: what every tree sum starts from; None lets XGBoost estimate it. 0.5 gives the predictions of 2.0.3, the
    release that the authors had, which did not estimate.
    class_weight: "balanced" weights the loss of every cell, as XGBoost's `sample_weight`.
    """
    from xgboost import XGBClassifier

    from cellfeat_classifiers.balanced_xgboost import BalancedXGBClassifier

    _at_least(1, n_estimators=n_estimators, max_depth=max_depth)
    _positive(learning_rate=learning_rate)
    kind = BalancedXGBClassifier if _class_weight(class_weight) else XGBClassifier
    return kind(
        n_estimators=n_estimators,
        max_depth=max_depth,
        learning_rate=learning_rate,
        base_score=base_score,
        random_state=_seed(seed, context),
        tree_method="hist",
        device=_xgboost_device(context),
    )


def majority() -> Any:
    """The commonest class of the labelled source cells, for every cell: the accuracy that costs nothing.

    What is common in the target, where other cells may be, plays no part; of equally common classes the first one.
    """
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def _seed(seed: int | None, context: Context | None) -> int:
    chosen = seed if seed is not None else context.seed if context is not None else PUBLISHED_SEED
    if not 0 <= chosen <= LARGEST_SEED:
        raise CellfeatError(f"seed={chosen} is not possible: give a whole number from 0 to {LARGEST_SEED}")
    return chosen


def _class_weight(chosen: ClassWeight) -> str | None:
    """As scikit-learn calls it."""
    if chosen not in ("none", "balanced"):
        raise CellfeatError(f"class_weight={chosen!r} is not possible: give none or balanced")
    return None if chosen == "none" else chosen


def _svm(
    *, kernel: str, C: float, class_weight: ClassWeight, seed: int, gamma: str | float = "scale", degree: int = 3
) -> Any:
    from cellfeat_classifiers.kernel_svc import KernelSVC

    _positive(C=C)
    if not isinstance(gamma, str):
        _positive(gamma=gamma)
    weight = _class_weight(class_weight)
    return _scaled(KernelSVC(kernel=kernel, C=C, gamma=gamma, degree=degree, class_weight=weight, random_state=seed))


def _scaled(estimator: Any) -> Any:
    """Standardise with the mean and deviation of the rows that the classifier is fitted on: the source's."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


def _xgboost_device(context: Context | None) -> str:
    """XGBoost knows CUDA and the CPU; Apple's GPU is served by the CPU."""
    return str(context.device) if context is not None and context.device.type == "cuda" else "cpu"


# scikit-learn refuses such values too, but only in fit: after the features have been computed.
def _at_least(minimum: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < minimum:
            raise CellfeatError(f"{name}={value} is not possible: give at least {minimum}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise CellfeatError(f"{name}={value} is not possible: give a number above 0")


def sharing() -> Any:
    """A context in which the support vector machines, fitted one after another on the same rows, share matrices."""
    from cellfeat_classifiers.inner_products import shared_inner_products

    return shared_inner_products()


for _factory in (svm_linear, svm_poly, svm_rbf):
    _factory.sharing = sharing  # type: ignore[attr-defined]  # for whoever finds them by their names alone
