"""Data and encoded cells that several recipes share: each manifest is read once, each image encoded once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cellfeat.datasets import Dataset
from cellfeat.evaluate import Evaluator, Fits
from cellfeat.extract import Encoder
from cellfeat.pipeline import Pipeline, columns_read
from cellfeat.recipe import Recipe
from cellfeat.run import finetuned
from cellfeat.slots import Context
from cellfeat.types import Cells
from cellfeat.workplace import Workplace, load_dataset, make_encoder


@dataclass
class Encoded:
    """Data, what encodes them, and the cells with the columns asked for so far."""

    dataset: Dataset
    encoder: Encoder
    cells: Cells
    columns: frozenset[str]


@dataclass
class Encodings:
    """Everything encoded so far in one workplace."""

    work: Workplace
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _encoded: dict[str, Encoded] = field(default_factory=dict)

    def dataset(self, recipe: Recipe) -> Dataset:
        section = _key(recipe.dataset)
        if section not in self._datasets:
            self._datasets[section] = load_dataset(recipe.dataset, self.work)
        return self._datasets[section]

    def of(self, recipe: Recipe, context: Context) -> Encoded:
        """The data, encoded as the recipe says, from what earlier recipes have left where they agree."""
        dataset = self.dataset(recipe)
        fitted = finetuned(recipe, dataset, self.work)
        key = _key(recipe.dataset, fitted.backbone, fitted.segmenter)
        wanted = frozenset(columns_read(Pipeline.build(fitted, self.work.registry, (), context).aligners))
        found = self._encoded.get(key)
        if found is None or not wanted <= found.columns:
            encoder = found.encoder if found else make_encoder(fitted, self.work, context)
            columns = wanted | (found.columns if found else frozenset())
            found = Encoded(dataset, encoder, encoder.encode(dataset, sorted(columns)), columns)
            self._encoded[key] = found
        return found

    def evaluator(self, recipe: Recipe, encoded: Encoded, context: Context, fits: Fits) -> Evaluator:
        identity = f"{encoded.dataset.digest}|{encoded.encoder.description}"
        classes, registry = encoded.dataset.classes, self.work.registry
        return Evaluator(recipe, registry, encoded.cells, classes, context, encoded.encoder, identity, fits=fits)


def _key(*sections: Any) -> str:
    return json.dumps([one and one.model_dump(mode="json") for one in sections], sort_keys=True)
