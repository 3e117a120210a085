"""What a run keeps for its report: counts, grey levels, features of a sample of cells, small pictures.

Small whatever the number of cells, and the same for the same run. All of it is looked at once everything that counts is
done: a method that fails here costs its part of the report and no result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cellfeat import image_files, thumbnails, transfers
from cellfeat.artifacts import atomic_folder
from cellfeat.components import compressed
from cellfeat.console import SilentReporter
from cellfeat.datasets import Dataset
from cellfeat.decode import ImageError, read_mask
from cellfeat.depicted import depicted
from cellfeat.distributed import is_main
from cellfeat.extract import Encoder
from cellfeat.grey_levels import grey_levels
from cellfeat.observation_files import BEFORE, FEATURES, PICTURES, SCHEMA, SUMMARY, Compressed, after, write_features
from cellfeat.pipeline import Pipeline
from cellfeat.sampling import balanced
from cellfeat.slots import Context
from cellfeat.splits import Split
from cellfeat.thumbnails import CROP, ORIGINAL, OUTLINE, Thumbnail
from cellfeat.types import Cells
from cellfeat.undisturbed import looking, undisturbed
from cellfeat.without_folders import without_folders

SAMPLED, ENCODED = 2_000, 240  # cells with features; where these would have to be encoded for the report alone
VECTORS = 24_000  # of all sources together
GREY_IMAGES = 100  # of a domain
SHOWN, SHOWN_OF_EACH = 72, 3  # cells with their masks and reconstructions; of one domain and class
DEPICTED_SOURCES = 6
DATA_SET = "the data set"  # whose masks they are where they are no network's
NOTABLE, NOTABLE_IN_ALL = 24, 720  # mistakes, and doubts, of a transfer; of all of them

T = TypeVar("T")


@dataclass
class Observer:
    """Looks at a finished run: at each source's saved pipeline, and at the whole.

    With several processes every one asks the methods, as they may work together, and the main one writes.
    """

    dataset: Dataset
    cells: Cells
    encoder: Encoder
    context: Context
    seed: int
    splits: Sequence[Split]  # of the pipelines that there are
    uses_backbone: bool
    paints: bool  # a method writes images before the backbone
    pictures: bool = True
    missing: dict[str, str] = field(default_factory=dict)  # what could not be looked at, and why

    def __post_init__(self) -> None:
        strata = np.array([f"{d}\0{c}" for d, c in zip(self.cells.domain, self.cells.label, strict=True)])
        most = min(ENCODED if self.paints else SAMPLED, VECTORS // (1 + len(self.splits)))
        self.sample = balanced(strata, max(most, 1), self.seed, within=self.cells.domain)
        self.shown = balanced(strata, SHOWN, self.seed, SHOWN_OF_EACH, within=self.cells.domain)
        self._features: dict[str, tuple[np.ndarray, Compressed]] = {}
        self._small: list[Thumbnail] = []
        self._about: dict[str, Any] = {"masks": None, "empty_masks": {}, "depicted": {}, "depicted_left_out": []}

    def observe(self, fitted: Callable[[str, Context], Pipeline], predictions: Path, folder: Path) -> None:
        """Leave everything in a new folder, or none of it. fitted: the saved pipeline of a source, by its name.

        predictions: the run's Parquet table.
        """
        with undisturbed(self.seed):
            for split in self.splits:
                self._tried(f"features of {split.name}", partial(self._aligned, split, fitted))
            self._tried("data, features and pictures", lambda: self._write(folder, predictions))

    def _aligned(self, split: Split, fitted: Callable[[str, Context], Pipeline]) -> None:
        """Keep what the pipeline of one source makes of the sampled cells of the domains that it is for."""
        domains = {*split.source, *split.targets, *split.adaptable}
        rows = self.sample[np.isin(self.cells.domain[self.sample], list(domains))]
        shown = self.shown[np.isin(self.cells.domain[self.shown], list(domains))]
        with looking(self.context, self.seed) as context:
            pipeline = fitted(split.name, context)
            if self.pictures and len(shown):
                what = f"reconstructions of {split.name}"
                self._tried(what, lambda: self._depict(split.name, shown, pipeline, context))
            if len(rows) > 1:
                features = pipeline.features(self.cells[rows], context)
                self._features[after(split.name)] = (rows, compressed(features, self.seed))

    def _write(self, folder: Path, predictions: Path) -> None:
        self._before()
        masks = self._tried("masks", self._masks) or {}
        if not is_main():
            return
        found = transfers.read(predictions, self.dataset.classes) if predictions.is_file() else []
        grey = self._tried("grey levels", lambda: self._grey_levels(masks))
        with atomic_folder(folder) as unfinished:
            if self.pictures:
                self._tried("pictures", lambda: self._pictures(found, masks))
                thumbnails.write(unfinished / PICTURES, self._small)
            if self._features:
                write_features(unfinished / FEATURES, self.cells, self.sample, self.dataset.classes, self._features)
            summary = json.dumps(self._summary(found, grey), indent=1, ensure_ascii=False)
            (unfinished / SUMMARY).write_text(summary, encoding="utf-8")

    def _before(self) -> None:
        """The sample's features as the backbone gave them."""
        if not self.uses_backbone:
            self.missing["features before alignment"] = "the method reads images; there are no features before it"
            return
        if len(self.sample) > 1:
            whole = self._tried("features before alignment", self._compressed_column)
            self._features = {**({BEFORE: (self.sample, whole)} if whole else {}), **self._features}

    def _compressed_column(self) -> Compressed:
        return compressed(self._column("pooled", self.sample), self.seed)

    def _column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column of some cells: at hand, from the store, or encoded now."""
        if name in self.cells.columns:
            return self.cells.read(name, rows)
        quiet = replace(self.encoder, context=replace(self.encoder.context, reporter=SilentReporter()))
        return quiet.encode(self.dataset.select(rows), (name,)).read(name)

    def _masks(self) -> dict[int, np.ndarray]:
        """{row: (S, S) bool} of the shown cells: the masks that features come from, or else the data set's own."""
        masks = self._network_masks()
        if masks is None:
            masks = self._own_masks()
        domains = self.cells.domain[[row for row, mask in masks.items() if not mask.any()]].tolist()
        self._about["empty_masks"] = {name: domains.count(name) for name in sorted(set(domains))}
        return masks

    def _network_masks(self) -> dict[int, np.ndarray] | None:
        if "mask" not in self.cells.columns and not self.uses_backbone:
            return None
        masks = self._column("mask", self.shown)
        if masks.all():  # where the whole image is the cell there is no mask
            return None
        part = self.encoder.description["segmenter"] or self.encoder.description["backbone"]
        self._about["masks"] = str(part["name"])
        return dict(zip(self.shown.tolist(), masks, strict=True))

    def _own_masks(self) -> dict[int, np.ndarray]:
        paths, found = self.dataset.mask_path, dict[int, np.ndarray]()
        own = [] if paths is None else [(row, paths[row]) for row in self.shown.tolist() if paths[row] is not None]
        for row, path in own:
            with suppress(ImageError):
                found[row] = read_mask(path or "")
        if own:
            self._about["masks"] = DATA_SET
        self._lacks("masks", len(own) - len(found), "masks")
        return found

    def _lacks(self, what: str, count: int, of: str) -> None:
        if count:
            self.missing[f"{what} of some cells"] = f"{count:,} {of} cannot be read any more"

    def _depict(self, source: str, rows: np.ndarray, pipeline: Pipeline, context: Context) -> None:
        if len(self._about["depicted"]) == DEPICTED_SOURCES:
            self._about["depicted_left_out"].append(source)
            return
        depiction = depicted(pipeline, self.cells[rows], context)
        if depiction is None:
            return
        self._about["depicted"][source] = f"{depiction.kind} by {depiction.method}"
        for row, image in zip(rows.tolist(), depiction.images, strict=True):
            pixels = image.transpose(1, 2, 0)
            self._small.append(thumbnails.of(str(self.cells.id[row]), depiction.kind, pixels, source))

    def _pictures(self, found: Sequence[transfers.Transfer], masks: Mapping[int, np.ndarray]) -> None:
        """Originals of all cells that the report shows; of the sample also masks and crops."""
        row_of = {name: row for row, name in enumerate(self.cells.id.tolist())}
        most = notable_count(len(found))
        ids = {name for one in found for rows in (one.mistakes(most), one.doubts(most)) for name in one.id[rows]}
        rows = sorted({*self.shown.tolist(), *(row_of[name] for name in ids)})

        def small(number: int, pixels: np.ndarray) -> list[Thumbnail]:
            row, name = rows[number], str(self.cells.id[rows[number]])
            seen = row in masks and masks[row].any()  # an empty mask has no edge
            outline = [thumbnails.of(name, OUTLINE, pixels, mask=masks[row])] if seen else []
            return [thumbnails.of(name, ORIGINAL, pixels), *outline]

        made = image_files.for_each([self.dataset.path[row] for row in rows], small)
        self._small += [picture for pictures in made for picture in pictures or ()]
        self._lacks("pictures", made.count(None), "images")
        if "crop" in self.cells.columns:
            crops = self.cells.read("crop", self.shown)
            for row, crop in zip(self.shown.tolist(), crops, strict=True):
                self._small.append(thumbnails.of(str(self.cells.id[row]), CROP, crop.transpose(1, 2, 0)))

    def _grey_levels(self, masks: Mapping[int, np.ndarray]) -> dict[str, Any]:
        """Of many images and the cells in them; of the shown cells alone where masks are at hand of these alone."""
        rows = balanced(self.cells.domain, GREY_IMAGES * len(set(self.cells.domain.tolist())), self.seed)
        paths = self.dataset.mask_path
        own = [] if paths is None else [row for row in rows.tolist() if paths[row] is not None]
        told = {"masks": self._about["masks"], "cells_are_examples": False}
        mask_of: Callable[[int], np.ndarray]
        if "mask" in self.cells.columns and told["masks"] not in (None, DATA_SET):
            masked, mask_of = rows, lambda row: self.cells.read("mask", [row])[0]
        elif paths is not None and set(self.cells.domain[own].tolist()) == set(self.cells.domain.tolist()):
            masked, mask_of = np.array(own), lambda row: read_mask(paths[row] or "")
            told["masks"] = DATA_SET
        else:
            masked, mask_of = np.array(sorted(masks), int), lambda row: masks[row]
            told["cells_are_examples"] = True
        found = grey_levels(self.dataset, rows, masked, mask_of)
        unreadable = found.pop("unreadable")
        for of, count in unreadable.items():
            self._lacks("grey levels", count, of)
        return {**told, **found}

    def _summary(self, found: Sequence[transfers.Transfer], grey: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "classes": list(self.dataset.classes),
            "domains": _counts(self.dataset),
            "grey_levels": grey,
            "adaptable": {split.name: sorted(split.adaptable) for split in self.splits},
            "features": {
                name: {"cells": len(rows), "width": one.width, "components": one.values.shape[1]}
                | {"explained": one.explained}
                for name, (rows, one) in self._features.items()
            },
            "pictures": self.pictures,
            "shown": [(str(self.cells.id[row]), *self._kind(row)) for row in self.shown.tolist()],
            "examples_left_out": self._left_out(),
            "masks_of_originals": self.paints and self._about["masks"] is not None,
            **self._about,
            "recall": [self._recall(one) for one in found],
            "missing": self.missing,
        }

    def _left_out(self) -> dict[str, list[str]]:
        """{domain: classes, "" for cells without one} of which no cell is among the shown ones."""
        every = set(map(self._kind, range(len(self.cells))))
        shown = set(map(self._kind, self.shown.tolist()))
        found: dict[str, list[str]] = {}
        for domain, name in sorted(every - shown):
            found.setdefault(domain, []).append(name)
        return found

    def _kind(self, row: int) -> tuple[str, str]:
        """Domain and class of a cell, "" without one."""
        label = self.cells.label[row]
        return str(self.cells.domain[row]), self.dataset.classes[label] if label >= 0 else ""

    def _recall(self, one: transfers.Transfer) -> dict[str, Any]:
        groups = self.cells.group[np.searchsorted(self.cells.id, one.id)]
        intervals = transfers.recall_intervals(one.label, one.right, groups, self.seed)
        named = {self.dataset.classes[label]: interval for label, interval in intervals.items()}
        return {"source": one.source, "target": one.target, "intervals": named}

    def _tried(self, what: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:  # whatever a method does here, the run's results stand
            known = map(str, chain(self.dataset.path, self.dataset.mask_path or ()))
            reason = " ".join(str(error).split()) or type(error).__name__
            self.missing[what] = without_folders(reason, known)  # a page that is passed on tells nobody's folders
            self.context.note(f"the report will lack {what}: {reason}")
            return None


def notable_count(transfers: int) -> int:
    """How many mistakes, and how many doubts, of each of so many transfers are kept as pictures."""
    return min(NOTABLE, NOTABLE_IN_ALL // (2 * transfers)) if transfers else 0


def _counts(dataset: Dataset) -> dict[str, Any]:
    """By domain: cells of every class, without a label, and rows whose label has no class."""
    found: dict[str, Any] = {}
    for domain in sorted({*dataset.domains, *dataset.dropped_by_domain}):
        label = dataset.label[dataset.domain == domain]
        counts = np.bincount(label[label >= 0], minlength=len(dataset.classes))
        found[domain] = {
            "classes": {name: int(n) for name, n in zip(dataset.classes, counts, strict=True)},
            "unlabelled": int((label < 0).sum()),
            "dropped": dict(dataset.dropped_by_domain.get(domain, {})),
        }
    return found
