"""What the parity tests share: the numbers of the original programs and the rule that filled their parameters."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellfeat_cae.batches import Batch

DATA = Path(__file__).parent / "data"
EXACTLY_ZERO = 1e-7  # a stored gradient norm below this is rounding


def fill(key: str, shape: Sequence[int]) -> np.ndarray:
    """The tensor that the reference put under a name, float32 of the given shape.

    Drawn from the name's checksum, so that numbers could be stored without weights. Matrices and kernels are scaled
    by their fan-in; norms' weights lie about 1; running variances are positive.
    """
    scale = 0.1 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
    random = np.random.RandomState(zlib.crc32(key.encode()))
    values = random.standard_normal(int(np.prod(shape))) * scale
    if len(shape) == 1 and key.endswith(".weight"):
        values += 1
    if key.endswith(".running_var"):
        values = np.abs(values) + 0.5
    return values.reshape(shape).astype(np.float32)


class Step:
    """One training step as a run makes it: `output`, `terms` and `loss`, the gradients left in the network."""

    def __init__(self, method: Any, network: torch.nn.Module, maps: Any, crop: Any, domain: Any, noise: Any = None):
        def forward(*inputs: Any) -> Any:
            self.output = network(*inputs)
            return self.output

        batch = Batch(maps, crop, domain, noise, domains=3, anchor=0)
        self.network, self.terms = network, method.losses(forward, batch, lambda z, domain: (z, domain))
        assert set(self.terms) == set(method.term_weights)
        self.loss = sum(method.term_weights[name] * term for name, term in self.terms.items())
        network.zero_grad()
        self.loss.backward()


def agrees(got: torch.Tensor, wanted: torch.Tensor, rtol: float) -> None:
    """Within `rtol` of the tensor's largest entry, on the whole tensor."""
    torch.testing.assert_close(got.detach(), wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


def gradients_agree(
    network: torch.nn.Module, stored: Mapping[str, tuple[float, list[float]]], norm_rtol: float, entry_rtol: float
) -> None:
    """All the gradients in a network against the stored [norm, first entries] of each.

    The entries may differ by `entry_rtol` times the share of the norm that as many entries have on average.
    """
    parameters = dict(network.named_parameters())
    assert set(parameters) == set(stored)
    for key, (norm, first) in stored.items():
        gradient = parameters[key].grad
        if norm < EXACTLY_ZERO:
            assert float(gradient.norm()) < 1e-6, key
            continue
        assert float(gradient.norm()) == pytest.approx(norm, rel=norm_rtol), key
        difference = float((gradient.flatten()[: len(first)] - torch.tensor(first)).norm())
        assert difference < entry_rtol * norm * (len(first) / gradient.numel()) ** 0.5, (key, difference)
