"""`CellClassifier`: backbone, alignment and classifier in one, as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin

from cellfeat.cell_estimator import CellEstimator, _part
from cellfeat.class_labels import BadLabels, hidden, judged


class CellClassifier(ClassifierMixin, CellEstimator):
    """Images of single cells to classes: the whole recipe of `cellfeat run`, fitted on the cells that are given.

    What `CellFeatures` and a classifier of scikit-learn's behind it cannot do: methods with a head of their own
    (`dann`, `mcc`, `lead`, `source-only`, with `clf=None`), that weight the classifier's cells (`importance`) or
    correct its probabilities (`label-shift`). Parameters and X are those of `CellFeatures`, and

    clf, clf_params: a classifier, as in `cellfeat plugins list`, and its parameters; None: the method's own head.

    Cells whose label is hidden, as `CellFeatures.fit` says, are left out of fit and of `score`. scikit-learn's own
    scorers count them as mistakes: give `scoring=cellfeat.scorer(…)` to a grid or a cross-validation.

    Attributes
    ----------
    classes_: (K,) the classes. Those of `CellFeatures`, but for `n_features_out_`.
    """

    def __init__(
        self,
        backbone: str | None = "lora-sam",
        *,
        backbone_params: Mapping[str, Any] | None = None,
        segmenter: str | None = None,
        segmenter_params: Mapping[str, Any] | None = None,
        align: str | Sequence[str] = "none",
        align_params: Mapping[str, Any] | None = None,
        clf: str | None = "svm-linear",
        clf_params: Mapping[str, Any] | None = None,
        target: Any = None,
        target_domain: str = "target",
        domain: str | None = None,
        labels: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        batch: int | None = None,
        random_state: Any = 1234,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.backbone_params = backbone_params
        self.segmenter = segmenter
        self.segmenter_params = segmenter_params
        self.align = align
        self.align_params = align_params
        self.clf = clf
        self.clf_params = clf_params
        self.target = target
        self.target_domain = target_domain
        self.domain = domain
        self.labels = labels
        self.device = device
        self.precision = precision
        self.batch = batch
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, domain: Any = None, group: Any = None) -> Self:
        """Fit alignment and classifier on the labelled cells of X and the cells of `target`; see `CellFeatures.fit`.

        group: (N,) patients or slides, which no fold of the probabilities' calibration divides.
        """
        cells, named = self._given(X, None if y is None else judged(y), domain, group)
        fitted = self._fit_chain(cells, named, head=True)
        self.pipeline_, self.classes_ = fitted.pipeline, fitted.classes
        return self

    def predict_proba(self, X: Any, *, domain: Any = None) -> np.ndarray:
        """(N, K) probabilities over `classes_`, in the order of X."""
        return self._answer(X, domain)[1]

    def predict(self, X: Any, *, domain: Any = None) -> np.ndarray:
        """(N,) classes, in the order of X."""
        chosen, _ = self._answer(X, domain)
        return self.classes_[chosen]

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, domain: Any = None) -> float:
        """Accuracy, 0..1, on those cells of X whose label is not hidden."""
        y = np.asarray(y, dtype=object).ravel()
        known = np.array([not hidden(label) for label in y], dtype=bool)
        if not known.any():
            raise BadLabels("no cell has a label to score; None, NaN, '' and -1 mean a hidden one")
        right = self.predict(X, domain=domain)[known] == y[known]
        return float(np.average(right, weights=None if sample_weight is None else np.asarray(sample_weight)[known]))

    def features(self, X: Any, *, domain: Any = None) -> np.ndarray:
        """(N, D) float32 aligned features that the classifier sees."""
        cells, context = self._new_cells(X, domain)
        return self.pipeline_.features(cells, context)

    def _answer(self, X: Any, domain: Any) -> tuple[np.ndarray, np.ndarray]:
        cells, context = self._new_cells(X, domain)
        return self.pipeline_.predict(cells, context)

    def _classifier_part(self) -> dict[str, Any] | None:
        return None if self.clf is None else _part(self.clf, self.clf_params)
