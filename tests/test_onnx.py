"""Backbones as ONNX: the file gives the backbone's numbers, says what it is, and is not kept where it differs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from cellfeat import Features, cli, onnx_export
from cellfeat.errors import CellfeatError
from cellfeat.onnx_export import Agreement, check, drawn_batches, export, read_metadata
from cellfeat.registry import installed

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_thread", "own_cache")
ROOT = Path(__file__).resolve().parent.parent
SIDE = 32


def backbone(name="lora-sam", **params):
    from cellfeat.testing import cpu_context

    return installed().create("backbone", name, params, cpu_context(Path()))


def exported(out: Path, *arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["onnx", str(out), *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture(scope="module")
def cell_tiny(tmp_path_factory, one_thread):
    """The exported file, with real weights, and what the command printed."""
    path = tmp_path_factory.mktemp("onnx") / "cell-tiny.onnx"
    return path, exported(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, one_thread):
    """A small timm network with random weights, and its file."""
    found = backbone("timm", model="test_resnet", weights="random", image_size=SIDE)
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    assert export(found, path, "timm").holds
    return path, found


def test_cell_tiny_gives_the_numbers_of_the_backbone_for_any_batch(cell_tiny):
    path, printed = cell_tiny
    images = [drawn_batches(224, seed=5, counts=(1,))[0], drawn_batches(224, seed=6, counts=(4,))[0]]
    agreement = check(path, backbone(), images)
    assert set(agreement.differences) == {"embedding", "pooled", "quality"}
    assert max(agreement.differences.values()) <= 1e-4
    assert agreement.pixels is not None
    assert agreement.pixels >= 0.999
    assert agreement.holds
    assert re.search(r"agrees with PyTorch: embedding \d\.\de-\d\d, pooled .*, mask \d+\.\d+ % of pixels", printed)


def test_the_file_says_what_it_is_and_nothing_of_this_machine(cell_tiny):
    path, _ = cell_tiny
    about, plain = read_metadata(path), backbone()
    assert about["weights_sha256"] == plain.weights_sha256
    assert json.loads(about["weights_saw"]) == list(plain.weights_saw)
    assert (about["image_size"], about["interpolation"], about["opset"]) == ("224", "bilinear", "20")
    assert json.loads(about["outputs"]) == ["embedding", "mask", "pooled", "quality"]
    figures = json.loads(about["agreement"])
    assert figures["embedding"] <= 1e-3
    assert figures["mask_pixels"] >= 0.999
    content = path.read_bytes()
    assert onnx.load(path).opset_import[0].version == 20
    for private in (str(ROOT), str(Path.home()) + "/", sys.prefix, "site-packages"):
        assert private.encode() not in content


def test_masks_of_the_cell_alone_are_pooled_over_the_cell(tmp_path):
    from helpers import without_nucleus

    weights = without_nucleus(tmp_path / "plain.safetensors")
    product = backbone(weights=str(weights), image_size=SIDE)
    module = product.onnx_module()
    assert module.outputs == ("embedding", "mask", "pooled")
    import torch

    frames = torch.from_numpy(drawn_batches(SIDE, counts=(2,))[0])
    with torch.inference_mode():
        ours, theirs = onnx_export._answers(product, frames), module(frames)
    for name, value in zip(module.outputs, theirs, strict=True):
        np.testing.assert_allclose(value.numpy(), ours[name], atol=1e-3 * np.abs(ours[name]).max())


@pytest.mark.parametrize("name", ["dinov2-s", "dinov2-s-reg"])
def test_dinov2s_graph_is_the_backbones_network(name, monkeypatch, tmp_path):
    """Of two blocks; with registers, whose tokens the graph must leave out of the map."""
    import timm

    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: whole(*names, **options, depth=2))
    found = backbone(name, weights="random", image_size=56, pooling="both")
    assert export(found, tmp_path / "dino.onnx", name).holds
    assert check(tmp_path / "dino.onnx", found, seed=3).holds
    shapes = {item.name: [one.dim_value for one in item.type.tensor_type.shape.dim][1:] for item in outputs(tmp_path)}
    assert shapes == {"embedding": [384, 4, 4], "pooled": [768]}


def outputs(folder: Path):
    return onnx.load(folder / "dino.onnx").graph.output


def test_a_timm_network_gives_map_and_vector(tiny):
    path, product = tiny
    agreement = check(path, product, drawn_batches(SIDE, seed=9, counts=(1, 5)))
    assert set(agreement.differences) == {"embedding", "pooled"}
    assert (agreement.pixels, agreement.holds) == (None, True)


class Wrong:
    """A backbone whose features are two per cent larger than its file's."""

    image_size, interpolation = SIDE, "bilinear"

    def __init__(self, right):
        self.right = right

    def encode(self, images):
        found = self.right.encode(images)
        return Features(1.02 * found.embedding, None, 1.02 * found.pooled)

    def onnx_module(self):
        return self.right.onnx_module()


def test_a_file_that_differs_is_not_kept_and_the_figures_are_told(tiny, tmp_path, monkeypatch):
    path, product = tiny
    monkeypatch.setattr(onnx_export, "_traced", lambda module, size: onnx.load(path))
    with pytest.raises(CellfeatError, match=r"differs from it \(embedding 2\.0e-02, pooled 2\.0e-02; .*was not kept"):
        export(Wrong(product), tmp_path / "wrong.onnx", "wrong")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("agreement", "holds"),
    [
        (Agreement({"embedding": 1e-3, "pooled": 1e-3}, 0.999), True),
        (Agreement({"embedding": 1.1e-3, "pooled": 0.0}, 1.0), False),
        (Agreement({"embedding": 0.0, "pooled": 1.1e-3}, None), False),
        (Agreement({"embedding": 0.0}, 0.9989), False),
        (Agreement({"embedding": float("nan")}, None), False),
    ],
)
def test_what_agrees(agreement, holds):
    assert agreement.holds == holds


def test_a_file_of_another_backbone_and_no_file_at_all(cell_tiny, tiny, tmp_path):
    class Vectors:
        image_size = 224

        def encode(self, images):
            return Features(images.float().mean(dim=(2, 3)))

    with pytest.raises(CellfeatError, match="gives mask, quality, which this backbone does not"):
        check(cell_tiny[0], Vectors())
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CellfeatError, match=r"text\.onnx is not read by onnxruntime: "):
        check(tmp_path / "text.onnx", tiny[1])


def test_a_run_gives_its_backbone(tmp_path):
    import yaml

    recipe = yaml.safe_load("{backbone: {name: timm, model: test_resnet, weights: random}}")
    folder = tmp_path / "run" / "pipelines" / "lab-a"
    folder.mkdir(parents=True)
    (folder / "pipeline.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
    part = onnx_export.chosen_part(tmp_path / "run", None, [], installed())
    assert (part.name, part.params["model"]) == ("timm", "test_resnet")
    with pytest.raises(CellfeatError, match="has a backbone of its own: leave --backbone and --set out"):
        onnx_export.chosen_part(tmp_path / "run", "timm", [], installed())
    (folder / "pipeline.json").write_text(
        json.dumps({"format": 1, "recipe": {**recipe, "segmenter": {"name": "otsu"}}})
    )
    with pytest.raises(CellfeatError, match="those of the segmenter otsu, which is not exported"):
        onnx_export.chosen_part(tmp_path / "run", None, [], installed())
    (tmp_path / "empty" / "pipelines").mkdir(parents=True)
    with pytest.raises(CellfeatError, match="has no saved pipeline"):
        onnx_export.chosen_part(tmp_path / "empty", None, [], installed())


def test_what_cannot_be_exported_says_so(tmp_path, tiny, monkeypatch):
    with pytest.raises(CellfeatError, match=r"the name must end in \.onnx"):
        export(tiny[1], tmp_path / "net.pt")
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        export(tiny[1], tiny[0])
    with pytest.raises(CellfeatError, match="'colour' cannot be exported to ONNX: it offers no onnx_module"):
        export(backbone("colour"), tmp_path / "a.onnx", "colour")
    with pytest.raises(CellfeatError, match=r"shape is not exported to ONNX; possible: --set backbone\.shape=false"):
        backbone(shape=True, image_size=SIDE).onnx_module()
    with pytest.raises(CellfeatError, match=r"passes=2 is not exported to ONNX; possible: --set backbone\.passes=1"):
        backbone(passes=2, image_size=SIDE).onnx_module()
    module = SimpleNamespace(outputs=("embedding", "nose"))
    with pytest.raises(CellfeatError, match="wants to export embedding, nose; possible are embedding, mask"):
        export(SimpleNamespace(onnx_module=lambda: module), tmp_path / "a.onnx", "face")
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(CellfeatError, match=r"take 0\.0 GB, and one ONNX file holds 2\.1 GB at most"):
        export(tiny[1], tmp_path / "a.onnx", "timm")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CellfeatError, match=r'the export to ONNX needs onnx, .*pip install "cellfeat\[onnx\]"'):
        export(tiny[1], tmp_path / "a.onnx", "timm")


def test_a_network_that_torch_cannot_write_is_named_in_one_line(tmp_path):
    import torch

    class Numpy(torch.nn.Module):
        outputs = ("embedding",)

        def forward(self, images):
            return torch.from_numpy(np.sort(images.numpy(), axis=0)).float()

    product = SimpleNamespace(image_size=SIDE, onnx_module=Numpy)
    with pytest.raises(CellfeatError, match="PyTorch cannot write this network as ONNX: "):
        export(product, tmp_path / "a.onnx", "numpy")
    assert list(tmp_path.iterdir()) == []


def test_sam_without_a_decoder_for_cells_is_refused(tmp_path):
    from cellfeat_lora_sam.checkpoints import read_weights
    from cellfeat_lora_sam.named import NAMED_WEIGHTS

    product = backbone(image_size=SIDE)
    assert read_weights(NAMED_WEIGHTS["cell-tiny"].path).masks == 3
    product._is_prompted = True  # as it is for weights with Meta's four masks
    with pytest.raises(CellfeatError, match=r"no decoder for cells: .* Export with an adapter"):
        product.onnx_module()


def test_the_program_of_the_page_runs_without_cellfeat_and_torch(cell_tiny, tmp_path, monkeypatch, capsys):
    import cv2

    from cellfeat.images import read_rgb, resize

    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "onnx.md").read_text(), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^import (\w+)", program, re.MULTILINE)) == {"cv2", "onnxruntime"}
    cell = drawn_batches(150, seed=3, counts=(1,))[0][0].transpose(1, 2, 0)
    cv2.imwrite(str(tmp_path / "cell.png"), cv2.cvtColor(cell, cv2.COLOR_RGB2BGR))
    (tmp_path / "cell-tiny.onnx").symlink_to(cell_tiny[0])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(program, "docs/onnx.md", "exec"), names)
    assert capsys.readouterr().out.startswith("(1, 1152) ")
    import torch

    frame = resize(read_rgb((tmp_path / "cell.png").read_bytes(), name="cell.png"), 224).transpose(2, 0, 1)[None].copy()
    with torch.inference_mode():
        wanted = backbone().encode(torch.from_numpy(frame))
    np.testing.assert_allclose(names["found"]["pooled"], wanted.pooled, atol=1e-3 * float(wanted.pooled.abs().max()))
    assert (names["found"]["mask"] == wanted.mask.numpy()).mean() >= 0.999
