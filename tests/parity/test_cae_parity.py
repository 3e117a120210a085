"""The autoencoder against numbers that DoRL's own program gave for a small network of the same pattern."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_cae.losses import loss_terms
from cellfeat_cae.network import CrossDomainAutoencoder, as_tokens
from cellfeat_cae.train import rate_factor

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "cae.json").read_text())
TRAINING = REFERENCE["training"]
RTOL, GRADIENT_RTOL = 1e-4, 1e-3
EXACTLY_ZERO = 1e-7  # a stored gradient norm below this is rounding

# [iteration from 1, learning rate] of the authors' schedule: 500 of 155,700 iterations warm up to 1e-4
SCHEDULE = [
    (1, 2.0000000000000002e-07),
    (250, 5e-05),
    (500, 0.0001),
    (501, 9.9999999989822e-05),
    (10000, 9.908424442021172e-05),
    (77850, 5.050442186287212e-05),
    (155200, 1.0177656629734023e-08),
    (155700, 2.5444789011619397e-09),
]


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


def fill(key: str, shape: list[int]) -> np.ndarray:
    """The rule by which the reference filled its parameters."""
    scale = 0.1 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
    random = np.random.RandomState(zlib.crc32(key.encode()))
    values = random.standard_normal(int(np.prod(shape))) * scale
    if len(shape) == 1 and key.endswith(".weight"):
        values += 1
    return values.reshape(shape).astype(np.float32)


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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other make small networks slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def step(network, arrays):
    """One masked training step with the shuffle of the reference: (output, terms, loss), gradients left in place."""
    tokens = as_tokens(arrays["input"])
    network.zero_grad()
    output = network(tokens, arrays["masked_order"].T, 49)
    terms = loss_terms(output, tokens, arrays["crop"], arrays["domain"], domains=3, anchor=0)
    loss = terms.image + 2 * terms.domain + terms.feature
    loss.backward()
    return output, terms, loss


def agrees(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within RTOL of the tensor's largest entry, on the whole tensor."""
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.detach(), wanted, rtol=RTOL, atol=RTOL * float(wanted.abs().max()))


def test_unmasked_forward(network, arrays):
    tokens = as_tokens(arrays["input"])
    with torch.no_grad():
        encoded, output = network.encoder(tokens), network(tokens)
    agrees(encoded, arrays["tokens"])
    agrees(encoded[:, 0], arrays["cls_feature"])
    agrees(output.tokens.transpose(1, 2), arrays["feature_out"])
    agrees(output.image, arrays["reconstruction"])
    agrees(output.z, arrays["z"])


def test_layer_norm_epsilons_are_the_originals(network, arrays):
    with torch.no_grad():
        encoded = network.encoder(as_tokens(arrays["input"]))
    assert float((encoded - arrays["tokens"]).abs().max()) < 2e-6  # swapping 1e-5 and 1e-6 moves them by more


def test_masked_forward(step, arrays):
    output = step[0]
    agrees(output.tokens.transpose(1, 2), arrays["masked_feature_out"])
    agrees(output.image, arrays["masked_reconstruction"])
    agrees(output.z, arrays["masked_z"])


def test_each_loss(step):
    _, terms, loss = step
    assert 1 - terms.image.item() == pytest.approx(TRAINING["ssim"], rel=RTOL)
    assert terms.domain.item() == pytest.approx(TRAINING["domain_mean_term"], rel=RTOL)
    assert terms.feature.item() == pytest.approx(TRAINING["feature_mse"], rel=RTOL)
    assert loss.item() == pytest.approx(TRAINING["loss"], rel=RTOL)


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


@pytest.mark.parametrize(("iteration", "rate"), SCHEDULE)
def test_learning_rate_schedule(iteration, rate):
    assert 1e-4 * rate_factor(iteration, warmup=500, total=155_700) == pytest.approx(rate, rel=1e-6)
