"""AE-CFE's autoencoder, at its full size, against numbers that its authors' own program gave in one training pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cellfeat_cae import ae_cfe_network
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.ae_cfe_network import AeCfeAutoencoder
from cellfeat_cae.discrepancies import mean_covariance_distance
from parity.published import DATA, Step, agrees, fill, gradients_agree
from torch.nn.functional import avg_pool2d

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = json.loads((DATA / "ae_cfe.json").read_text())
TRAINING = REFERENCE["training"]
RTOL, GRADIENT_RTOL, ENTRY_RTOL = 1e-5, 3e-4, 1e-3
DISCREPANCY_RTOL = 3e-6  # a biased covariance moves the distances by 7e-6 and 4e-5
INPUT = (9, 256, 14, 14)


@pytest.fixture(scope="module")
def arrays() -> dict[str, torch.Tensor]:
    with np.load(DATA / "ae_cfe.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def step(arrays):
    """One training pass with the published parameters; the reference's input is on [-1, 1] as it is."""
    network = AeCfeAutoencoder()
    shapes = REFERENCE["keys"].items()
    network.load_state_dict({key: torch.from_numpy(fill(f"aecfe.{key}", shape)) for key, shape in shapes})
    maps = torch.tanh(torch.from_numpy(fill("aecfe.input", INPUT)) * float(np.sqrt(np.prod(INPUT[1:]))))
    noise = np.random.RandomState(11).uniform(0, 1, (9, 3, 128, 128)).astype(np.float32)
    crop = avg_pool2d(torch.from_numpy(noise), 9, stride=1, padding=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ae_cfe_network, "scale_maps", lambda maps: maps)
        return Step(AeCfe(), network, maps, crop, arrays["domain"])


def test_parameters_are_the_published_ones():
    state = AeCfeAutoencoder().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == REFERENCE["keys"]


def test_forward(step, arrays):
    output = step.output
    agrees(output.z, arrays["features"], RTOL)
    assert output.maps.shape == INPUT
    agrees(output.maps[:, ::8], arrays["map_out"], RTOL)
    assert output.image.shape == (9, 3, 128, 128)
    agrees(output.image[..., ::2, ::2], arrays["reconstruction"], RTOL)


def test_each_loss(step):
    # A window whose peak is elsewhere, or another padding, moves the similarity by 1.5e-4 or more.
    assert 1 - step.terms["image"].item() == pytest.approx(TRAINING["ssim_window10"], rel=RTOL)
    assert step.terms["feature"].item() == pytest.approx(TRAINING["feature_mse"], rel=RTOL)
    assert step.terms["domain"].item() == pytest.approx(sum(TRAINING["discrepancy"]), rel=RTOL)
    assert step.loss.item() == pytest.approx(TRAINING["loss"], rel=RTOL)


@pytest.mark.parametrize("other", [1, 2])
def test_discrepancy_of_each_domain(arrays, other):
    here = (arrays["domain"] == 0) | (arrays["domain"] == other)
    distance = mean_covariance_distance(arrays["features"][here], arrays["domain"][here], domains=3, anchor=0)
    assert distance.item() == pytest.approx(TRAINING["discrepancy"][other - 1], rel=DISCREPANCY_RTOL)


def test_every_gradient(step):
    gradients_agree(step.network, TRAINING["gradients"], GRADIENT_RTOL, ENTRY_RTOL)
