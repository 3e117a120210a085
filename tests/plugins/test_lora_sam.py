"""LoRA-SAM as backbone and segmenter: network, weights, adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.adapter import add_lora, fuse_qkv
from cellfeat_lora_sam.checkpoints import (
    SamWeights,
    build_network,
    fit_positions,
    read_weights,
    save_weights,
    split_qkv,
    with_cell_decoder,
)
from cellfeat_lora_sam.network import SAM_MASKS, SamNetwork, best_mask
from cellfeat_lora_sam.prompt import nucleus_points
from cellfeat_lora_sam.sizes import BUILDS, SamSizes
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from cellfeat import CellfeatError, find_weights, synthetic
from cellfeat.testing import check_backbone, check_segmenter, toy_images

SMALL = SamSizes(24, 3, 2, (1,), window=3, prompt_dim=16, decoder_mlp=8, decoder_heads=2, iou_hidden=8)


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Parameters that leave nothing at zero (SAM starts its positions there)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.ndim > 1 else 0.1))


def published_sam(sizes: SamSizes, image_size: int, masks: int = SAM_MASKS) -> Sam:
    """The same sizes built by the package itself, with fused qkv."""
    grid = image_size // 16
    encoder = ImageEncoderViT(
        image_size,
        16,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        out_chans=sizes.prompt_dim,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=sizes.window,
        global_attn_indexes=sizes.global_blocks,
    )
    prompts = PromptEncoder(sizes.prompt_dim, (grid, grid), (image_size, image_size), 16)
    transformer = TwoWayTransformer(sizes.decoder_depth, sizes.prompt_dim, sizes.decoder_heads, sizes.decoder_mlp)
    decoder = MaskDecoder(
        transformer_dim=sizes.prompt_dim,
        transformer=transformer,
        num_multimask_outputs=masks - 1,
        iou_head_hidden_dim=sizes.iou_hidden,
    )
    sam = Sam(encoder, prompts, decoder).eval()
    randomise(sam)
    return sam


def ours(sam: Sam, sizes: SamSizes, image_size: int) -> SamNetwork:
    network = SamNetwork(sizes, image_size, SAM_MASKS).eval()
    missing, unexpected = network.load_state_dict(split_qkv(sam.state_dict()), strict=False)
    assert (missing, unexpected) == (["pixel_mean", "pixel_std"], [])
    return network


@pytest.mark.parametrize("image_size", [64, 112])  # grids of 4 and 7: windows of 3 have to be padded
@torch.no_grad()
def test_network_equals_the_published_modules(image_size):
    sam = published_sam(SMALL, image_size)
    network = ours(sam, SMALL, image_size)
    images = toy_images(3, image_size)
    normalised = (images.float() - sam.pixel_mean) / sam.pixel_std
    output = network(images)
    torch.testing.assert_close(network.image_encoder.neck(output.tokens), sam.image_encoder(normalised))
    places = torch.tensor([[image_size / 2 - 0.5] * 2, [3.0, 20.0], [41.0, 12.5]])
    prompted = network.forward_points(images, places)
    for prompt, batch in ((False, output), (True, prompted)):
        for index in range(3):
            points = (places[index].view(1, 1, 2), torch.ones(1, 1)) if prompt else None
            sparse, dense = sam.prompt_encoder(points, None, None)
            one = sam.image_encoder(normalised[index : index + 1])
            where = sam.prompt_encoder.get_dense_pe()
            logits, quality = sam.mask_decoder.predict_masks(one, where, sparse, dense)
            torch.testing.assert_close(batch.logits[index], logits[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(batch.quality[index], quality[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_fused_projection_gives_the_numbers_of_the_split_one():
    network = ours(published_sam(SMALL, 64), SMALL, 64)
    images = toy_images(2, 64)
    before = network(images).tokens
    fuse_qkv(network)
    assert isinstance(network.image_encoder.blocks[0].attn.qkv, torch.nn.Linear)
    torch.testing.assert_close(network(images).tokens, before, rtol=1e-5, atol=1e-5)


def test_lora_reaches_query_and_value_only_with_the_published_counts():
    with torch.device("meta"):
        network = SamNetwork(BUILDS["vit_b"])
        add_lora(network)
    adapted = {name for name, _ in network.image_encoder.named_parameters() if "lora" in name}
    assert {name.split(".qkv.")[1].split(".")[0] for name in adapted} == {"q", "v"}
    lora = sum(value.numel() for value in network.image_encoder.parameters() if value.requires_grad)
    assert lora == 147_456
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == 3_931_374


def test_a_fresh_adapter_changes_nothing():
    network = ours(published_sam(SMALL, 64), SMALL, 64)
    images = toy_images(1, 64)
    with torch.no_grad():
        before = network(images).tokens
        lora = add_lora(network)
        assert torch.equal(network(images).tokens, before)
    assert lora.peft_config["default"].lora_alpha == lora.peft_config["default"].r == 4


@pytest.mark.parametrize("build", ["vit_b", "vit_l", "vit_h"])
def test_positions_of_every_build_are_fitted_to_another_size(build):
    sizes = replace(BUILDS[build], embed_dim=2 * BUILDS[build].heads)
    with torch.device("meta"):
        state = SamNetwork(sizes, 1024, SAM_MASKS).state_dict()
    state = {name: torch.randn(value.shape) for name, value in state.items() if "pos" in name}
    fitted = fit_positions(state, sizes, 224)
    assert fitted["image_encoder.pos_embed"].shape == (1, 14, 14, sizes.embed_dim)
    for block in range(sizes.depth):
        assert len(fitted[f"image_encoder.blocks.{block}.attn.rel_pos_h"]) == 27
    untouched = fit_positions(state, sizes, 1024)
    assert all(torch.equal(untouched[name], value) for name, value in state.items())


def authors_global_blocks(depth: int) -> set[int]:
    """The blocks that DoRL's loader takes for global ones: any with one of these numbers in its name."""
    return {block for block in range(depth) if any(mark in f"blocks.{block}." for mark in ("2", "5", "8", "11"))}


@pytest.mark.parametrize("image_size", [160, 224, 1024])
@pytest.mark.parametrize("build", ["vit_b", "vit_l", "vit_h"])
def test_official_files_are_resampled_in_the_global_blocks_of_their_own_build(build, image_size, tmp_path, monkeypatch):
    sizes = replace(SMALL, embed_dim=8, depth=BUILDS[build].depth, global_blocks=BUILDS[build].global_blocks, window=14)
    monkeypatch.setitem(BUILDS, "narrow", sizes)
    published = write_published(tmp_path / "sam.pth", sizes=sizes).state_dict()
    fitted = build_network(read_weights(tmp_path / "sam.pth"), image_size).state_dict()
    rows = 2 * image_size // 16 - 1
    resampled = set()
    for block in range(sizes.depth):
        name = f"image_encoder.blocks.{block}.attn.rel_pos_h"
        before, after = published[name].numpy(), fitted[name].numpy()
        if before.shape != after.shape:
            resampled.add(block)
            at = ((np.arange(rows) + 0.5) * len(before) / rows - 0.5).clip(0, len(before) - 1)
            wanted = [np.interp(at, np.arange(len(before)), column) for column in before.T]
            np.testing.assert_allclose(after, np.stack(wanted, axis=1), atol=1e-5)
        else:
            assert np.array_equal(before, after)
    assert resampled == (set() if image_size == 1024 else set(sizes.global_blocks))
    assert (authors_global_blocks(sizes.depth) == set(sizes.global_blocks)) == (build == "vit_b")


@pytest.fixture(scope="module")
def cell_tiny() -> LoraSam:
    return LoraSam()


def test_cell_tiny_ships_with_its_digest_and_says_what_it_saw(cell_tiny):
    named = LoraSam.named_weights["cell-tiny"]
    path = find_weights("cell-tiny", LoraSam.named_weights, offline=True)
    assert named.digest == f"sha256:{cell_tiny.weights_sha256}"
    assert path.stat().st_size == pytest.approx(named.size_mb * 1e6, rel=0.05)
    weights = read_weights(path)
    assert weights.sizes is BUILDS["tiny"]
    assert tuple(weights.meta["saw"]) == named.saw == cell_tiny.weights_saw
    assert weights.meta["steps"] == weights.meta["config"]["steps"], "an interim file was shipped"


def test_the_name_without_a_version_is_the_newest(cell_tiny):
    numbered = LoraSam(weights="cell-tiny-v1")
    assert numbered.weights_sha256 == cell_tiny.weights_sha256
    assert numbered.weights_saw == cell_tiny.weights_saw


def test_contracts(cell_tiny):
    check_backbone(lambda: cell_tiny)
    check_segmenter(lambda: cell_tiny)
    check_segmenter(lambda: cell_tiny, size=90)


@pytest.mark.parametrize("image_size", [224, 160])
def test_shapes_and_batches(image_size):
    backbone = LoraSam(image_size=image_size)
    images = toy_images(3, image_size)
    features = backbone.encode(images)
    assert features.embedding.shape == (3, 192, image_size // 16, image_size // 16)
    assert features.embedding.dtype == torch.float32
    assert features.mask.shape == (3, image_size, image_size)
    assert features.mask.dtype == torch.bool
    for index in range(3):
        alone = backbone.encode(images[index : index + 1])
        torch.testing.assert_close(alone.embedding[0], features.embedding[index], rtol=1e-5, atol=1e-5)
        assert (alone.mask[0] != features.mask[index]).float().mean() < 1e-4


def test_cell_tiny_finds_fresh_synthetic_cells(cell_tiny):
    rng = np.random.default_rng(77)
    drawn = [
        synthetic.draw_cell(label, synthetic.random_laboratory(rng), rng, size=224) for label in synthetic.CLASSES * 3
    ]
    images = torch.from_numpy(np.stack([cell.image for cell in drawn])).permute(0, 3, 1, 2)
    truth = torch.from_numpy(np.stack([cell.mask for cell in drawn])) > 0
    mask = cell_tiny.segment(images)
    overlap = (mask & truth).sum((1, 2)) / (mask | truth).sum((1, 2))
    assert overlap.mean() > 0.8  # stains, lights and crowds beyond any real laboratory's


def test_segmenting_another_frame_gives_a_mask_of_that_frame(cell_tiny):
    cell = synthetic.draw_cell("neutrophil", "lab-a", np.random.default_rng(3), size=300)
    mask = cell_tiny.segment(torch.from_numpy(cell.image).permute(2, 0, 1)[None])[0].numpy()
    truth = cell.mask > 0
    assert mask.shape == (300, 300)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_bfloat16_is_close_and_on_request_only(cell_tiny, context):
    images = toy_images(2)
    exact = cell_tiny.encode(images).embedding
    half = LoraSam(context=replace(context, dtype=torch.bfloat16)).encode(images).embedding
    assert half.dtype == torch.float32
    error = (half - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.05


def write_published(path: Path, masks: int = SAM_MASKS, sizes: SamSizes = BUILDS["tiny"]) -> Sam:
    """A checkpoint in Meta's layout, for images of 1024 px."""
    sam = published_sam(sizes, 1024, masks)
    torch.save(sam.state_dict(), path)
    return sam


def test_published_weights_are_prompted_with_each_nucleus_and_the_run_says_so(tmp_path, context):
    sam = write_published(tmp_path / "sam.pth")
    backbone = LoraSam(weights=str(tmp_path / "sam.pth"), image_size=64, context=context)
    assert [note for note in context.reporter.notes if "one point in each image's main nucleus" in note]
    assert backbone.weights_saw is None
    weights = SamWeights(split_qkv(sam.state_dict()), BUILDS["tiny"], {})
    network = ours_at(weights, 64)
    images = toy_images(2, 64)
    images[1] = images[1].roll((9, -12), (1, 2))
    points = nucleus_points(images)
    assert (points[1] - points[0]).abs().min() > 5
    features = backbone.encode(images)
    with torch.no_grad():
        output = network.forward_points(images, points)
    torch.testing.assert_close(features.embedding, output.tokens, rtol=1e-4, atol=1e-4)
    assert torch.equal(features.mask, best_mask(output.logits, output.quality, 64))


def ours_at(weights: SamWeights, image_size: int) -> SamNetwork:
    state = weights.state | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    network = build_network(weights._replace(state=state), image_size).eval()
    network.pixel_mean.copy_(torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
    network.pixel_std.copy_(torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1))
    return network


def test_best_mask_follows_the_predicted_quality_and_skips_the_unambiguous_one():
    logits = torch.full((2, 4, 4, 4), -1.0)
    logits[0, 2] = logits[1, 3] = 1.0
    quality = torch.tensor([[9.0, 0.1, 0.8, 0.3], [9.0, 0.1, 0.2, 0.3]])
    assert best_mask(logits, quality, 16).all()
    assert not best_mask(logits, quality.flip(1), 16).all()


def test_fresh_two_class_decoder_is_seeded_and_keeps_the_rest(tmp_path):
    write_published(tmp_path / "sam.pth")
    base = read_weights(tmp_path / "sam.pth")
    first, again, other = (with_cell_decoder(base, seed) for seed in (1, 1, 2))
    assert (base.masks, first.masks) == (4, 2)
    changed = {name for name in first.state if name not in base.state or first.state[name] is not base.state[name]}
    assert {name.split(".")[1] for name in changed} == {
        "mask_tokens",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
    }
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert not torch.equal(
        first.state["mask_decoder.mask_tokens.weight"], other.state["mask_decoder.mask_tokens.weight"]
    )
    assert with_cell_decoder(first, 3) is first


def test_training_checkpoints_of_micro_sam_are_unwrapped(tmp_path):
    sam = write_published(tmp_path / "sam.pth")
    torch.save({"model_state": {f"sam.{name}": value for name, value in sam.state_dict().items()}}, tmp_path / "lm.pt")
    own = {"model_state": sam.state_dict(), "decoder_state": {"decoder.0": torch.ones(2)}, "optimizer_state": {"lr": 1}}
    torch.save(own, tmp_path / "exported.pt")
    plain = read_weights(tmp_path / "sam.pth")
    for name in ("lm.pt", "exported.pt"):
        wrapped = read_weights(tmp_path / name)
        assert wrapped.state.keys() == plain.state.keys()
        assert all(torch.equal(wrapped.state[part], value) for part, value in plain.state.items())


def test_the_light_microscopy_weights_are_micro_sams():
    """Address and digest as micro-sam's own registry has them."""
    base = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
    said = {
        "vit_b_lm": (f"{base}/diplomatic-bug/1.2/files/vit_b.pt", "xxh128:fe9252a29f3f4ea53c15a06de471e186"),
        "vit_l_lm": (f"{base}/idealistic-rat/1.2/files/vit_l.pt", "xxh128:017f20677997d628426dec80a8018f9d"),
    }
    ours = {name: LoraSam.named_weights[name] for name in said}
    assert {name: (*weights.urls, weights.digest) for name, weights in ours.items()} == said


@pytest.mark.parametrize(
    ("weights", "instead"), [("vit_t", "vit_b"), ("vit_t_lm", "vit_b_lm"), ("vit_t_em_organelles", "vit_b_lm")]
)
def test_weights_of_mobile_sam_are_refused_by_name_with_the_reason(weights, instead, context, tmp_path):
    asked = (
        lambda: LoraSam(weights=weights),
        lambda: LoraSam.facts(weights=weights, adapter=None, image_size=224, passes=1, context=context),
        lambda: LoraSam.finetune([], tmp_path, context=context, weights=weights),
    )
    for ask in asked:
        with pytest.raises(CellfeatError, match=f"{weights}' cannot be used: .* TinyViT.*Take {instead}$"):
            ask()


def test_a_file_of_mobile_sam_is_refused_with_the_reason(tmp_path):
    torch.save({"image_encoder.layers.0.blocks.0.conv1.c.weight": torch.zeros(1)}, tmp_path / "mobile.pt")
    with pytest.raises(
        CellfeatError, match=r"mobile\.pt' cannot be used: their encoder is MobileSAM's TinyViT.*vit_b_lm"
    ):
        LoraSam(weights=str(tmp_path / "mobile.pt"))


def test_weights_survive_saving(tmp_path):
    network = SamNetwork(BUILDS["tiny"], 224)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"saw": ["nothing"], "build": "tiny"})
    backbone = LoraSam(weights=str(tmp_path / "w.safetensors"))
    assert backbone.weights_saw == ("nothing",)
    images = toy_images(1)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(value.half())
        expected = network(images).tokens
    torch.testing.assert_close(backbone.encode(images).embedding, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_size": 225}, "image_size is 225; possible are multiples of 16"),
        ({"image_size": 16}, "image_size is 16"),
        ({"weights": "vit_q"}, "no weights named 'vit_q'. Did you mean 'vit_"),
        ({"adapter": "/nowhere"}, "no adapter at /nowhere: a folder made by"),
    ],
)
def test_mistakes_in_the_parameters(params, message):
    with pytest.raises(CellfeatError, match=message):
        LoraSam(**params)


def test_files_that_are_no_sam(tmp_path):
    save_file({"conv.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CellfeatError, match=r"is no SAM checkpoint: .*image_encoder.*conv\.weight"):
        LoraSam(weights=str(tmp_path / "other.safetensors"))
    write_published(tmp_path / "small.pth", sizes=SMALL)
    with pytest.raises(CellfeatError, match=r"24 wide and 3 deep and 4 mask tokens; possible are .*vit_b 768 x 12"):
        LoraSam(weights=str(tmp_path / "small.pth"))
    sam = published_sam(BUILDS["tiny"], 1024)
    state = sam.state_dict()
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(CellfeatError, match=r"do not fit the network.*iou_token"):
        LoraSam(weights=str(tmp_path / "short.pth"))


def test_wrong_images_are_refused(cell_tiny):
    with pytest.raises(CellfeatError, match=r"takes \(B, 3, 224, 224\), RGB"):
        cell_tiny.encode(toy_images(1, 160))


def test_official_weights_are_not_fetched_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    with pytest.raises(CellfeatError, match="cellfeat weights fetch vit_b"):
        LoraSam(weights="vit_b")


def test_the_registry_names_every_promised_weight():
    named = LoraSam.named_weights
    assert set(named) == {"cell-tiny", "cell-tiny-v1", "vit_b", "vit_l", "vit_h", "vit_b_lm", "vit_l_lm"}
    assert all(name == weights.name and weights.licence for name, weights in named.items())
    assert all(weights.urls or weights.path for weights in named.values())


def test_importing_the_plugin_loads_nothing_heavy():
    script = (
        "import sys, json, inspect, cellfeat_lora_sam, cellfeat_lora_sam.commands\n"
        "inspect.signature(cellfeat_lora_sam.LoraSam)\n"
        "print(json.dumps([m for m in ('torch', 'peft', 'segment_anything', 'scipy', 'cv2') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
