"""What several test modules build: registries of toy plugins, cells of toy data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cellfeat import Cells, hookimpl
from cellfeat.registry import Registry, installed
from cellfeat.testing import examine


def with_plugins(**aligners: Any) -> Registry:
    """The installed plugins, and these alignment factories as the plugin `toys`."""

    def cellfeat_align() -> dict[str, Any]:
        return {name.replace("_", "-"): factory for name, factory in aligners.items()}

    registry = Registry(list(installed().offers), list(installed().broken))
    registry.add("toys", "toys", "1.0", lambda: SimpleNamespace(cellfeat_align=hookimpl(cellfeat_align)))
    # A method that declares nonsense is refused by itself; a test that asks for it is told so.
    assert not [broken for broken in registry.broken if broken.plugin == "toys" and not broken.method], registry.broken
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


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """What is encoded here is kept in a folder of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CELLFEAT_CACHE", str(folder))
        yield


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


@contextmanager
def narrow_autoencoders() -> Iterator[None]:
    """A few channels in every layer of the convolutional autoencoders between the first and the last, so that a
    training takes a second; kernels, strides and norms are the published."""
    with pytest.MonkeyPatch.context() as patched:
        _narrow(patched.setattr)
        yield


def narrowed(factory: Callable[..., Any], **params: Any) -> Any:
    """What a factory gives, with such layers also in a process of its own."""
    _narrow(setattr)
    return factory(**params)


def _narrow(write: Callable[[Any, str, Any], None]) -> None:
    from cellfeat_cae import ae_cfe_network, bc_sam_network

    write(bc_sam_network, "ENCODER_WIDTH", 8)
    write(bc_sam_network, "DECODER", tuple((4, *rest) for _, *rest in bc_sam_network.DECODER))
    layers = tuple((12, kernel, stride, 3) for _, kernel, stride, _ in ae_cfe_network.ENCODER)
    write(ae_cfe_network, "ENCODER", layers)
    for name in ("MAP_DECODER", "IMAGE_DECODER"):
        write(ae_cfe_network, name, tuple((4, *rest) for _, *rest in getattr(ae_cfe_network, name)))


IOU_HEAD = "mask_decoder.iou_prediction_head.layers.2"


def with_nucleus(path: Path, own_colours: bool = True) -> Path:
    """Weights of cell-tiny with qualities that mean nothing."""
    import torch
    from cellfeat_lora_sam.checkpoints import read_weights, save_weights
    from cellfeat_lora_sam.named import NAMED_WEIGHTS

    state = dict(read_weights(NAMED_WEIGHTS["cell-tiny"].path).state)
    state |= {f"{IOU_HEAD}.weight": 0.05 * state[f"{IOU_HEAD}.weight"]}
    state |= {f"{IOU_HEAD}.bias": torch.tensor([0.5, 0.8, 0.7])}
    save_weights(path, state, {"own_colours": own_colours, "saw": ["drawn cells"], "build": "tiny"})
    return path


def without_nucleus(path: Path) -> Path:
    """Weights of cell-tiny that tell cell from background alone, of images standardised by constants."""
    from cellfeat_lora_sam.checkpoints import read_weights, save_weights
    from cellfeat_lora_sam.named import NAMED_WEIGHTS

    state = dict(read_weights(NAMED_WEIGHTS["cell-tiny"].path).state)
    state = {name: value for name, value in state.items() if ".output_hypernetworks_mlps.2." not in name}
    for name in ("mask_decoder.mask_tokens.weight", f"{IOU_HEAD}.weight", f"{IOU_HEAD}.bias"):
        state[name] = state[name][:2]
    save_weights(path, state, {"saw": ["drawn cells"], "build": "tiny"})
    return path


def check_variant(factory: Any, folder: Path, cells: Cells | None = None, **params: Any) -> None:
    """What other parameters of a shipped method could break; with some of them it passes every check elsewhere."""
    only = ("declaration", "finite", "head", "one-cell", "save-load")
    examine("align", factory, params, folder=folder, cells=cells, only=only).raise_failures()
