"""Optional packages, imported where they are needed; where one is absent, a line says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from cellfeat.errors import CellfeatError

# Module -> (distribution on the package index, cellfeat's extra that brings it).
OPTIONAL = {
    "anndata": ("anndata", "anndata"),
    "ray.data": ("ray", "ray"),
    "umap": ("umap-learn", "report"),
    "onnx": ("onnx", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "ot": ("POT", "alignment"),
    "torchstain": ("torchstain", "alignment"),
    "skada": ("skada", "skada"),
    "s3fs": ("s3fs", "cloud"),
    "gcsfs": ("gcsfs", "cloud"),
    "adlfs": ("adlfs", "cloud"),
}


def import_extra(module: str, purpose: str, otherwise: str = "") -> Any:
    """The module of an optional package; `purpose` begins the line that is said without it, `otherwise` ends it.

    Raises: CellfeatError, with the command that installs it, where it is absent or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        distribution, extra = OPTIONAL.get(module, OPTIONAL.get(module.partition(".")[0], (module, "")))
        install = f'"cellfeat[{extra}]"' if extra else distribution
        # A package that is there but broken says more than its name.
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == module.split(".")[0]
        why = "which is not installed" if absent else f"which cannot be imported ({' '.join(str(error).split())[:200]})"
        end = f" ({otherwise})" if otherwise else ""
        raise CellfeatError(f"{purpose} needs {distribution}, {why}: pip install {install}{end}") from None
