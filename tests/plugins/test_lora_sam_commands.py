"""The commands `cellfeat lora-sam finetune` and `pretrain`, from a shell's point of view."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.checkpoints import read_weights
from cellfeat_lora_sam.commands import app
from PIL import Image
from typer.testing import CliRunner

from cellfeat import CellfeatError, synthetic

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(4):
        cell = synthetic.draw_cell("monocyte", "lab-a", rng, size=48)
        Image.fromarray(cell.image).save(tmp_path / f"{index}.png")
        Image.fromarray(cell.mask).save(tmp_path / f"{index}-mask.png")
        rows.append([f"cell-{index}", f"{index}.png", "monocyte", "here", f"{index}-mask.png"])
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "path", "label", "domain", "mask_path"], *rows])
    return tmp_path / "cells.csv"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("masks", ["truth", "cell-tiny"])
def test_finetune_makes_an_adapter_that_the_backbone_takes(manifest, tmp_path, masks):
    folder = tmp_path / "adapter"
    quick = ("--epochs", 1, "--batch-size", 2, "--image-size", 64, "--device", "cpu")
    output = run("finetune", manifest, "-o", folder, "--masks-from", masks, *quick)
    assert str(folder) in output
    about = json.loads((folder / "adapter.json").read_text())
    assert about["images"] == 4
    assert about["settings"]["epochs"] == 1
    assert about["saw"] == [f"here (masks: {masks})"]
    assert LoraSam(adapter=str(folder), image_size=64).weights_saw[-1] == f"here (masks: {masks})"
    with pytest.raises(CellfeatError, match="exists and is never overwritten"):
        run("finetune", manifest, "-o", folder, *quick)


def test_finetune_takes_rank_warm_up_and_offline(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "")
    folder = tmp_path / "adapter"
    quick = ("--epochs", 1, "--batch-size", 4, "--image-size", 64, "--device", "cpu")
    run("finetune", manifest, "-o", folder, "--rank", 2, "--warmup", 3, *quick)
    settings = json.loads((folder / "adapter.json").read_text())["settings"]
    assert (settings["rank"], settings["warmup"]) == (2, 3)
    assert json.loads((folder / "lora" / "adapter_config.json").read_text())["r"] == 2
    assert not os.environ["CELLFEAT_OFFLINE"]
    with pytest.raises(CellfeatError, match="downloads are switched off"):
        run("finetune", manifest, "-o", tmp_path / "other", "--offline", "--weights", "vit_b", *quick)
    assert os.environ["CELLFEAT_OFFLINE"] == "1"


def test_finetune_refuses_a_rate_before_it_reads_the_manifest(tmp_path):
    with pytest.raises(CellfeatError, match="lr is -1; a number above 0 is needed"):
        run("finetune", tmp_path / "absent.csv", "-o", tmp_path / "adapter", "--lr", -1)


TINY = """
{steps: 1, batch_size: 2, frame_batch: 2, image_size: 64, view_size: 32, pool_size: 64, drawn: 2, drawn_size: 48,
held_out: 1, warmup: 1, cooldown: 1}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(TINY)
    return tmp_path / "config.yaml"


def test_pretrain_writes_weights_that_the_backbone_takes(settings, tmp_path):
    path = tmp_path / "own.safetensors"
    output = run("pretrain", settings, "-o", path, "--device", "cpu")
    assert f"{path}: mean IoU on drawn cells that were held out: cell 0." in output
    assert ", nucleus 0." in output
    assert read_weights(path).meta["steps"] == 1
    backbone = LoraSam(weights=str(path), image_size=64)
    assert backbone.weights_saw == ("drawn cells",)


def test_pretrain_hands_data_domains_and_ids_on(settings, manifest, tmp_path, monkeypatch):
    from cellfeat_lora_sam import pretrain_run

    seen = []
    monkeypatch.setattr(pretrain_run, "pretrain_from", lambda *given: seen.append(given) or {"cell": 0.5, "nucleus": 1})
    path, ids = tmp_path / "own.safetensors", tmp_path / "ids.txt"
    more = ("--domain", "here", "--domain", "there", "--leave-out", ids, "--device", "cpu", "--skip-bad")
    output = run("pretrain", settings, "-o", path, "--data", manifest, *more)
    config, *others, work = seen[0]
    assert config.drawn_size == 48
    assert others == [path, str(manifest), ["here", "there"], ids]
    assert (work.device, work.precision, work.skip_bad) == ("cpu", "fp32", True)
    assert "cell 0.500, nucleus 1.000" in output
    (tmp_path / "bf16.yaml").write_text("precision: bf16")
    run("pretrain", tmp_path / "bf16.yaml", "-o", path)
    assert seen[1][1:5] == (path, None, [], None)
    assert (seen[1][5].device, seen[1][5].precision, seen[1][5].skip_bad) == ("auto", "bf16", False)


def test_pretrain_refuses_settings_output_and_ids(settings, manifest, tmp_path):
    path = tmp_path / "own.safetensors"
    (tmp_path / "wrong.yaml").write_text("near: {blur: 1}")
    with pytest.raises(CellfeatError, match=r"holds \['blur'\], which is no pre-training setting"):
        run("pretrain", tmp_path / "wrong.yaml", "-o", path)
    with pytest.raises(CellfeatError, match="the weights become a file; name one that ends in"):
        run("pretrain", settings, "-o", tmp_path)
    (tmp_path / "ids.txt").write_text("cell-17")
    with pytest.raises(CellfeatError, match="1 of the ids to leave out are not among its 4 images, the first is 'cell"):
        run("pretrain", settings, "-o", path, "--data", manifest, "--leave-out", tmp_path / "ids.txt")
    assert not path.exists()
