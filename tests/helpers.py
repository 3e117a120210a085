"""What several test modules build: registries of toy plugins, cells of toy data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from cellfeat import Cells, hookimpl
from cellfeat.registry import Registry, installed


def with_plugins(**aligners: Any) -> Registry:
    """The installed plugins, and these alignment factories as the plugin `toys`."""

    def cellfeat_align() -> dict[str, Any]:
        return {name.replace("_", "-"): factory for name, factory in aligners.items()}

    registry = Registry(list(installed().offers), list(installed().broken))
    registry.add("toys", "toys", "1.0", lambda: SimpleNamespace(cellfeat_align=hookimpl(cellfeat_align)))
    assert not [broken for broken in registry.broken if broken.plugin == "toys"], registry.broken
    return registry


def labelled_cells(per_class: int = 12, domains: tuple[str, ...] = ("a", "b"), width: int = 6, seed: int = 0) -> Cells:
    """Three separable classes in each domain, domains shifted, all labels known; column `pooled`."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.repeat(np.arange(3), per_class), len(domains))
    domain = np.repeat(domains, 3 * per_class)
    centre = 2 * rng.normal(size=(3, width))[label] + 0.5 * np.searchsorted(domains, domain)[:, None]
    pooled = (centre + 0.5 * rng.normal(size=centre.shape)).astype(np.float32)
    ids = np.array([f"{name}-{number:03d}" for number, name in enumerate(domain)])
    return Cells.from_arrays(label, id=ids, domain=domain, pooled=pooled)


class Identity:
    """An aligner that changes nothing, and the base of the spies in the tests."""

    reads: tuple[str, ...] = ("pooled",)
    writes = "pooled"
    uses_target = True
    uses_labels = False

    def fit(self, cells, context):
        return self

    def transform(self, cells, context):
        return cells.pooled

    def save(self, folder):
        (folder / "nothing").write_text("")

    @classmethod
    def load(cls, folder):
        return cls()


class NearestMean:
    """A classifier of nobody's library: with fit and predict alone, as the contract asks."""

    def fit(self, features, labels):
        self.means_ = np.stack([features[labels == c].mean(0) for c in range(labels.max() + 1)])
        return self

    def predict(self, features):
        return ((features[:, None] - self.means_) ** 2).sum(-1).argmin(1)
