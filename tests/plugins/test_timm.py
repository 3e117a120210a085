"""Backbones `resnext50` and `timm`: size, normalisation, layout, and where their weights come from."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm as library
import torch
from cellfeat_timm import (
    Dann,
    Lead,
    Mcc,
    SourceOnly,
    cellfeat_align,
    cellfeat_backbone,
    known,
    pretrained,
    resnext50,
    timm,
)
from cellfeat_timm.network import token_map
from safetensors.torch import save_file

from cellfeat import CellfeatError, NamedWeights
from cellfeat.testing import check_backbone, cpu_context, toy_images

TINY = "test_resnet"


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other make tiny networks slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, nothing in any cache."""
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _nothing_cached)


def _nothing_cached(*_, **__):
    raise FileNotFoundError("not cached")


@pytest.fixture
def tiny_network():
    torch.manual_seed(3)
    return library.create_model(TINY, num_classes=7).eval()


def test_names_are_offered():
    assert {name: make for name, make in cellfeat_backbone().items() if name[:4] != "dino"} == {
        "resnext50": resnext50,
        "timm": timm,
    }
    assert cellfeat_align() == {"source-only": SourceOnly, "dann": Dann, "mcc": Mcc, "lead": Lead}
    assert set(resnext50.named_weights) == {"resnext50"}


def test_resnext50_has_its_documented_shapes_and_the_frame_of_its_weights():
    backbone = resnext50(weights="random")
    assert (backbone.image_size, backbone.interpolation) == (224, "bilinear")
    features = backbone.encode(toy_images(2, 64))  # smaller than its frame, to be quick
    assert tuple(features.embedding.shape) == (2, 2048, 2, 2)
    assert tuple(features.pooled.shape) == (2, 2048)
    torch.testing.assert_close(features.pooled, features.embedding.mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_mambaout", "test_efficientnet", "test_convnext"])
def test_backbone_contract_over_architectures(model):
    check_backbone(timm, model=model, weights="random", image_size=64)


@pytest.mark.parametrize(
    ("model", "grid"), [("test_vit", 4), ("test_mambaout", 2), ("test_resnet", 2)]
)  # patch tokens behind a class token; channels last; channels first
def test_the_map_keeps_the_image_plane(model, grid):
    features = timm(model, weights="random", image_size=64).encode(toy_images(2, 64))
    assert tuple(features.embedding.shape[2:]) == (grid, grid)


def test_tokens_become_a_map_row_by_row_without_the_class_token():
    tokens = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    grid = token_map(tokens, SimpleNamespace(num_prefix_tokens=1))
    assert torch.equal(grid[1, :, 1, 0], tokens[1, 1 + 2])
    assert token_map(tokens, SimpleNamespace(num_prefix_tokens=0)) is None  # 5 tokens are no square
    last = torch.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3)
    assert torch.equal(token_map(last, SimpleNamespace(output_fmt="NHWC"))[1, :, 0, 1], last[1, 0, 1])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_the_features_of_its_network_normalised_as_timm_says(tiny_network, tmp_path, suffix):
    path = tmp_path / f"tiny{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tiny_network.state_dict()}, path)
    else:
        save_file(tiny_network.state_dict(), path)
    backbone = timm(TINY, weights=str(path), image_size=64)
    images = toy_images(2, 64)
    config = library.get_pretrained_cfg(TINY)
    mean, std = (torch.tensor(value)[:, None, None] for value in (config.mean, config.std))
    with torch.no_grad():
        expected = tiny_network.forward_features((images / 255 - mean) / std)
    features = backbone.encode(images)
    torch.testing.assert_close(features.embedding, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert backbone.weights_saw is None  # a file does not say
    assert backbone.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_random_weights_follow_the_seed_and_have_seen_nothing(tmp_path):
    first, same, other = (timm(TINY, weights="random", context=cpu_context(tmp_path, seed)) for seed in (1, 1, 2))
    assert first.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert first.weights_saw == ()
    images = toy_images(1, first.image_size)
    assert torch.equal(first.encode(images).pooled, same.encode(images).pooled)
    assert not torch.equal(first.encode(images).pooled, other.encode(images).pooled)


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    timm(TINY, weights="random")
    assert torch.equal(torch.get_rng_state(), before)


def test_reduced_precision_still_gives_float32(tmp_path):
    context = cpu_context(tmp_path)
    half = timm(TINY, weights="random", context=SimpleNamespace(device=context.device, dtype=torch.bfloat16, seed=0))
    full = timm(TINY, weights="random", context=context)
    images = toy_images(2, half.image_size)
    assert half.encode(images).embedding.dtype == half.encode(images).pooled.dtype == torch.float32
    assert not torch.equal(half.encode(images).pooled, full.encode(images).pooled)
    torch.testing.assert_close(half.encode(images).pooled, full.encode(images).pooled, rtol=0.1, atol=0.1)


def test_published_weights_of_resnext50_come_by_name_and_digest(monkeypatch, tiny_network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file(tiny_network.state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(pretrained.NAME_OF_MODEL, TINY, "tiny")
    monkeypatch.setitem(
        pretrained.NAMED, "tiny", NamedWeights("tiny", digest=f"sha256:{sha256}", path=path, saw=("ImageNet-1k",))
    )
    backbone = timm(TINY)
    assert (backbone.weights_sha256, backbone.weights_saw) == (sha256, ("ImageNet-1k",))
    path.write_bytes(b"damaged")
    with pytest.raises(CellfeatError, match=r"no pretrained weights for test_resnet: .*sha256"):
        timm(TINY)


def test_other_models_come_from_the_hub_once_it_has_been_asked(monkeypatch, tiny_network, tmp_path):
    asked = []

    def download(repository, name, local_files_only=False):
        asked.append((repository, name, local_files_only))
        if local_files_only:
            raise FileNotFoundError
        path = tmp_path / name
        save_file(library.create_model(TINY, num_classes=1000).state_dict(), path)
        return str(path)

    monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    assert timm(TINY).weights_saw == ("ImageNet-1k",)
    hub = library.get_pretrained_cfg(TINY).hf_hub_id
    assert asked == [(hub, "model.safetensors", True), (hub, "model.safetensors", False)]


def test_a_damaged_file_from_the_hub_is_refused(monkeypatch, tmp_path):
    blob = tmp_path / ("0" * 64)
    blob.write_bytes(b"not what its name says")
    monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **how: _nothing_cached() if how else str(blob))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    with pytest.raises(CellfeatError, match=r"0{64} is damaged: its SHA-256 is not its name"):
        timm(TINY)


@pytest.mark.parametrize(
    ("tag", "seen"),
    [
        ("tv_in1k", ("ImageNet-1k",)),
        ("fb_in22k_ft_in1k", ("ImageNet-22k", "ImageNet-1k")),
        ("lvd142m", ("LVD-142M",)),
        ("openai_ft_in1k", None),
        ("openai", None),
        (None, None),
    ],
)
def test_what_the_weights_saw_is_what_the_tag_says(tag, seen):
    assert pretrained.data_seen(tag) == seen


@pytest.mark.parametrize(
    ("build", "fetch"), [(resnext50, "`cellfeat weights fetch resnext50`"), (timm, "run this once")]
)
def test_without_weights_one_line_says_how_to_get_them(offline, build, fetch):
    with pytest.raises(CellfeatError) as error:
        build(**({"model": TINY} if build is timm else {}))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("no pretrained weights for ")
    assert f"Either {fetch} on a machine with network" in text
    assert "--set backbone.weights=/path/to/file.safetensors" in text
    assert text.endswith("--set backbone.weights=random")


def test_without_network_the_line_says_so(monkeypatch):
    def no_network(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _nothing_cached)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", no_network)
    with pytest.raises(CellfeatError, match=r"could not be downloaded \(ConnectionError: Name or service not known\)"):
        timm(TINY)


def test_a_model_that_is_on_no_hub_is_refused_with_the_reason(offline):
    with pytest.raises(CellfeatError, match=r"legacy_seresnet18: timm only names https://.*, a file without a digest"):
        timm("legacy_seresnet18")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "resnet5"}, r"timm has no model named 'resnet5'\. Did you mean 'resnet50'"),
        (
            {"model": "resnet50.a1_in2k"},
            r"timm has no model named 'resnet50\.a1_in2k'\. Did you mean 'resnet50\.a1_in1k'",
        ),
        (
            {"model": TINY, "weights": "imagnet"},
            "weights='imagnet' is no file. Give imagenet, random, or a .safetensors",
        ),
        ({"model": TINY, "weights": "random", "image_size": 16}, "image_size=16 is not possible: give at least 32"),
        (
            {"model": "test_vit", "weights": "random", "image_size": 65},
            "test_vit cannot take images of 65 px: .*divisible",
        ),
    ],
)
def test_impossible_choices_are_refused(params, message):
    with pytest.raises(CellfeatError, match=message):
        timm(**params)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CellfeatError, match=r"other\.safetensors does not fit timm's test_resnet: .*"):
        timm(TINY, weights=str(path))


def test_a_file_that_is_no_weights_is_refused(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("hello")
    with pytest.raises(CellfeatError, match=r"text\.pth cannot be read as a PyTorch checkpoint: "):
        timm(TINY, weights=str(path))


def test_importing_the_plugin_imports_no_heavy_library():
    code = "import sys, cellfeat_timm; print({'torch', 'timm', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_pixels_are_read_and_left_alone():
    backbone = timm(TINY, weights="random", image_size=64)
    images = toy_images(1, 64)
    brighter = (images.int() + 20).clamp(max=255).to(torch.uint8)
    assert not np.allclose(backbone.encode(images).pooled, backbone.encode(brighter).pooled)


LIKE_TIMM = {  # convolutions, channels last, a vision transformer, DINOv2 with registers, one of a fixed size
    "test_resnet": 64,
    "test_convnext": 64,
    "test_vit": 64,
    "vit_small_patch14_reg4_dinov2": 56,
    "swin_tiny_patch4_window7_224": 224,
    "resnet18": 96,
    "mobilenetv3_small_050": 96,
}


@pytest.mark.parametrize(("model", "size"), LIKE_TIMM.items())
def test_features_are_those_of_timms_own_transform(model, size):
    """On an image of the network's size: resizing is the core's, and no edge is cut away, where timm crops."""
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    backbone = timm(model, weights="random", image_size=size)
    config = resolve_model_data_config(backbone.network) | {"input_size": (3, size, size), "crop_pct": 1.0}
    assert backbone.interpolation == config["interpolation"]
    images = toy_images(2, size)
    transform = create_transform(**config, is_training=False)
    theirs = torch.stack([transform(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in images])
    with torch.inference_mode():
        features = backbone.network.forward_features(theirs)
        pooled = backbone.network.forward_head(features, pre_logits=True).flatten(1)
    found = backbone.encode(images)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.embedding, token_map(features, backbone.network), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["convnext_tiny", "vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224"])
def test_the_frame_is_that_of_the_weights(model):
    """What timm says of the published weights, without building the network."""
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=library.get_pretrained_cfg(model).to_dict())
    known = pretrained.published_config(model)
    assert (known.input_size, known.interpolation) == (config["input_size"], config["interpolation"])
    assert (known.mean, known.std) == (config["mean"], config["std"])


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "teacher", "module.", "argparse"])
def test_a_file_of_a_training_is_unwrapped_and_runs_no_code(tiny_network, tmp_path, wrapped):
    state, path = tiny_network.state_dict(), tmp_path / "training.pth"
    if wrapped == "module.":
        content = {f"module.{name}": value for name, value in state.items()}
    elif wrapped == "argparse":
        content = {"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    else:
        content = {wrapped: state}
    torch.save(content, path)
    plain = tmp_path / "plain.safetensors"
    save_file(state, plain)
    images = toy_images(1, 64)
    first, second = (timm(TINY, weights=str(file), image_size=64).encode(images).pooled for file in (path, plain))
    assert torch.equal(first, second)


def test_weights_are_held_once(tiny_network, tmp_path):
    save_file(tiny_network.state_dict(), tmp_path / "tiny.safetensors")
    network = timm(TINY, weights=str(tmp_path / "tiny.safetensors")).network
    assert "state_dict" not in network.pretrained_cfg


def test_what_a_file_saw_can_be_said(tiny_network, tmp_path):
    save_file(tiny_network.state_dict(), tmp_path / "tiny.safetensors")
    assert timm(TINY, weights=str(tmp_path / "tiny.safetensors"), saw=("acevedo20",)).weights_saw == ("acevedo20",)
    with pytest.raises(CellfeatError, match=r"saw=\['acevedo20'\] is not possible: .* \(nothing\)\. saw is for files"):
        timm(TINY, weights="random", saw=("acevedo20",))


class Repository:
    """A repository of the hub, as the client finds it in its cache."""

    def __init__(self, folder, monkeypatch, network, config: dict) -> None:
        (folder / "config.json").write_text(json.dumps(config))
        save_file(network.state_dict(), folder / "model.safetensors")
        self.folder, self.asked = folder, []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)

    def download(self, repository: str, name: str, local_files_only: bool = False) -> str:
        self.asked.append(f"{repository}/{name}")
        return str(self.folder / name)


CONFIG = {
    "architecture": TINY,
    "num_classes": 7,
    "pretrained_cfg": {
        "tag": "mine",
        "input_size": [3, 96, 96],
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "num_classes": 7,
        "classifier": "fc",
        "first_conv": "conv1",
    },
}
OLDER = {"architecture": TINY, "num_classes": 7, **CONFIG["pretrained_cfg"]}


@pytest.mark.parametrize("config", [CONFIG, OLDER], ids=["nested", "older"])
def test_a_model_of_the_hub_comes_with_its_own_frame(tiny_network, tmp_path, monkeypatch, config):
    known.known_model.cache_clear()
    repository = Repository(tmp_path, monkeypatch, tiny_network, config)
    backbone = timm("hf-hub:somebody/cells.v1")
    assert (backbone.image_size, backbone.interpolation, backbone.weights_saw) == (96, "bilinear", None)
    assert set(repository.asked) == {"somebody/cells.v1/config.json", "somebody/cells.v1/model.safetensors"}
    images = toy_images(1, 96)
    mean, std = (torch.tensor(config.get("pretrained_cfg", config)[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = tiny_network.forward_features((images / 255 - mean) / std)
    torch.testing.assert_close(backbone.encode(images).embedding, expected, atol=1e-4, rtol=1e-4)
    assert timm("hf-hub:somebody/cells.v1", saw=("ward-7",)).weights_saw == ("ward-7",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "net_of_tomorrow"}, "the network of hf-hub:a/b is 'net_of_tomorrow', which timm .* not have"),
        ({"model_type": "bert"}, r"config\.json is no configuration of timm \(KeyError: 'architecture'\)"),
    ],
)
def test_a_repository_without_a_timm_model_is_refused(tiny_network, tmp_path, monkeypatch, config, message):
    known.known_model.cache_clear()
    Repository(tmp_path, monkeypatch, tiny_network, config)
    with pytest.raises(CellfeatError, match=message):
        timm("hf-hub:a/b")


def test_a_model_of_the_hub_offline_or_misspelt_is_one_clear_line(offline):
    known.known_model.cache_clear()
    with pytest.raises(CellfeatError) as caught:
        timm("hf-hub:a/b")
    assert str(caught.value) == (
        "the model hf-hub:a/b cannot be looked up: a/b is not in the hub's cache and downloads are switched off. Run "
        "this once on a machine with network, or take a model that timm knows"
    )
    with pytest.raises(CellfeatError, match="'hf-hub:convnext' is no repository of the hub; write it as hf-hub:owner/"):
        timm("hf-hub:convnext")
