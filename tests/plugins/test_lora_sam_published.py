"""Checkpoints of DoRL's authors to adapters and back: bit for bit, and every file that is none refused in one line."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.checkpoints import read_weights
from cellfeat_lora_sam.described import read_about
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from cellfeat_lora_sam.network import SamNetwork
from cellfeat_lora_sam.published import MEAN, SAW, STD
from cellfeat_lora_sam.sizes import BUILDS, SamSizes
from helpers import with_nucleus, without_nucleus

from cellfeat import CellfeatError, find_weights, synthetic
from cellfeat.exchange import export_file, import_file
from cellfeat.registry import installed
from cellfeat.testing import cpu_context, toy_images

TINY = BUILDS["tiny"]
SIZE = 64


def checkpoint(sizes: SamSizes = TINY, rank: int = 4) -> dict[str, torch.Tensor]:
    """Random numbers under the names and in the order of the authors' program, LoRA as parameters."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    numbers = [f"{number:03d}" for number in range(2 * sizes.depth)]
    content = {f"w_a_{number}": torch.nn.Parameter(drawn(rank, sizes.embed_dim)) for number in numbers}
    content |= {f"w_b_{number}": torch.nn.Parameter(drawn(sizes.embed_dim, rank)) for number in numbers}
    with torch.device("meta"):
        state = SamNetwork(sizes).state_dict()
    return content | {
        name: drawn(*value.shape)
        for part in ("prompt_encoder.", "mask_decoder.")
        for name, value in state.items()
        if name.startswith(part)
    }


def imported(tmp_path: Path, content: object, *options: str, base: str = "cell-tiny") -> Path:
    """The folder made from what an authors' file holds."""
    torch.save(content, tmp_path / "epoch_85.pth")
    import_file(installed(), "dorl", tmp_path / "epoch_85.pth", tmp_path / "adapter", [f"base={base}", *options])
    return tmp_path / "adapter"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return imported(tmp_path_factory.mktemp("imported"), checkpoint())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_import_and_export_give_the_identical_file_content(adapter, tmp_path):
    said = export_file(installed(), "dorl", adapter, tmp_path / "again.pth")
    assert same(torch.load(tmp_path / "again.pth", weights_only=True), checkpoint())
    assert f"pixel mean {list(MEAN)} and std {list(STD)}" in said
    assert "cell-tiny" in said
    assert "rank" not in said


def test_another_rank_and_names_from_several_gpus(tmp_path):
    content = checkpoint(rank=3)
    folder = imported(tmp_path, {f"module.{name}": value for name, value in content.items()})
    assert json.loads((folder / "lora" / "adapter_config.json").read_text())["r"] == 3
    assert "(its rank is 4, but this adapter's 3)" in export_file(installed(), "dorl", folder, tmp_path / "again.pth")
    assert same(torch.load(tmp_path / "again.pth", weights_only=True), content)


def test_the_products_are_added_to_query_and_value_in_block_order(adapter):
    path = find_weights("cell-tiny", NAMED_WEIGHTS)
    base, content = read_weights(path).state, checkpoint()
    network = load_network(path, str(adapter), SIZE)
    for block in range(TINY.depth):
        query, key, value = network.image_encoder.blocks[block].attn.qkv.weight.chunk(3)
        for number, part, got in ((2 * block, "q", query), (None, "k", key), (2 * block + 1, "v", value)):
            wanted = base[f"image_encoder.blocks.{block}.attn.qkv.{part}.weight"]
            if number is not None:
                wanted = wanted + content[f"w_b_{number:03d}"].detach() @ content[f"w_a_{number:03d}"].detach()
            torch.testing.assert_close(got, wanted)


def test_the_backbone_takes_the_folder_and_says_what_was_seen(adapter):
    backbone = LoraSam(adapter=str(adapter), image_size=SIZE)
    assert backbone.weights_saw == (*NAMED_WEIGHTS["cell-tiny"].saw, SAW)
    assert backbone._network.pixel_mean.flatten().tolist() == pytest.approx(MEAN)
    assert backbone._network.pixel_std.flatten().tolist() == pytest.approx(STD)
    features = backbone.encode(toy_images(1, SIZE))
    assert features.embedding.shape == (1, TINY.embed_dim, SIZE // 16, SIZE // 16)
    assert {path.name for path in adapter.iterdir()} == {"adapter.json", "decoder.safetensors", "lora"}


def test_colours_are_options(tmp_path):
    folder = imported(tmp_path, checkpoint(), "mean=[1, 2, 3]", "std=[4, 5.5, 6]")
    backbone = LoraSam(adapter=str(folder), image_size=SIZE)
    assert backbone._network.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert backbone._network.pixel_std.flatten().tolist() == [4, 5.5, 6]
    assert "mean [1.0, 2.0, 3.0] and std [4.0, 5.5, 6.0]" in export_file(installed(), "dorl", folder, tmp_path / "x")


def test_an_adapter_made_here_goes_there_and_comes_back(tmp_path):
    rng = np.random.default_rng(5)
    cells = [synthetic.draw_cell("lymphocyte", "lab-a", rng, size=48) for _ in range(2)]
    made = tmp_path / "made"
    made.mkdir()
    pairs = [(cell.image, cell.mask > 0) for cell in cells]
    base = str(without_nucleus(tmp_path / "two.safetensors"))
    quick = {"weights": base, "image_size": SIZE, "epochs": 2, "lr": 1e-2, "rank": 2}
    LoraSam.finetune(pairs, made, context=cpu_context(tmp_path / "scratch"), **quick)
    export_file(installed(), "dorl", made, tmp_path / "epoch_2.pth")
    decoder = LoraSam(weights=base, adapter=str(made), image_size=SIZE)._network
    colours = [f"{key}={getattr(decoder, f'pixel_{key}').flatten().tolist()}" for key in ("mean", "std")]
    import_file(installed(), "dorl", tmp_path / "epoch_2.pth", tmp_path / "back", [f"base={base}", *colours])
    images = toy_images(2, SIZE)
    first, second = (
        LoraSam(weights=base, adapter=str(folder), image_size=SIZE).encode(images)
        for folder in (made, tmp_path / "back")
    )
    plain = LoraSam(weights=base, image_size=SIZE).encode(images)
    assert torch.equal(first.embedding, second.embedding)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.embedding, plain.embedding)


def test_named_weights_need_not_be_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    torch.save(checkpoint(BUILDS["vit_b"]), tmp_path / "epoch_85.pth")
    said = import_file(installed(), "dorl", tmp_path / "epoch_85.pth", tmp_path / "an adapter")
    about = read_about(tmp_path / "an adapter")
    assert (about["base"], f"sha256:{about['base_sha256']}") == ("vit_b", NAMED_WEIGHTS["vit_b"].digest)
    words = shlex.split(said.removeprefix("Use it: "))
    assert words[:2] == ["cellfeat", "run"]
    assert words[3::2] == ["backbone.weights=vit_b", f"backbone.adapter={tmp_path / 'an adapter'}"]
    with pytest.raises(CellfeatError, match="cellfeat weights fetch vit_b_lm"):  # its digest is no sha256
        import_file(installed(), "dorl", tmp_path / "epoch_85.pth", tmp_path / "other", ["base=vit_b_lm"])


def test_every_named_weight_has_a_build():
    assert all(sum(build in name for build in BUILDS) == 1 for name in NAMED_WEIGHTS)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("vit_b", r"trained on an encoder 192 wide and 8 deep, and vit_b has one 768 wide and 12 deep.*--set base="),
        ("vit_c", r"no weights named 'vit_c'. Did you mean 'vit_"),
        ("absent.pth", r"no weights file at absent.pth"),
    ],
)
def test_a_wrong_base_is_refused(tmp_path, base, message):
    with pytest.raises(CellfeatError, match=message):
        imported(tmp_path, checkpoint(), base=base)
    assert not (tmp_path / "adapter").exists()


def test_the_adapter_is_refused_on_other_weights_than_it_was_imported_for(adapter, tmp_path):
    state = read_weights(find_weights("cell-tiny", NAMED_WEIGHTS)).state
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CellfeatError, match=r"was made for the weights 'cell-tiny'"):
        LoraSam(weights=str(tmp_path / "other.pth"), adapter=str(adapter))
    folder = imported(tmp_path, checkpoint(), base=str(tmp_path / "other.pth"))
    assert LoraSam(weights=str(tmp_path / "other.pth"), adapter=str(folder), image_size=SIZE).weights_saw is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_b_003": None}, r"does not fit: w_b_003 is absent$"),
        ({"w_a_003": None}, r"15 matrices w_a_### for an encoder 192 wide; possible .* vit_b 768 and 24"),
        ({"w_a_016": torch.ones(4, 192)}, r"17 matrices"),
        ({"w_b_003": torch.ones(4, 192)}, r"w_b_003 has the shape \(4, 192\) and not \(192, 4\)$"),
        ({"w_a_003": torch.ones(5, 192)}, r"w_a_003 has the shape \(5, 192\) and not \(4, 192\)$"),
        (
            {"mask_decoder.mask_tokens.weight": torch.ones(4, 128)},
            r"mask_tokens.weight has the shape \(4, 128\) and not",
        ),
        ({"mask_decoder.extra": torch.ones(1)}, r"mask_decoder.extra is unknown$"),
        ({f"mask_decoder.{name}": torch.ones(1) for name in "abcde"}, r"a is unknown; .*\(and 2 more\)$"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    content = {name: value for name, value in (checkpoint() | change).items() if value is not None}
    with pytest.raises(CellfeatError, match=message):
        imported(tmp_path, content)
    assert not (tmp_path / "adapter").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": torch.nn.Linear(2, 2).state_dict()},
            r"is no checkpoint of DoRL.*no matrix w_a_000 \(but weight",
        ),
        ({"epoch": 3}, "holds no weights"),
        (torch.nn.Linear(2, 2), "was not loaded: .*run code"),
        ({"w_a_000": Evil()}, "was not loaded: .*run code"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CellfeatError, match=message) as caught:
        imported(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_85.pth"}


def test_a_truncated_file(tmp_path):
    path = tmp_path / "epoch_85.pth"
    torch.save(checkpoint(), path)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CellfeatError, match=r"epoch_85.pth cannot be read as a PyTorch checkpoint"):
        import_file(installed(), "dorl", path, tmp_path / "adapter", ["base=cell-tiny"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bsae=vit_b", r"no parameter of import format 'dorl' named 'bsae'. Did you mean 'base'\?.*mean, std"),
        ("std=[1, 0, 1]", r"std is \(1.0, 0.0, 1.0\); three numbers above 0"),
        ("std=[1, 1, .nan]", r"std is .*nan.*; three numbers above 0"),
        ("mean=[1, 2]", r"mean is \[1, 2\], but must be tuple\[float, float, float\]"),
    ],
)
def test_mistakes_in_the_options(tmp_path, option, message):
    with pytest.raises(CellfeatError, match=message):
        imported(tmp_path, checkpoint(), option)


def test_adapters_that_the_authors_program_cannot_run_are_not_exported(adapter, tmp_path):
    rng = np.random.default_rng(5)
    cell = synthetic.draw_cell("lymphocyte", "lab-a", rng, size=48)
    quick = {"image_size": SIZE, "epochs": 1, "context": cpu_context(tmp_path / "scratch")}
    pairs, three, own = [(cell.image, cell.mask > 0)], tmp_path / "three", tmp_path / "own"
    three.mkdir()
    own.mkdir()
    LoraSam.finetune(pairs, three, weights=str(with_nucleus(tmp_path / "nucleus.safetensors", False)), **quick)
    two = str(without_nucleus(tmp_path / "two.safetensors"))
    LoraSam.finetune(pairs, own, own_colours=True, weights=two, **quick)
    for folder, what in ((three, "3 masks and constant colours"), (own, "2 masks and its images' own colours")):
        with pytest.raises(CellfeatError, match=rf"made for a decoder with {what}; DoRL's program knows only 2 masks"):
            export_file(installed(), "dorl", folder, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_an_imported_adapter_brings_its_masks_and_colours_to_weights_that_have_others(tmp_path):
    base = str(with_nucleus(tmp_path / "nucleus.safetensors"))
    backbone = LoraSam(weights=base, adapter=str(imported(tmp_path, checkpoint(), base=base)), image_size=SIZE)
    assert (backbone._network.masks, backbone._network.own_colours) == (2, False)
    features = backbone.encode(toy_images(1, SIZE))
    assert features.pooled is None
    assert features.quality is None
    with pytest.raises(CellfeatError, match=r"with the adapter .*adapter tell no nucleus"):
        LoraSam(weights=base, adapter=str(tmp_path / "adapter"), image_size=SIZE, pooling="parts")


def test_only_whole_adapters_at_scale_one_are_exported(adapter, tmp_path):
    with pytest.raises(CellfeatError, match=r"no adapter\.json"):
        export_file(installed(), "dorl", tmp_path, tmp_path / "out.pth")
    folder = imported(tmp_path, checkpoint())
    config = folder / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 8}))
    with pytest.raises(CellfeatError, match="at the scale 2; DoRL's program knows only 1"):
        export_file(installed(), "dorl", folder, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
