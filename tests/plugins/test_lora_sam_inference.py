"""Inference blocks of LoRA-SAM: the numbers of the training network, by packed layers or plain ones, at any grid."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from cellfeat_lora_sam import attention, inference
from cellfeat_lora_sam.adapter import fuse_qkv
from cellfeat_lora_sam.network import SamNetwork
from cellfeat_lora_sam.sizes import SamSizes
from segment_anything.modeling.image_encoder import window_partition

from cellfeat.training import seeded

SIZES = SamSizes(32, 3, 2, (1,), window=3, prompt_dim=32, decoder_mlp=32, decoder_heads=1, iou_hidden=16)


def network(image_size: int, own_colours: bool = False) -> SamNetwork:
    """Random numbers everywhere, also where SAM begins with zeros; no part of the answer is small."""
    with seeded(0):
        made = SamNetwork(SIZES, image_size, 2, own_colours)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made.eval().requires_grad_(False)


def images(side: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("side", [48, 80, 112])  # windows that are the whole grid, padded ones, and padded more
def test_inference_blocks_give_the_numbers_of_training(side, packed, monkeypatch):
    plain, fast = network(side), network(side)
    for each in (plain, fast):
        fuse_qkv(each)
    if packed and not inference.packing_is_right(torch.float32):
        pytest.skip("this processor has no packed layers")
    monkeypatch.setattr(inference, "packing_is_right", lambda dtype: packed)
    inference.prepare(fast, torch.float32)
    kinds = {type(block.lin1) for block in fast.image_encoder.blocks}
    assert kinds == {inference.PackedLinear if packed else inference.PlainLinear}
    with torch.inference_mode():
        for _ in range(2):  # positions are kept from the first time on
            wanted, found = plain(images(side)), fast(images(side))
            for one, other in zip(wanted, found, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_a_window_of_the_whole_grid_is_not_cut_out(monkeypatch):
    whole, parted = network(48), network(80)
    calls = []
    monkeypatch.setattr(
        inference, "window_partition", lambda tokens, size: calls.append(size) or window_partition(tokens, size)
    )
    for made, expected in ((whole, 0), (parted, 2)):  # of three blocks one is global
        calls.clear()
        fuse_qkv(made)
        inference.prepare(made, torch.float32)
        with torch.inference_mode():
            made(images(made.image_size))
        assert len(calls) == expected


def test_bfloat16_differs_by_its_own_rounding():
    plain, fast = network(48), network(48)
    for each in (plain, fast):
        fuse_qkv(each)
    inference.prepare(fast, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = fast.encode(images(48))
    with torch.inference_mode():
        wanted = plain.encode(images(48))
    assert found.dtype == torch.bfloat16
    error = (found.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert 1e-5 < error < 0.05


def test_half_precision_keeps_the_networks_own_blocks_whose_sums_are_float32():
    made = network(48)
    before = [type(block) for block in made.image_encoder.blocks]
    inference.prepare(made, torch.float16)
    assert [type(block) for block in made.image_encoder.blocks] == before


def test_nothing_of_the_blocks_that_were_replaced_is_kept():
    made = network(48)
    fuse_qkv(made)
    layers = [weakref.ref(block.attn.proj) for block in made.image_encoder.blocks]
    inference.prepare(made, torch.bfloat16)
    if inference.packing_is_right(torch.bfloat16):
        gc.collect()
        assert [layer() for layer in layers] == [None] * 3


@pytest.mark.slow
def test_the_compiled_network_gives_the_same_numbers():
    plain, fast = network(48), network(48)
    for each in (plain, fast):
        fuse_qkv(each)
    inference.prepare(fast, torch.float32, compiled=True)
    with torch.inference_mode():
        for _ in range(2):
            wanted, found = plain(images(48)), fast(images(48))
            for one, other in zip(wanted, found, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_what_computes_wrongly_is_not_trusted(monkeypatch):
    inference.packing_is_right.cache_clear()
    monkeypatch.setattr(inference.PackedLinear, "gelu", lambda self, tokens: self(tokens))
    assert not inference.packing_is_right(torch.float32)
    inference.packing_is_right.cache_clear()

    class Absent:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(inference, "_onednn", Absent)
    assert not inference.packing_is_right(torch.float32)
    assert not inference.packing_is_right(torch.float16)
    inference.packing_is_right.cache_clear()


def test_the_probe_draws_no_number_of_the_process():
    inference.packing_is_right.cache_clear()
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    inference.packing_is_right(torch.float32)
    assert torch.rand(1) == wanted


@pytest.mark.parametrize("grid", [(5, 5), (4, 7)])
def test_attention_without_its_weights_is_the_same(grid, monkeypatch):
    height, width = grid
    with seeded(0):
        layer = attention.SplitAttention(16, 2, (7, 7))
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, height, width, 16, generator=torch.Generator().manual_seed(2))
    wanted = layer(tokens)
    monkeypatch.setattr(attention, "LONG", 0)
    found = layer(tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    one, other = (torch.autograd.grad(value.square().sum(), layer.rel_pos_h)[0] for value in (wanted, found))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
