"""cellfeat: plugin-based feature extraction for single-cell microscopy. The public API is `__all__`."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "cellfeat.errors": ("CellfeatError", "UnseenDomainError"),
    "cellfeat.extras": ("import_extra",),
    "cellfeat.types": ("UNLABELED", "Cells", "Features"),
    "cellfeat.slots": (
        "API_VERSION",
        "Aligner",
        "Backbone",
        "Classifier",
        "Context",
        "DetectorRecord",
        "EncoderFacts",
        "Segmenter",
    ),
    "cellfeat.hookspecs": ("hookimpl",),
    "cellfeat.artifacts": (
        "SavesState",
        "load_estimator",
        "load_module",
        "load_state",
        "save_estimator",
        "save_state",
    ),
    "cellfeat.digests": ("file_sha256",),
    "cellfeat.finetune": ("make_adapter",),
    "cellfeat.use": ("encode_cells",),
    "cellfeat.estimator": ("CellFeatures",),
    "cellfeat.cell_classifier": ("CellClassifier",),
    "cellfeat.labelled_scorer": ("scorer",),
    "cellfeat.loaded": ("load",),
    "cellfeat.confidence": ("Confidence",),
    "cellfeat.workplace": ("Workplace", "load_photographs"),
    "cellfeat.weights": ("NamedWeights", "check_tensors", "find_weights", "load_tensors"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = [
    "api", "detection", "differential", "distributed", "images", "metrics", "pictures",
    "synthetic", "synthetic_smears", "testing", "training",
]  # fmt: skip

__all__ = sorted([*_HOME_OF, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    # Names load when first used, so that `import cellfeat` and the command line's help stay quick.
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"cellfeat.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("cellfeat")
    raise AttributeError(f"module 'cellfeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
