"""One method, whole: images -> backbone (+ segmenter) -> aligners -> classifier. Fit, use, save, load.

What a method may see is decided here and nowhere else: it is handed copies that hold only the columns it reads,
ids without meaning, and no label of a target row, ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.artifacts import atomic_folder
from cellfeat.classification import ClassifierHead
from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder
from cellfeat.recipe import Part, Recipe, parse
from cellfeat.registry import Offer, Registry
from cellfeat.slots import Context
from cellfeat.types import UNLABELED, ArrayColumn, Cells

FORMAT = 1  # of a saved pipeline
IMAGES_AT_ONCE = 256  # handed to a method that writes images


def resolve(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with every plugin found, every parameter checked and completed with its default."""

    def completed(slot: str, part: Part) -> Part:
        return Part.of(part.name, registry.find(slot, part.name).resolve(part.params))

    return recipe.model_copy(
        update={
            "backbone": completed("backbone", recipe.backbone),
            "segmenter": recipe.segmenter and completed("segmenter", recipe.segmenter),
            "align": [completed("align", part) for part in recipe.align],
            "classifier": recipe.classifier and completed("classifier", recipe.classifier),
        }
    )


def columns_read(aligners: Sequence[Any]) -> tuple[str, ...]:
    """The columns that the data must have for a chain. What comes after a method that writes images is encoded from
    those images, so only the image methods' own reads count then."""
    painters = [aligner for aligner in aligners if aligner.writes == "image"]
    if painters:
        return tuple(dict.fromkeys(name for aligner in painters for name in ("image", *aligner.reads)))
    return _vector_columns(aligners)


def _vector_columns(aligners: Sequence[Any]) -> tuple[str, ...]:
    """What a chain of vector methods reads, less the vectors that an earlier one of them writes."""
    needed: list[str] = []
    for number, aligner in enumerate(aligners):
        needed += [name for name in aligner.reads if number == 0 or name != "pooled"]
    return tuple(dict.fromkeys(needed)) or ("pooled",)


def shown(cells: Cells, aligner: Any) -> Cells:
    """The copy that a method is handed: only what it reads; labels of target rows, or all labels, hidden."""
    missing = sorted(set(aligner.reads) - set(cells.columns))
    if missing:
        raise CellfeatError(f"{_name(aligner)} reads {', '.join(missing)}, which these cells do not have")
    copy = replace(
        cells,
        # File names tell classes, and a group without a name of its own is called after its file; numbers do not.
        id=np.array([f"{row:08d}" for row in range(len(cells))]),
        group=np.unique(cells.group, return_inverse=True)[1].astype(str),
        columns={name: cells.columns[name] for name in aligner.reads},
    )
    return copy.hide_labels(copy.is_target if aligner.uses_labels else slice(None))


def _name(aligner: Any) -> str:
    return f"align {getattr(aligner, 'registered_name', type(aligner).__name__)!r}"


@dataclass
class Pipeline:
    """A recipe's methods, fitted or not. `classes` are the names behind the labels 0..K-1."""

    recipe: Recipe
    classes: tuple[str, ...]
    aligners: list[Any]
    head: ClassifierHead | None = None
    encoder: Encoder | None = None  # needed only behind a method that writes images
    domains: tuple[str, ...] = ()  # those the aligners were fitted on
    fitted_classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    facts: dict[str, Any] = field(default_factory=dict)  # where it comes from, for records and for --refit

    @classmethod
    def build(
        cls,
        recipe: Recipe,
        registry: Registry,
        classes: Sequence[str],
        context: Context,
        encoder: Encoder | None = None,
    ) -> Pipeline:
        """Unfitted methods of a resolved recipe, checked to fit together."""
        aligners = []
        for part in recipe.align:
            offer = registry.find("align", part.name)
            aligner = offer.create(part.params, context)
            _check_declaration(aligner, offer)
            aligners.append(aligner)
        written = [aligner.writes for aligner in aligners]
        if written != sorted(written):  # "image" < "pooled"
            raise CellfeatError("an align method that writes images must come before those that write vectors")
        return cls(recipe, tuple(classes), aligners, encoder=encoder)

    @property
    def uses_target(self) -> bool:
        return any(aligner.uses_target for aligner in self.aligners)

    @property
    def uses_labels(self) -> bool:
        return any(aligner.uses_labels for aligner in self.aligners)

    @property
    def uses_backbone(self) -> bool:
        """Whether any method reads what the backbone computes, and not images alone."""
        return columns_read(self.aligners) != ("image",) or any(a.writes == "image" for a in self.aligners)

    @property
    def weights_saw(self) -> tuple[str, ...] | None:
        """Data that pretrained weights of the backbone (where it is used) and of fitted methods have seen; None when
        one of them does not know."""
        saw = [getattr(aligner, "weights_saw", ()) for aligner in self.aligners]
        if self.encoder is not None and self.uses_backbone:
            saw.insert(0, getattr(self.encoder.backbone, "weights_saw", None))
        return None if None in saw else tuple(dict.fromkeys(name for names in saw for name in names))

    def prepare(self, context: Context) -> None:
        """Let every method refuse what cannot be done before any long work."""
        for aligner in self.aligners:
            if hasattr(aligner, "prepare"):
                aligner.prepare(context)

    @property
    def own_head(self) -> Any | None:
        """The last aligner, when it classifies by itself and the recipe names no classifier."""
        last = self.aligners[-1]
        return last if self.recipe.classifier is None and hasattr(last, "predict_proba") else None

    def fit_align(self, cells: Cells, context: Context) -> np.ndarray:
        """Fit the chain on labelled source rows and target rows; gives the (N, D) features of these very cells.

        Labels are encoded 0..K-1 for the methods that use them; those of target rows are hidden from all.
        """
        self.domains = tuple(sorted(set(cells.domain.tolist())))
        source = ~cells.is_target & (cells.label >= 0)
        self.fitted_classes, encoded = np.unique(cells.label[source], return_inverse=True)
        label = np.full(len(cells), UNLABELED)
        label[source] = encoded
        cells = replace(cells, label=label)
        for number, aligner in enumerate(self.aligners):
            view = shown(cells, aligner)
            if not aligner.uses_target:
                view = view[~view.is_target]
            folder = context.scratch / f"{number}-{type(aligner).__name__}"
            folder.mkdir(parents=True, exist_ok=True)
            self.aligners[number] = aligner.fit(view, replace(context, scratch=folder)) or aligner
            cells = self._apply(number, cells, context)
        return cells.pooled

    def features(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32 aligned features; no label is shown."""
        return self._transformed(cells, context, len(self.aligners)).pooled

    def _transformed(self, cells: Cells, context: Context, upto: int) -> Cells:
        """The cells after the first `upto` methods, labels hidden."""
        cells = cells.hide_labels()
        for number in range(upto):
            cells = self._apply(number, cells, context)
        return cells

    def _apply(self, number: int, cells: Cells, context: Context) -> Cells:
        aligner = self.aligners[number]
        view = shown(cells, aligner).hide_labels()
        if aligner.writes == "pooled":
            vectors = _checked_vectors(aligner.transform(view, context), len(cells), aligner)
            return cells.with_column("pooled", vectors)
        starts = range(0, len(view), IMAGES_AT_ONCE)
        painted = [aligner.transform(view[start : start + IMAGES_AT_ONCE], context) for start in starts]
        images = _checked_images(np.concatenate(painted), cells.column("image").shape, aligner)
        cells = cells.with_column("image", ArrayColumn(images))
        rest = self.aligners[number + 1 :]
        if rest and rest[0].writes == "image":
            return cells
        if self.encoder is None:
            raise CellfeatError(f"{_name(aligner)} writes images, but this pipeline has no backbone to encode them")
        wanted = [name for name in _vector_columns(rest) if name != "image"]
        encoded = self.encoder.encode_images(cells.column("image"), wanted, context.scratch) if wanted else {}
        return replace(cells, columns={**cells.columns, **encoded})

    def _last_view(self, cells: Cells, context: Context) -> Cells:
        """What the last method is handed to transform: for its head, its weights and its corrections."""
        last = len(self.aligners) - 1
        return shown(self._transformed(cells, context, last), self.aligners[last]).hide_labels()

    def fit_classifier(self, registry: Registry, cells: Cells, features: np.ndarray, context: Context) -> None:
        """Fit the classifier on labelled source rows and their features; nothing to do for a chain with a head."""
        if self.own_head is not None:
            return
        part, last = self.recipe.classifier, self.aligners[-1]
        if part is None:
            raise CellfeatError(f"{_name(last)} has no head of its own: name a classifier (--clf)")
        weigh = getattr(last, "sample_weight", None)
        self.head = ClassifierHead.fit(
            lambda: registry.create("classifier", part.name, part.params, context),
            features,
            cells.label,
            cells.group,
            None if weigh is None else np.asarray(weigh(self._last_view(cells, context)), float),
            context.seed,
        )

    def predict(
        self, cells: Cells, context: Context, features: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """((N,) int64 classes, (N, K) float probabilities over all of `classes`; a class unseen in fit has 0).

        `features` spares computing them again when they are at hand.
        """
        last = self.aligners[-1]
        if self.own_head is not None:
            proba, known = last.predict_proba(self._last_view(cells, context), context), self.fitted_classes
        elif self.head is not None:
            features = self.features(cells, context) if features is None else features
            proba, known = self.head.predict_proba(features), self.head.classes
        else:
            raise CellfeatError("this pipeline has no fitted classifier")
        if hasattr(last, "adjust"):
            proba = last.adjust(proba, self._last_view(cells, context))
        full = np.zeros((len(cells), len(self.classes)))
        full[:, known] = proba
        return full.argmax(axis=1), full

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs into a new folder."""
        with atomic_folder(folder) as partial:
            for number, aligner in enumerate(self.aligners):
                place = partial / f"align-{number}"
                place.mkdir()
                aligner.save(place)
            if self.head is not None:
                self.head.save(partial)
            about = {
                "format": FORMAT,
                "recipe": self.recipe.as_dict(),
                "classes": list(self.classes),
                "domains": list(self.domains),
                "fitted_classes": self.fitted_classes.tolist(),
                "facts": self.facts,
            }
            (partial / "pipeline.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path, registry: Registry, context: Context, encoder: Encoder | None = None) -> Pipeline:
        about = read_about(folder)
        recipe = parse(about["recipe"], f"the recipe in {folder}")
        pipeline = cls.build(recipe, registry, about["classes"], context, encoder)
        for number, aligner in enumerate(pipeline.aligners):
            loaded = type(aligner).load(Path(folder) / f"align-{number}")
            loaded.registered_name = recipe.align[number].name
            pipeline.aligners[number] = loaded
        if (Path(folder) / "classifier.skops").is_file():
            # Installing a plugin is trusting it: what its classifiers are made of may be read back, and no more.
            factory = registry.find("classifier", recipe.classifier.name).factory if recipe.classifier else None
            package = getattr(factory, "__module__", "sklearn").partition(".")[0]
            pipeline.head = ClassifierHead.load(Path(folder), trust=(f"{package}.",))
        pipeline.domains, pipeline.facts = tuple(about["domains"]), about["facts"]
        pipeline.fitted_classes = np.array(about["fitted_classes"], np.int64)
        return pipeline


def read_about(folder: Path) -> dict[str, Any]:
    """The description of a saved pipeline."""
    path = Path(folder) / "pipeline.json"
    if not path.is_file():
        raise CellfeatError(f"{folder} is no saved pipeline: it has no pipeline.json")
    about = json.loads(path.read_text())
    if about.get("format") != FORMAT:
        raise CellfeatError(f"{folder} has pipeline format {about.get('format')!r}, this cellfeat reads {FORMAT}")
    return about


def _check_declaration(aligner: Any, offer: Offer) -> None:
    faults = []
    if aligner.writes not in ("pooled", "image"):
        faults.append(f"writes is {aligner.writes!r}, but must be 'pooled' or 'image'")
    if isinstance(aligner.reads, str) or not all(isinstance(name, str) for name in aligner.reads):
        faults.append(f"reads is {aligner.reads!r}, but must be a tuple of column names")
    if faults:
        raise CellfeatError(f"align {offer.name!r} of {offer.distribution}: {'; '.join(faults)}")
    aligner.registered_name = offer.name


def _checked_vectors(values: Any, count: int, aligner: Any) -> np.ndarray:
    """A method's answer, refused when it is not (N, D) float32 and finite."""
    if not isinstance(values, np.ndarray) or values.ndim != 2 or len(values) != count or values.dtype != np.float32:
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise CellfeatError(f"{_name(aligner)} must give a float32 array of ({count}, D), but gave {got}")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise CellfeatError(f"{_name(aligner)} gave NaN or infinite features for {bad.sum()} of {count} cells")
    return values


def _checked_images(values: Any, shape: tuple[int, ...], aligner: Any) -> np.ndarray:
    """A method's images, refused when they are not uint8 of the shape it was given."""
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != np.uint8:
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise CellfeatError(f"{_name(aligner)} must give a uint8 array of {shape}, but gave {got}")
    return values
