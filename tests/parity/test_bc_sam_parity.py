"""BC-SAM's autoencoder, at its full size, against numbers that its authors' own program gave."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.bc_sam_network import BcSamAutoencoder
from parity.published import DATA, Step, agrees, fill, gradients_agree

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = json.loads((DATA / "bc_sam_ae.json").read_text())
TRAINING = REFERENCE["training"]
RTOL, GRADIENT_RTOL = 1e-5, 3e-4
ENTRY_RTOL = 3e-3  # the stored entries themselves lie up to 1.3e-3 from the same gradients in float64
INPUT = (4, 768, 14, 14)


@pytest.fixture(scope="module")
def arrays() -> dict[str, torch.Tensor]:
    with np.load(DATA / "bc_sam_ae.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.from_numpy(fill("bcsam.input", INPUT)) * float(np.sqrt(np.prod(INPUT[1:])))


def filled() -> BcSamAutoencoder:
    network = BcSamAutoencoder()
    published = {
        key: torch.from_numpy(fill(f"bcsam.{key}", shape)) for key, shape in REFERENCE["keys"].items() if shape
    }
    counters = {key: torch.tensor(0) for key, shape in REFERENCE["keys"].items() if not shape}
    network.load_state_dict(published | counters)
    return network


@pytest.fixture(scope="module")
def step(maps, arrays):
    """One training step with the published parameters."""
    return Step(BcSamAe(), filled().train(), maps, arrays["crop"], arrays["domain"])


def test_parameters_are_the_published_ones():
    state = BcSamAutoencoder().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == REFERENCE["keys"]


def test_evaluation(maps, arrays):
    network = filled().eval()
    with torch.no_grad():
        output = network(maps)
    agrees(output.z, arrays["features"], RTOL)
    assert output.image.shape == (4, 3, 128, 128)
    agrees(output.image[..., ::2, ::2], arrays["reconstruction"], RTOL)


def test_features_in_training(step, arrays):
    agrees(step.output.z, arrays["train_features"], RTOL)


def test_each_loss(step):
    assert 1 - step.terms["image"].item() == pytest.approx(TRAINING["ssim"], rel=RTOL)
    assert step.terms["domain"].item() == pytest.approx(TRAINING["domain_mean_term"], rel=RTOL)
    assert step.loss.item() == pytest.approx(TRAINING["loss"], rel=RTOL)


def test_every_gradient(step):
    gradients_agree(step.network, TRAINING["gradients"], GRADIENT_RTOL, ENTRY_RTOL)
