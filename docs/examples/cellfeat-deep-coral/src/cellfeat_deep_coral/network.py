"""A timm network with a classifier of its own, and where its weights come from."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as functional
from torch import nn

from cellfeat import CellfeatError, check_tensors, load_tensors

RANDOM = "random"  # the name of weights that are in no file
HEAD_FACTOR = 10.0  # of the learning rate, as in the paper, where the head is new and the trunk is not


class CoralNetwork(nn.Module):
    """(B, 3, S, S) uint8 RGB -> features (B, D), what the head sees, and logits (B, K).

    model: one of timm's. size: S of the trunk's input, to which images of another size are resized. Weights are drawn
    by torch's global generator.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, model: str, size: int, classes: int) -> None:
        super().__init__()
        config = published_config(model)
        sized: dict[str, Any] = {"img_size": size} if config.fixed_input_size else {}
        trunk: Any = timm.create_model(model, num_classes=0, **sized)
        # Some networks widen their pooled vector once more before the classifier.
        width = getattr(trunk, "head_hidden_size", None) or trunk.num_features
        self.size, self.trunk, self.head = size, trunk, nn.Linear(width, classes)
        for name, values in (("mean", config.mean), ("deviation", config.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = images.float() / 255
        if pixels.shape[-1] != self.size:
            pixels = functional.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        features = self.trunk((pixels - self.mean) / self.deviation)
        return features, self.head(features)

    def groups(self, learning_rate: float, pretrained: bool) -> list[dict[str, Any]]:
        """Parameters for an optimiser; `base` is what a schedule multiplies."""
        parts = ((self.trunk, learning_rate), (self.head, learning_rate * (HEAD_FACTOR if pretrained else 1)))
        return [{"params": list(part.parameters()), "lr": rate, "base": rate} for part, rate in parts]


def published_config(model: str) -> Any:
    """timm's configuration of a model. Raises: CellfeatError for a name that timm does not know, with the nearest."""
    if not timm.is_model(model.partition(".")[0]):
        near = get_close_matches(model, timm.list_models(), n=2, cutoff=0.6)
        guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise CellfeatError(f"timm has no model named {model!r}.{guess} timm.list_models() names all there are")
    return timm.get_pretrained_cfg(model)


def weights_file(weights: str) -> Path | None:
    """The file behind `weights`; None for random ones. Raises: CellfeatError where there is no such file."""
    if weights == RANDOM:
        return None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise CellfeatError(
            f"align 'deep-coral': weights={weights!r} is no file. Give {RANDOM}, or a .safetensors or .pth file with "
            "the state dictionary of the timm model: --set align.weights=FILE"
        )
    return path


def load_trunk(network: CoralNetwork, model: str, path: Path) -> None:
    """Fill the trunk from a file of the timm model's tensors; a classifier in it is left out.

    Raises: CellfeatError for a file that cannot be read, would run code, or does not fit.
    """
    classifier = published_config(model).classifier
    left_out = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    found = {name: value for name, value in load_tensors(path).items() if name.rpartition(".")[0] not in left_out}
    own = network.trunk.state_dict()
    # Files from before 2018 do not count the batches that batch normalisation has seen, which changes no answer.
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    tensors = counters | found
    check_tensors(path, tensors, {name: value.shape for name, value in own.items()})
    network.trunk.load_state_dict(tensors)
