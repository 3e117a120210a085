"""`CellFeatures`: the features of cells, aligned across laboratories, as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from cellfeat.cell_estimator import CellEstimator
from cellfeat.errors import CellfeatError
from cellfeat.pipeline import Pipeline


class CellFeatures(TransformerMixin, CellEstimator):
    """Images of single cells to (N, D) features that several laboratories share.

    X is a list of image paths or URLs, a list of (H, W, 3) uint8 RGB arrays, an (N, H, W, 3) uint8 array, a table with
    the column `path` and, optionally, `domain` (the laboratory), `group` (the patient), `id` and `label`, the path of a
    manifest CSV (whose rows are taken in the order of their ids), or a folder of images. With `backbone=None` it is an
    (N, D) float array, and only alignment is done.

    Parameters
    ----------
    backbone, backbone_params: what encodes images, as in `cellfeat plugins list`, and its parameters as a dict; None:
        X is features. Images are encoded once and kept in the cache, by their digest.
    segmenter, segmenter_params: what replaces the backbone's own mask; None: nothing.
    align, align_params: a method, or a chain as a list or "a,b"; its parameters, for a chain a dict for each name.
    target: cells to adapt to, of any kind that X may be; labels in it are never looked at. Those of laboratories that X
        has are left out. None: a method that looks at target cells gets none. With `backbone=None`: features, or a pair
        of features and the names of their laboratories.
    target_domain: their laboratory, where they do not say it themselves.
    domain: the laboratory of cells that do not say it. None: "source" in fit. Later the only one that was fitted on; of
        several (`target` counts too) it is "source" again where the fit's X did not say its own either, and where it
        did, such cells are refused. So cells of the laboratory of `target` have to say it; its very cells are refused.
    labels: vocabulary for the labels of a manifest in fit, "five-class", "dorl-13" or a YAML map; labels that have no
        class in it are hidden.
    device, precision, batch: as the options of `cellfeat run`. random_state: of every fit. verbose: progress and notes
        on stderr.

    Attributes
    ----------
    n_features_out_: D. domains_: the laboratories seen in fit. recipe_: every method with all its parameters.
    notes_: what the fit had to say. pipeline_: the fitted chain, a `cellfeat.pipeline.Pipeline`.
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
        """Fit the alignment on the cells of X and of `target`.

        y: (N,) classes, names or numbers; None, NaN and -1 mean hidden, and so do the texts that NumPy and pandas make
        of these: '', '-1', '-1.0', 'nan', 'None' and '<NA>'. A method that learns from labels leaves such cells out,
        every other looks at no label at all. Without y, the labels of a manifest or table are taken. What comes behind
        in a pipeline knows no hidden labels: to an SVC, -1 is a class, so leave such cells out yourself.
        domain: a name, or (N,) names, before those of X. group: (N,) patients or slides, likewise.

        Raises: CellfeatError for images, parameters or labels that cannot be used.
        """
        self._fit(X, y, domain, group)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, domain: Any = None, group: Any = None) -> np.ndarray:
        """As `fit`, then (N, D) float32 of these very cells."""
        features = self._fit(X, y, domain, group)
        return self.transform(X, domain=domain) if features is None else features

    def _fit(self, X: Any, y: Any, domain: Any, group: Any) -> np.ndarray | None:
        """Gives the features of X, where every cell of it was fitted on."""
        fitted = self._fit_chain(*self._given(X, y, domain, group), head=False)
        self.pipeline_, self.n_features_out_ = fitted.pipeline, fitted.features.shape[1]
        return fitted.features if fitted.whole else None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # float32, whatever came
        return tags

    def _check_methods(self, pipeline: Pipeline) -> None:
        last = pipeline.methods[-1]
        works_on = [name for name in ("sample_weight", "adjust") if hasattr(last.aligner, name)]
        if works_on:
            raise CellfeatError(
                f"{last.title} works on the classifier ({', '.join(works_on)}), which features alone do not reach; use "
                f"CellClassifier(align={last.name!r}, …)"
            )

    def transform(self, X: Any, *, domain: Any = None) -> np.ndarray:
        """(N, D) float32 features of any cells, in the order of X.

        Raises: CellfeatError, an `UnseenDomainError` for a laboratory that the method cannot place.
        """
        cells, context = self._new_cells(X, domain)
        return self.pipeline_.features(cells, context)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """(D,) names, f0, f1, … as in the files of `cellfeat extract`."""
        check_is_fitted(self, "pipeline_")
        if self.backbone is None:
            _check_feature_names_in(self, input_features)
        return np.array([f"f{number}" for number in range(self.n_features_out_)], dtype=object)
