"""Backbones `dinov2-*` and `dinobloom-*`: files in their published layouts, numbers as Meta's program computes them."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from cellfeat_timm import cellfeat_backbone, dino_network
from cellfeat_timm.dino_named import DINOS
from cellfeat_timm.dino_network import fitted
from file_server import serving
from safetensors.torch import save_file
from torch.nn import functional

from cellfeat import CellfeatError
from cellfeat.records import saw_target
from cellfeat.testing import cpu_context, toy_images

BACKBONES = cellfeat_backbone()
HEADS = {"s": 6, "b": 12, "l": 16, "g": 24}
HIDDEN_OF_G = 4096
NAMES = [name for name in BACKBONES if name.startswith("dino")]


@pytest.fixture(scope="module", autouse=True)
def threads(one_thread):
    """Small batches."""


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Meta's file, or of DinoBloom's backbone, which has positions for 224 px."""
    dino = DINOS[name]
    width, gated, n = dino.width, "-g" in name, 257 if "bloom" in name else 1370
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, n, width), "mask_token": (1, width)}
    if dino.registers:
        shapes["register_tokens"] = (1, 4, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    if gated:
        linear |= {"mlp.w12": (2 * HIDDEN_OF_G, width), "mlp.w3": (width, HIDDEN_OF_G)}
    else:
        linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for block in (f"blocks.{number}." for number in range(dino.depth)):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        shapes |= {f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
        for part, shape in linear.items():
            shapes |= {f"{block}{part}.weight": shape, f"{block}{part}.bias": shape[:1]}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def drawn(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Such a file's tensors, of a size that lets every part of the network count."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for part, shape in published_shapes(name).items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.05 if "proj.weight" in part else 0.3
        state[part] = scale * torch.randn(shape, generator=generator)
    return state


def reference(state: dict[str, torch.Tensor], images: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, tokens, D) behind the last norm, as facebookresearch/dinov2 computes it, from its own names."""
    registers, side = "register_tokens" in state, images.shape[-1] // 14
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
    patches = functional.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    tokens = torch.cat([state["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    own = state["pos_embed"][:, 1:]
    grid = int(own.shape[1] ** 0.5)
    if grid != side:
        plane = own.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        how = {"size": (side, side), "antialias": True} if registers else {"scale_factor": (side + 0.1) / grid}
        own = functional.interpolate(plane, mode="bicubic", **how).permute(0, 2, 3, 1).reshape(1, side * side, -1)
    tokens = tokens + torch.cat([state["pos_embed"][:, :1], own], dim=1)
    if registers:
        extra = state["register_tokens"].expand(len(images), -1, -1)
        tokens = torch.cat([tokens[:, :1], extra, tokens[:, 1:]], dim=1)
    width = tokens.shape[-1]
    for number in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        own = {name.partition(f"blocks.{number}.")[2]: value for name, value in state.items()}

        def linear(name: str, x: torch.Tensor, own=own) -> torch.Tensor:
            return functional.linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

        def norm(name: str, x: torch.Tensor, own=own) -> torch.Tensor:
            return functional.layer_norm(x, (width,), own[f"{name}.weight"], own[f"{name}.bias"], eps=1e-6)

        qkv = linear("attn.qkv", norm("norm1", tokens)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
        tokens = tokens + own["ls1.gamma"] * linear("attn.proj", (weights @ qkv[2]).transpose(1, 2).flatten(2))
        if "mlp.w12.weight" in own:
            first, second = linear("mlp.w12", norm("norm2", tokens)).chunk(2, dim=-1)
            hidden = linear("mlp.w3", functional.silu(first) * second)
        else:
            hidden = linear("mlp.fc2", functional.gelu(linear("mlp.fc1", norm("norm2", tokens))))
        tokens = tokens + own["ls2.gamma"] * hidden
    return functional.layer_norm(tokens, (width,), state["norm.weight"], state["norm.bias"], eps=1e-6)


def in_timms_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As timm's own files hold it."""
    found = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:].contiguous()
    return found


@pytest.fixture(scope="module")
def small():
    return {name: drawn(name) for name in ("dinov2-s", "dinov2-s-reg", "dinobloom-s")}


@pytest.fixture(scope="module")
def images():
    return toy_images(2, 224)


@pytest.fixture(scope="module")
def files(small, tmp_path_factory) -> dict[str, Path]:
    """Every layout of a small network's weights."""
    folder = tmp_path_factory.mktemp("weights")
    plain, with_registers, bloom = small.values()
    heads = {"dino_head.mlp.0.weight": torch.ones(2), "ibot_head.last_layer.weight": torch.ones(2)}
    trained = {f"backbone.{name}": value for name, value in bloom.items()} | heads
    torch.save(plain, folder / "meta.pth")
    save_file(in_timms_names(plain), folder / "timm.safetensors")
    torch.save(with_registers, folder / "meta-reg.pth")
    save_file(in_timms_names(with_registers), folder / "timm-reg.safetensors")
    torch.save({"teacher": trained}, folder / "bloom-zenodo.pth")
    torch.save(bloom, folder / "bloom-hub.bin")
    torch.save({"student": {f"module.{name}": value for name, value in trained.items()}}, folder / "bloom-student.pt")
    return {path.stem: path for path in folder.iterdir()}


def test_the_names_asked_for_are_there():
    assert [
        *("dinov2-s", "dinov2-b", "dinov2-l", "dinov2-g", "dinov2-s-reg", "dinov2-b-reg", "dinov2-l-reg"),
        *("dinov2-g-reg", "dinobloom-s", "dinobloom-b", "dinobloom-l", "dinobloom-g"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_published_layout_becomes_the_network_of_its_size_without_memory(name):
    dino = DINOS[name]
    state = {part: torch.empty(shape, device="meta") for part, shape in published_shapes(name).items()}
    with torch.device("meta"):
        network = timm.create_model(dino.model, num_classes=0, img_size=224)
    found = {part: tuple(value.shape) for part, value in fitted(dino, Path("x"), state, 16).items()}
    assert found == {part: tuple(value.shape) for part, value in network.state_dict().items()}
    size_mb = 4e-6 * sum(torch.Size(shape).numel() for shape in published_shapes(name).values())
    if dino.weights.size_mb:
        assert dino.weights.size_mb == pytest.approx(size_mb, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("dinov2-s", ("meta", "timm")),
        ("dinov2-s-reg", ("meta-reg", "timm-reg")),
        ("dinobloom-s", ("bloom-zenodo", "bloom-hub", "bloom-student")),
    ],
)
def test_every_layout_gives_metas_numbers(name, layouts, files, small, images):
    tokens = reference(small[name], images, HEADS["s"])
    prefix = 5 if name.endswith("reg") else 1
    expected = tokens[:, prefix:].transpose(1, 2).unflatten(2, (16, 16))
    for layout in layouts:
        backbone = BACKBONES[name](weights=str(files[layout]))
        assert (backbone.image_size, backbone.interpolation) == (224, "bicubic")
        assert backbone.weights_saw is None
        assert backbone.weights_sha256 == hashlib.sha256(files[layout].read_bytes()).hexdigest()
        features = backbone.encode(images)
        assert tuple(features.embedding.shape) == (2, 384, 16, 16)
        torch.testing.assert_close(features.embedding, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features.pooled, tokens[:, 0], atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_the_gated_layers_of_the_largest_are_metas(monkeypatch, images):
    """Two blocks of it: whole, it needs 4.5 GB."""
    dino = replace(DINOS["dinov2-g-reg"], depth=2)
    monkeypatch.setitem(DINOS, dino.name, dino)
    state = drawn(dino.name)
    with torch.device("meta"):
        network = timm.create_model(dino.model, num_classes=0, img_size=28, depth=2)
    network.load_state_dict(fitted(dino, Path("x"), dict(state), 2), assign=True)
    frames = images[..., :28, :28]
    pixels = (frames / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.inference_mode():
        found = network.eval().forward_features(pixels)
    torch.testing.assert_close(found, reference(state, frames, HEADS["g"]), atol=1e-4, rtol=1e-4)


def test_pooling_is_the_class_token_the_mean_or_both(files, images):
    found = {
        kind: BACKBONES["dinov2-s"](weights=str(files["meta"]), pooling=kind).encode(images)
        for kind in ("cls", "mean", "both")
    }
    torch.testing.assert_close(found["mean"].pooled, found["mean"].embedding.mean((2, 3)))
    assert torch.equal(found["both"].pooled, torch.cat([found["cls"].pooled, found["mean"].pooled], dim=1))
    assert not torch.allclose(found["cls"].pooled, found["mean"].pooled, atol=1e-2)


def test_memory_holds_the_weights_of_a_file_once(files, monkeypatch):
    read = {}
    load = dino_network.load_tensors
    monkeypatch.setattr(dino_network, "load_tensors", lambda path: read.update(load(path)) or dict(read))
    network = BACKBONES["dinov2-s"](weights=str(files["meta"])).network
    for name in ("blocks.0.attn.qkv.weight", "blocks.11.mlp.fc2.weight", "patch_embed.proj.weight"):
        assert network.get_parameter(name).data_ptr() == read[name].data_ptr()


def test_published_weights_are_downloaded_resumed_and_compared(small, tmp_path, monkeypatch, images):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
    buffer = io.BytesIO()
    torch.save(small["dinov2-s"], buffer)
    content = buffer.getvalue()
    dino, sha256 = DINOS["dinov2-s"], hashlib.sha256(content).hexdigest()
    with serving(content) as server:
        server.break_after = [30_000_000]
        url = server.url("dinov2_vits14_pretrain.pth")
        named = replace(dino.weights, urls=(url,), digest=f"sha256:{sha256}")
        from cellfeat_timm.dino import _factory

        backbone = _factory(replace(dino, weights=named))()
        assert len(server.ranges) == 2
        assert int(server.ranges[1].removeprefix("bytes=").rstrip("-")) > 20_000_000
        assert (backbone.weights_sha256, backbone.weights_saw) == (sha256, ("LVD-142M",))
        assert tuple(backbone.encode(images).embedding.shape) == (2, 384, 16, 16)
        wrong = replace(named, digest=f"sha256:{64 * '0'}")
        with pytest.raises(CellfeatError, match=rf"no pretrained weights for dinov2-s: .*{sha256}, not 0{{64}}"):
            _factory(replace(dino, weights=wrong))()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_says_where_its_weights_are_and_what_they_saw(name):
    weights = BACKBONES[name].named_weights[name]
    assert weights is DINOS[name].weights
    assert weights.licence == "Apache-2.0"
    size, registers = name.split("-")[1], name.endswith("reg")
    if "bloom" in name:
        assert weights.saw is None
        assert saw_target(weights.saw, ["acevedo20"]) is None  # a record says that nobody knows
        where = "https://zenodo.org/records/10908163/files/DinoBloom-S.pth"
        assert weights.urls == (where,) if size == "s" else weights.hub == f"MarrLab/DinoBloom/pytorch_model_{size}.bin"
    else:
        assert weights.saw == ("LVD-142M",)
        published = timm.get_pretrained_cfg(DINOS[name].model)
        known = size in "sbl" and not registers
        assert weights.urls == ((published.url,) if known else ())
        assert weights.hub == ("" if known else f"{published.hf_hub_id}/model.safetensors")
    assert bool(re.fullmatch(r"sha256:[0-9a-f]{64}", weights.digest)) == bool(weights.urls)


def test_what_the_weights_saw_can_be_said_where_it_is_not_known(files):
    backbone = BACKBONES["dinobloom-s"](weights=str(files["bloom-hub"]), saw=("acevedo20", "matek19"))
    assert saw_target(backbone.weights_saw, ["Acevedo-20"]) is True
    assert saw_target(backbone.weights_saw, ["ward-7"]) is False
    with pytest.raises(CellfeatError, match=r"saw=\['x'\] is not possible: it is known what these weights have seen"):
        BACKBONES["dinov2-s"](weights="random", saw=("x",))


def test_facts_are_told_without_a_network(files, tmp_path, monkeypatch):
    context = cpu_context(tmp_path)
    facts = BACKBONES["dinov2-s"].facts
    said = facts(weights=str(files["timm"]), image_size=28, pooling="cls", saw=None, context=context)
    made = BACKBONES["dinov2-s"](weights=str(files["timm"]), image_size=28, context=context)
    assert said == (made.image_size, made.interpolation, made.weights_sha256, made.weights_saw)
    drawn_anew = facts(weights="random", image_size=28, pooling="cls", saw=None, context=context)
    assert drawn_anew.weights_sha256 == BACKBONES["dinov2-s"](weights="random", image_size=28).weights_sha256
    assert drawn_anew.weights_saw == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights": "imagenet"}, "weights='imagenet' is no file. Give published, random, or a .safetensors or .pth"),
        ({"image_size": 225}, "image_size=225 is not possible: give a multiple of 14 from 28, such as 224"),
        ({"image_size": 14}, "image_size=14 is not possible"),
    ],
)
def test_impossible_choices_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        BACKBONES["dinov2-s"](**params)


def test_a_file_of_another_network_is_told_by_its_name(files, tmp_path, small):
    with pytest.raises(CellfeatError) as caught:
        BACKBONES["dinov2-b"](weights=str(files["meta"]))
    assert str(caught.value) == (
        f"{files['meta']} does not fit dinov2-b (768 wide, 12 deep, without registers): it is 384 wide, 12 deep, "
        "without registers, as dinov2-s and dinobloom-s"
    )
    with pytest.raises(CellfeatError, match=r"with registers, as dinov2-s-reg$"):
        BACKBONES["dinov2-s"](weights=str(files["timm-reg"]))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(
        CellfeatError, match=r"no vision transformer of DINOv2's layout: it has no cls_token, pos_embed"
    ):
        BACKBONES["dinov2-s"](weights=str(tmp_path / "resnet.pth"))
    torch.save({**small["dinov2-s"], "extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CellfeatError, match=r"more\.pth does not fit: extra is unknown"):
        BACKBONES["dinov2-s"](weights=str(tmp_path / "more.pth"))


def test_images_of_another_size_are_refused(files):
    backbone = BACKBONES["dinov2-s"](weights=str(files["meta"]), image_size=28)
    with pytest.raises(CellfeatError, match=r"images of shape \(1, 3, 56, 56\) were given; .* \(B, 3, 28, 28\), RGB"):
        backbone.encode(toy_images(1, 56))


def test_offline_one_line_says_how_to_get_them(monkeypatch, tmp_path):
    def nothing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", nothing)
    for name in ("dinov2-b", "dinov2-g", "dinobloom-s", "dinobloom-l"):
        with pytest.raises(CellfeatError) as caught:
            BACKBONES[name]()
        text = str(caught.value)
        assert text.startswith(f"no pretrained weights for {name}: ")
        assert "downloads are switched off" in text
        assert f"Either `cellfeat weights fetch {name}` on a machine with network; or give a file: " in text
        assert "\n" not in text
