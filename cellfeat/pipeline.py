"""One method, whole: images -> backbone (+ segmenter) -> aligners -> classifier. Fit, use, save, load.

What a method sees and how its answers are taken is in `handing`; which cells it is fitted on is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat.artifacts import atomic_folder
from cellfeat.classification import ClassifierHead, trusted_by, try_saving
from cellfeat.errors import CellfeatError
from cellfeat.extract import Encoder
from cellfeat.handing import Method
from cellfeat.recipe import Part, Recipe, parse
from cellfeat.registry import Registry
from cellfeat.slots import Context
from cellfeat.types import UNLABELED, ArrayColumn, Cells

FORMAT = 1  # of a saved pipeline


def resolve(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with every plugin found, every parameter checked and completed with its default."""
    return recipe.model_copy(
        update={
            "backbone": completed(registry, "backbone", recipe.backbone),
            "segmenter": recipe.segmenter and completed(registry, "segmenter", recipe.segmenter),
            "align": [completed(registry, "align", part) for part in recipe.align],
            "classifier": recipe.classifier and completed(registry, "classifier", recipe.classifier),
        }
    )


def completed(registry: Registry, slot: str, part: Part) -> Part:
    """The plugin found, its parameters checked and completed with their defaults."""
    return Part.of(part.name, registry.find(slot, part.name).resolve(part.params))


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


@dataclass
class Pipeline:
    """A recipe's methods, fitted or not. `classes` are the names behind the labels 0..K-1."""

    recipe: Recipe
    classes: tuple[str, ...]
    methods: list[Method]
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
        methods = []
        for part in recipe.align:
            offer = registry.find("align", part.name)
            method = Method(part.name, offer.create(part.params, context))
            method.check_declaration(offer.distribution)
            methods.append(method)
        _check_chain(methods)
        return cls(recipe, tuple(classes), methods, encoder=encoder)

    @property
    def aligners(self) -> list[Any]:
        """The methods' own objects, fitted or not."""
        return [method.aligner for method in self.methods]

    @property
    def untaught(self) -> tuple[str, ...]:
        """Classes that no cell of the fit was of, which are never answered."""
        return tuple(name for number, name in enumerate(self.classes) if number not in self.fitted_classes)

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

    @property
    def histories(self) -> dict[str, Any]:
        """What fitted methods say of their training, by name: losses by epoch, say."""
        return {m.name: m.aligner.history_ for m in self.methods if getattr(m.aligner, "history_", None) is not None}

    def check_sources(self, sources: Collection[str]) -> None:
        """Refuse source domains that a method of the chain cannot be fitted on together."""
        for method in self.methods:
            method.check_sources(sources)

    def prepare(self, context: Context) -> None:
        """Let every method refuse what cannot be done before any long work."""
        for aligner in self.aligners:
            if hasattr(aligner, "prepare"):
                aligner.prepare(context)

    @property
    def has_own_head(self) -> bool:
        """Whether the last method classifies by itself and the recipe names no classifier."""
        return self.recipe.classifier is None and hasattr(self.methods[-1].aligner, "predict_proba")

    def fit_align(self, cells: Cells, context: Context) -> np.ndarray:
        """Fit the chain on labelled source rows and target rows; gives the (N, D) features of these very cells.

        The caller has hidden every label that no method may see. The others are encoded 0..K-1.
        """
        self.domains = tuple(sorted(set(cells.domain.tolist())))
        known = cells.label >= 0
        self.fitted_classes, encoded = np.unique(cells.label[known], return_inverse=True)
        label = np.full(len(cells), UNLABELED)
        label[known] = encoded
        cells = replace(cells, label=label)
        for number, method in enumerate(self.methods):
            folder = context.scratch / f"{number}-{type(method.aligner).__name__}"
            folder.mkdir(parents=True, exist_ok=True)
            method.fit(cells, replace(context, scratch=folder))
            cells = self._apply(number, cells, context)
        return cells.pooled

    def features(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32 aligned features; no label is shown."""
        return self.transformed(cells, context, len(self.methods)).pooled

    def transformed(self, cells: Cells, context: Context, upto: int) -> Cells:
        """The cells after the first `upto` methods, labels hidden."""
        cells = cells.hide_labels()
        for number in range(upto):
            cells = self._apply(number, cells, context)
        return cells

    def _apply(self, number: int, cells: Cells, context: Context) -> Cells:
        method, rest = self.methods[number], self.aligners[number + 1 :]
        answer = method.transform(cells, context)
        if method.aligner.writes == "pooled":
            return cells.with_column("pooled", ArrayColumn(answer))
        cells = cells.with_column("image", ArrayColumn(answer))
        if rest and rest[0].writes == "image":
            return cells
        if self.encoder is None:
            raise CellfeatError(f"{method.title} writes images, but this pipeline has no backbone to encode them")
        wanted = [name for name in _vector_columns(rest) if name != "image"]
        encoded = self.encoder.encode_images(cells.column("image"), wanted, context.scratch) if wanted else {}
        return replace(cells, columns={**cells.columns, **encoded})

    def _before_last(self, cells: Cells, context: Context) -> Cells:
        """What the last method transforms: also for its head, its weights and its corrections."""
        return self.transformed(cells, context, len(self.methods) - 1)

    def fit_classifier(self, registry: Registry, cells: Cells, features: np.ndarray, context: Context) -> None:
        """Fit the classifier on labelled source rows and their features; nothing to do for a chain with a head."""
        if self.has_own_head:
            return
        part, last = self.recipe.classifier, self.methods[-1]
        if part is None:
            raise CellfeatError(f"{last.title} has no head of its own: name a classifier (--clf)")
        weight = None
        if hasattr(last.aligner, "sample_weight"):
            weight = last.sample_weight(self._before_last(cells, context), context)
        self.head = ClassifierHead.fit(
            lambda: registry.create("classifier", part.name, part.params, context),
            features,
            cells.label,
            cells.group,
            weight,
            context.seed,
            lambda fits: context.progress(fits, f"{part.name}: fits"),
        )

    def fit_adjust(self, cells: Cells, context: Context, features: np.ndarray | None = None) -> None:
        """Let a method that corrects probabilities learn from those of the cells that may be adapted to."""
        last = self.methods[-1]
        if hasattr(last.aligner, "fit_adjust") and len(cells):
            last.fit_adjust(self._proba(cells, context, features), self._before_last(cells, context), context)

    def predict(
        self, cells: Cells, context: Context, features: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """((N,) int64 classes, (N, K) float probabilities over all of `classes`; a class unseen in fit has 0).

        `features` spares computing them again when they are at hand.
        """
        proba, last = self._proba(cells, context, features), self.methods[-1]
        if hasattr(last.aligner, "adjust"):
            proba = last.adjust(proba, self._before_last(cells, context), context)
        full = np.zeros((len(cells), len(self.classes)))
        full[:, self.fitted_classes] = proba
        return full.argmax(axis=1), full

    def _proba(self, cells: Cells, context: Context, features: np.ndarray | None) -> np.ndarray:
        """(N, K) over the classes that the methods were fitted on."""
        if self.has_own_head:
            return self.methods[-1].predict_proba(self._before_last(cells, context), context)
        if self.head is None:
            raise CellfeatError("this pipeline has no fitted classifier")
        found = self.head.predict_proba(self.features(cells, context) if features is None else features)
        proba = np.zeros((len(cells), len(self.fitted_classes)))
        proba[:, np.searchsorted(self.fitted_classes, self.head.classes)] = found
        return proba

    def check_classifier(self, registry: Registry, context: Context) -> None:
        """Refuse a classifier that could not be read back after the run, before the run."""
        part = self.recipe.classifier
        if part is not None:
            estimator = registry.create("classifier", part.name, part.params, context)
            try_saving(estimator, part.name, self._trusted(registry))

    def _trusted(self, registry: Registry) -> tuple[str, ...]:
        part = self.recipe.classifier
        return trusted_by(registry.find("classifier", part.name).factory) if part else ()

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
        for number, method in enumerate(pipeline.methods):
            method.aligner = type(method.aligner).load(Path(folder) / f"align-{number}")
        if (Path(folder) / "classifier.skops").is_file():
            pipeline.head = ClassifierHead.load(Path(folder), trust=pipeline._trusted(registry))
        pipeline.domains, pipeline.facts = tuple(about["domains"]), about["facts"]
        pipeline.fitted_classes = np.array(about["fitted_classes"], np.int64)
        return pipeline


def read_about(folder: Path) -> dict[str, Any]:
    """The description of a saved pipeline. Raises: CellfeatError for what is none."""
    path = Path(folder) / "pipeline.json"
    if not path.is_file():
        raise CellfeatError(f"{folder} is no saved pipeline: it has no pipeline.json")
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CellfeatError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if about.get("format") != FORMAT:
        raise CellfeatError(f"{folder} has pipeline format {about.get('format')!r}, this cellfeat reads {FORMAT}")
    return about


def _check_chain(methods: Sequence[Method]) -> None:
    """Refuse a chain in which a method's work would be lost."""
    for first, second in pairwise(methods):
        corrects = [name for name in ("adjust", "sample_weight") if hasattr(first.aligner, name)]
        if corrects:
            raise CellfeatError(
                f"{first.title} works on the classifier ({', '.join(corrects)}), which {second.title} would cut it off "
                f"from: put {first.name} last"
            )
        if first.aligner.writes == "pooled" and second.aligner.writes == "image":
            raise CellfeatError(
                f"{second.title} writes images: it must come before {first.title}, which writes vectors"
            )
        if first.aligner.writes == "pooled" and "pooled" not in second.aligner.reads:
            raise CellfeatError(
                f"{second.title} reads {', '.join(second.aligner.reads)} and not the vectors that {first.title} "
                f"writes; put {second.name} first, or leave {first.name} out"
            )
