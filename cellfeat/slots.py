"""The four slots, as Protocols that nobody must inherit, and the `Context` that a method works in.

A factory is any callable that returns such an object. Its keyword arguments with defaults are the method's
configuration: they are read from the signature, checked, shown by `cellfeat plugins info NAME` and set by
`--set align.epochs=50`. An argument named `context` is not configuration: whoever asks for it is handed the
`Context` of the run.

A factory of any slot, or the object that it gives, may also declare, each of which is shown by `cellfeat plugins info`
and stamped on records:
- `deterministic: bool = True`, whether two fits, or encodings, with one seed are equal;
- `paper: str`, the publication, with its DOI or arXiv number;
- `licence: str` (SPDX), where it is not that of the distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cellfeat.types import Cells, Features

API_VERSION = 1  # of the contracts in this file
SUPPORTED_API_VERSIONS = (1,)  # a plugin that names none is written for 1, the first, for ever

SLOTS = ("backbone", "segmenter", "align", "classifier")


class Progress(Protocol):
    """What `Context.progress` yields."""

    def advance(self, n: int = 1) -> None:
        """`n` more of `total` are done."""


class Reporter(Protocol):
    """How a method talks to the person in front of the screen; the core provides it."""

    def progress(self, total: int | None, text: str) -> AbstractContextManager[Progress]: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Context:
    """All that a fit, a transform or an encode needs from outside.

    device, dtype: where and in which precision to compute. generator: a seeded CPU `torch.Generator`.
    scratch: a folder for checkpoints, the same one when the same run is started again after a kill.
    compile: whether the user accepts minutes of `torch.compile`, and other last digits, for speed afterwards.
    """

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator
    scratch: Path
    reporter: Reporter = field(repr=False)
    compile: bool = False

    @property
    def seed(self) -> int:
        """The generator's seed, for libraries that want a number."""
        return self.generator.initial_seed() % 2**32

    def progress(self, total: int | None, text: str) -> AbstractContextManager[Progress]:
        """`with context.progress(epochs, "cae") as bar: bar.advance()`; a Rich bar on a terminal, nothing in a pipe."""
        return self.reporter.progress(total, text)

    def note(self, text: str) -> None:
        """Tell the user one thing about this run (a fallback taken, a default that matters); said once."""
        self.reporter.note(text)


class DetectorRecord(NamedTuple):
    """What a detector found where the white cells were known.

    cells: how many there were. found: of these. wrong: boxes that are none of them. on: the photographs, with the
    command that counted.
    """

    cells: int
    found: int
    wrong: int
    on: str


class EncoderFacts(NamedTuple):
    """What a backbone or segmenter says of itself; image_size and interpolation are a backbone's alone."""

    image_size: int | None
    interpolation: str | None
    weights_sha256: str | None
    weights_saw: tuple[str, ...] | None


@runtime_checkable
class Backbone(Protocol):
    """Images to features.

    Optional attributes: `weights_sha256: str` (digest of what was loaded), `weights_saw: tuple[str, ...]` (data the
    weights were trained on, each entry a data set's name and a remark in brackets, "acevedo20 (images without labels)":
    records of that target are marked; None when unknown); `onnx_module() -> torch.nn.Module`, the same network for
    `cellfeat onnx`: on the CPU, in float32, of plain operations; from (B, 3, S, S) uint8 RGB it gives a tuple of what
    its attribute `outputs` names, some of "embedding", "mask", "pooled", "quality", as in `Features`, `pooled` always
    as the core would have it; and on the factory
    - `named_weights: dict[str, NamedWeights]`, what `cellfeat weights list` shows;
    - `facts(context, **parameters) -> EncoderFacts`, what an object of these parameters would say of itself, found
      without building it: then a run that finds everything in the cache builds no network;
    - `compiles = True`, where it heeds `Context.compile`;
    - `importers` and `exporters`, {format: function}, by which `cellfeat weights import` and `export` read and write
      the files of other programs, as `cellfeat.exchange` says.
    """

    image_size: int  # S: the core decodes images and resizes them to (S, S) in its workers
    interpolation: str  # "bilinear", "bicubic", "area" or "nearest"

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> Features; normalising belongs to the weights, so the backbone does it."""


@runtime_checkable
class Segmenter(Protocol):
    """Images to masks; replaces the mask of a backbone.

    Optional: `detect(image (3, H, W) uint8) -> (K, 4)` boxes (x1, y1, x2, y2) in pixels, for whole smears; with it
    `cell_diameter: float`, the diameter in px of a typical white cell at which it works: photographs are brought to
    this scale for it (without it they come as they are); and `detections: DetectorRecord`, how it did where the cells
    were known, which the intervals of a differential count rest on (a factory that is a function says by `detects =
    True` that what it gives has `detect`);
    `weights_sha256: str` and, on the factory, `facts`, as for a backbone. Of segmenters that tell the nucleus, masks
    (B, S, S) bool: `nuclei(images)`; `cells_and_nuclei(images)`, both at once; `plausible(images, cells, nuclei) ->
    (B,) bool`, whether they look like one whole white cell: such masks can train a network (`cellfeat lora-sam
    pretrain`).
    """

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, S, S) bool, True on the cell."""


@runtime_checkable
class Aligner(Protocol):
    """Features of several laboratories to features that agree.

    `fit` gets labelled source rows and, if `uses_target`, target rows, whose labels are hidden (-1) except for those
    that a few-shot protocol reveals. Rows come in an order that means nothing, ids and groups are mere numbers.
    Whatever is learned from cells belongs into `fit`: `transform`, `predict_proba` and `adjust` answer every row by
    itself, and a run refuses a method whose answer depends on the other rows.

    Optional:
    - `prepare(context)`, called once before any long work: find weights, refuse what cannot be done;
    - `weights_saw`, once fitted, as for a backbone;
    - `history_`, once fitted: what JSON can hold of its training, such as losses by epoch; kept in the records;
    - `several_sources: bool = True`, whether it may be fitted on more than one source domain: a method that may not is
      refused where leave-one-domain-out would give it several;
    - `symmetric = True`: of a method that uses no labels and treats source and target rows alike, so that one fit on
      all domains serves every source (DoRL trains one autoencoder for all);
    - `reconstruct(cells, context) -> (N, 3, s, s)` uint8 RGB, once fitted: what the method can draw of each cell from
      what it kept of it, each row by itself; a run keeps a few for its report;
    - `predict_proba(cells, context) -> (N, K)` float, its own head over the K labels 0..K-1 seen in fit;
    - `sample_weight(cells) -> (N,)` weights for the classifier's fit on the source rows;
    - `adjust(proba (N, K), cells) -> (N, K)` corrected probabilities, for label shift; what it needs to know it learns
      in `fit_adjust(proba (M, K), cells, context)`, from the cells that the protocol lets it adapt to;
    - on the factory, `importers` and `exporters`, as for a backbone; an importer fills the folder as `save` does.
    """

    reads: tuple[str, ...]  # columns it needs; decides what is extracted and stored
    writes: str  # "pooled": transform gives (N, D) float32; "image": (N, 3, S, S) uint8, before the backbone
    uses_target: bool  # fit is also shown target rows, labels hidden, where the protocol allows
    uses_labels: bool  # False: no label is ever shown to fit

    def fit(self, cells: Cells, context: Context) -> Self: ...

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """One row per cell, in order. A domain that it cannot place: raise `UnseenDomainError`."""

    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing, empty folder; never a pickle.

        Pictures of cells belong into image files, or tensors named `examples/…`: `cellfeat hub push` leaves these out.
        """

    @classmethod
    def load(cls, folder: Path) -> Self: ...


class Classifier(Protocol):
    """Any scikit-learn classifier. Labels arrive as 0..K-1, features as (N, D) float32.

    A run saves it by skops. Read back are scikit-learn's public estimators and what its and XGBoost's classifiers are
    made of, and classes of the factory's own package; those of other packages must be named on the factory, as in
    `factory.trusted = ("lightgbm.",)`. A function is read back only where its whole name is there.
    """

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Any: ...

    def predict(self, features: np.ndarray) -> np.ndarray: ...


Factory = Callable[..., Any]

MEMBERS = {  # what an object of each slot must have
    "backbone": ("image_size", "interpolation", "encode"),
    "segmenter": ("segment",),
    "align": ("reads", "writes", "uses_target", "uses_labels", "fit", "transform", "save", "load"),
    "classifier": ("fit", "predict"),
}
