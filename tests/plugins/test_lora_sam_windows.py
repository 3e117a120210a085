"""A network on images smaller than its frame: windows of the same scale, in the middle of every table of positions."""

from __future__ import annotations

import pytest
import torch
from cellfeat_lora_sam.network import SamNetwork, standardised
from cellfeat_lora_sam.sizes import SamSizes

pytestmark = pytest.mark.usefixtures("one_thread")
# one block that attends over the whole grid, between blocks with windows of 3 tokens
SMALL = SamSizes(24, 3, 2, (1,), window=3, prompt_dim=16, decoder_mlp=8, decoder_heads=2, iou_hidden=8)


def network_of(size: int, seed: int = 0, own_colours: bool = False) -> SamNetwork:
    network, generator = SamNetwork(SMALL, size, 3, own_colours).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.ndim > 1 else 0.1))
    return network


def images_of(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(1)).byte()


def sliced(large: SamNetwork, size: int) -> SamNetwork:
    """A network made for images of `size`, whose tables are cut out of the large one's by hand."""
    small, many, few = SamNetwork(SMALL, size, 3).eval(), large.image_size // 16, size // 16
    start = (many - few) // 2
    state = dict(large.state_dict())
    inner = slice(start, start + few)
    state["image_encoder.pos_embed"] = state["image_encoder.pos_embed"][:, inner, inner]
    for axis in "hw":
        name = f"image_encoder.blocks.1.attn.rel_pos_{axis}"  # offsets 1 - many..many - 1
        state[name] = state[name][many - few : many + few - 1]
    small.load_state_dict(state)
    where = large.prompt_encoder.get_dense_pe()[:, :, inner, inner]
    small.prompt_encoder.get_dense_pe = lambda: where  # they come from a formula, not from a table
    return small


@pytest.mark.parametrize(("size", "frame"), [(64, 96), (64, 112), (48, 112)])
@torch.no_grad()
def test_a_smaller_image_meets_the_middle_of_the_tables(size, frame):
    large, images = network_of(frame), images_of(size)
    found, wanted = large(images), sliced(large, size)(images)
    assert found.tokens.shape == (2, 24, size // 16, size // 16)
    assert found.logits.shape == (2, 3, size // 4, size // 4)
    for name in ("tokens", "logits", "quality"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-4)
    own = SamNetwork(SMALL, size, 3).eval()  # tables of its own would have given something else
    state = {name: value for name, value in large.state_dict().items() if "pos" not in name}
    own.load_state_dict(state, strict=False)
    assert (own(images).tokens - found.tokens).abs().max() > 0.01


@torch.no_grad()
def test_an_image_as_large_as_the_frame_meets_the_whole_tables():
    large, images = network_of(64), images_of(64)
    torch.testing.assert_close(large(images), sliced(large, 64)(images))


@torch.no_grad()
def test_own_colours_are_each_images():
    own, fixed, images = network_of(64, own_colours=True), network_of(64), images_of(64).float()
    images[1] = images[1] * 0.3 + 20
    own.load_state_dict(fixed.state_dict())
    mean, deviation = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True, correction=0)
    given = images.clone()
    torch.testing.assert_close(standardised(images), (images - mean) / deviation, rtol=1e-5, atol=1e-5)
    assert torch.equal(images, given), "what was given stays as it was"

    standard = (images - mean) / deviation * fixed.pixel_std + fixed.pixel_mean  # seen as 0 and 1 by fixed colours
    torch.testing.assert_close(own.encode(images), fixed.encode(standard), rtol=1e-4, atol=1e-4)
    restained = images * torch.tensor([0.5, 0.8, 0.6])[:, None, None] + 20
    torch.testing.assert_close(own.encode(restained), own.encode(images), rtol=1e-4, atol=1e-4)
    assert (fixed.encode(restained) - fixed.encode(images)).abs().max() > 0.01


def test_a_flat_image_has_a_deviation_of_1():
    assert standardised(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)).abs().max() == 0
    nearly = torch.full((1, 3, 8, 8), 77.0)
    nearly[..., 0, 0] = 78
    assert standardised(nearly).max() == pytest.approx(63 / 64)
