"""The autoencoder against numbers that DoRL's own program gave for a small network of the same pattern."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cellfeat_cae.cae import Cae
from cellfeat_cae.network import CrossDomainAutoencoder, as_tokens
from cellfeat_cae.train import rate_factor
from parity.published import DATA, EXACTLY_ZERO, Step, agrees, fill

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = json.loads((DATA / "cae.json").read_text())
SCHEDULES = json.loads((DATA / "schedules.json").read_text())
TRAINING = REFERENCE["training"]
RTOL, GRADIENT_RTOL = 1e-4, 1e-3
WARMUP = 500  # iterations, in both programs


def published_key(key: str) -> str:
    """The name of one of our tensors in the original program."""
    names = {
        "image_head.": "decoder.head.",
        "projector.": "decoder.Linear.",
        ".position": ".pos_embedding",
        ".blocks.": ".transformer.",
        "encoder.norm.": "encoder.layer_norm.",
    }
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def tokens_first(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Positions are (tokens, 1, channels) in the original and (1, tokens, channels) here."""
    return tensor.transpose(0, 1) if key.endswith("position") else tensor


@pytest.fixture(scope="module")
def arrays() -> dict[str, torch.Tensor]:
    with np.load(DATA / "cae.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def network() -> CrossDomainAutoencoder:
    network = CrossDomainAutoencoder(48, heads=4, encoder_depth=3, decoder_depth=2, head_width=512, latent=50)
    keys = {key: published_key(key) for key in network.state_dict()}
    assert set(keys.values()) == set(REFERENCE["keys"])
    filled = {key: torch.from_numpy(fill(f"cae.{old}", REFERENCE["keys"][old])) for key, old in keys.items()}
    network.load_state_dict({key: tokens_first(key, tensor) for key, tensor in filled.items()})
    return network


@pytest.fixture(scope="module")
def step(network, arrays):
    """One masked training step with the published parameters and the shuffle of the reference."""
    noise = arrays["masked_restore"].T.float()  # numbers whose order is the reference's shuffle
    assert torch.equal(noise.argsort(dim=1), arrays["masked_order"].T)
    return Step(Cae(), network, arrays["input"], arrays["crop"], arrays["domain"], noise)


def test_unmasked_forward(network, arrays):
    tokens = as_tokens(arrays["input"])
    with torch.no_grad():
        encoded, output = network.encoder(tokens), network(tokens)
    agrees(encoded, arrays["tokens"], RTOL)
    agrees(encoded[:, 0], arrays["cls_feature"], RTOL)
    agrees(output.tokens.transpose(1, 2), arrays["feature_out"], RTOL)
    agrees(output.image, arrays["reconstruction"], RTOL)
    agrees(output.z, arrays["z"], RTOL)


def test_layer_norm_epsilons_are_the_originals(network, arrays):
    with torch.no_grad():
        encoded = network.encoder(as_tokens(arrays["input"]))
    assert float((encoded - arrays["tokens"]).abs().max()) < 2e-6  # swapping 1e-5 and 1e-6 moves them by more


def test_masked_forward(step, arrays):
    output = step.output
    agrees(output.tokens.transpose(1, 2), arrays["masked_feature_out"], RTOL)
    agrees(output.image, arrays["masked_reconstruction"], RTOL)
    agrees(output.z, arrays["masked_z"], RTOL)


def test_each_loss(step):
    assert 1 - step.terms["image"].item() == pytest.approx(TRAINING["ssim"], rel=RTOL)
    assert step.terms["domain"].item() == pytest.approx(TRAINING["domain_mean_term"], rel=RTOL)
    assert step.terms["feature"].item() == pytest.approx(TRAINING["feature_mse"], rel=RTOL)
    assert step.loss.item() == pytest.approx(TRAINING["loss"], rel=RTOL)


def test_every_gradient(network, step):
    assert len(TRAINING["gradients"]) == len(list(network.parameters()))
    for key, parameter in network.named_parameters():
        norm, first = TRAINING["gradients"][published_key(key)]
        gradient = tokens_first(key, parameter.grad)
        if norm < EXACTLY_ZERO:
            assert float(gradient.norm()) < 1e-6, key
            continue
        assert float(gradient.norm()) == pytest.approx(norm, rel=GRADIENT_RTOL), key
        difference = gradient.flatten()[: len(first)] - torch.tensor(first)
        assert float(difference.norm()) < GRADIENT_RTOL * norm, key


@pytest.mark.parametrize("method", ["cae", "bc_sam"])
def test_learning_rate_schedule(method):
    """DoRL's schedule, and BC-SAM's, which breaks off early: at 9 % of the base rate."""
    schedule = SCHEDULES[method]
    for iteration, rate in schedule["rows"]:
        factor = rate_factor(iteration, warmup=WARMUP, total=schedule["max_iteration"])
        assert schedule["base"] * factor == pytest.approx(rate, rel=1e-6), iteration
