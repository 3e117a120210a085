"""Training the detector: its tiles, a run that is killed and goes on, and what the command refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import CellDetector, detector_tokens
from cellfeat_lora_sam.commands import app
from cellfeat_lora_sam.described import read_header
from cellfeat_lora_sam.detector_assembled import SIDE, CutCells, assembled, cut_cells
from cellfeat_lora_sam.detector_data import MOST, Tiles, finished, tile
from cellfeat_lora_sam.detector_head import TILE
from cellfeat_lora_sam.detector_tokens import DetectorSettings
from cellfeat_lora_sam.detector_train import Training
from cellfeat_lora_sam.pretrain_pool import Segment
from PIL import Image
from typer.testing import CliRunner

from cellfeat import CellfeatError, Context, synthetic

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("--tiles", 6, "--steps", 4, "--batch-size", 2, "--width", 4, "--checked", 1, "--device", "cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def cells() -> CutCells:
    rng = np.random.default_rng(0)
    drawn = [synthetic.draw_cell("neutrophil", "lab-a", rng, size=SIDE) for _ in range(3)]
    masks = np.stack([cell.mask > 0 for cell in drawn])
    light = np.full((3, 3), 235, np.float32)
    return CutCells(np.stack([cell.image for cell in drawn]), masks, light, float(np.sqrt(masks[0].sum() * 4 / np.pi)))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows = []
    for index in range(3):
        Image.fromarray(synthetic.draw_cell("monocyte", "lab-a", rng, size=96).image).save(tmp_path / f"{index}.png")
        rows.append([f"cell-{index}", f"{index}.png", "monocyte", "here"])
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "path", "label", "domain"], *rows])
    return tmp_path / "cells.csv"


def run(*arguments: object, command: str = "train-detector") -> str:
    done = CliRunner().invoke(app, [command, *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("kind", ["drawn", "assembled"])
def test_tiles_follow_from_seed_and_number_and_hold_their_cells(kind, cells):
    source = cells if kind == "assembled" else None
    numbers = range(1, 24, 2)
    tiles = [tile(np.random.default_rng((7, number)), source) for number in numbers]
    again = Tiles(7, 3, 1, source)[0]
    for one, other in zip(tiles[1], again, strict=True):
        assert np.array_equal(one, other, equal_nan=one.dtype != np.uint8 and one.dtype != bool)
    held = 0
    for image, boxes, counted in tiles:
        assert image.shape == (3, TILE, TILE)
        assert image.dtype == np.uint8
        assert boxes.shape == (MOST, 4)
        known = boxes[~np.isnan(boxes[:, 0])]
        held += len(known)
        assert (known[:, :2] >= 0).all()
        assert (known <= TILE).all()
        assert (known[:, :2] < known[:, 2:]).all()
        assert counted.any()
    assert held > len(tiles)
    assert any(np.isnan(one.boxes).all() for one in tiles) or held > 2 * len(tiles)


def test_assembled_cells_are_where_their_boxes_say(cells):
    field = assembled(cells, np.random.default_rng(5), 40.0, 6, 0.0)
    inside = field.boxes[(field.boxes[:, :2] > 0).all(axis=1) & (field.boxes[:, 2:] < TILE).all(axis=1)]
    assert len(inside) >= 2
    sides = inside[:, 2:] - inside[:, :2]
    assert np.median(sides) == pytest.approx(42, abs=9)
    dark = field.image.mean(axis=2)
    within = [dark[int(y1) : int(y2), int(x1) : int(x2)].min() for x1, y1, x2, y2 in inside]
    assert max(within) < np.quantile(dark, 0.2)  # a nucleus lies in every box
    assert len(assembled(cells, np.random.default_rng(5), 40.0, 0, 0.0).boxes) == 0


def test_where_a_photograph_ends_in_a_tile_only_what_is_seen_counts(cells):
    field = assembled(cells, np.random.default_rng(5), 40.0, 6, 0.0)
    small = next(
        one
        for one in (finished(field, np.random.default_rng(seed)) for seed in range(40))
        if not one.counted[0].any() and not one.counted[:, 0].any()
    )
    rows, columns = np.nonzero(small.counted)
    known = small.boxes[~np.isnan(small.boxes[:, 0])]
    assert (known[:, [1, 3]] >= 4 * rows.min() - 4).all()
    assert (known[:, [0, 2]] <= 4 * columns.max() + 8).all()
    inside = slice(4 * rows.min(), 4 * rows.max()), slice(4 * columns.min(), 4 * columns.max())
    assert np.array_equal(small.image[:, *inside], field.image.transpose(2, 0, 1)[:, *inside])
    assert not np.array_equal(small.image, field.image.transpose(2, 0, 1))


def test_cells_without_a_trusted_outline_are_refused(manifest, context: Context):
    blank = Segment(lambda images: (images[:, 0] > 300, images[:, 0] > 300, torch.zeros(len(images)) > 0), True)
    with pytest.raises(CellfeatError, match="none of the 1 photographs has a cell whose outline can be trusted"):
        cut_cells([manifest.parent / "0.png"], 64, blank, context)


def test_a_killed_training_goes_on_and_ends_where_an_undisturbed_one_does(manifest, tmp_path, monkeypatch):
    (tmp_path / "ids.txt").write_text("cell-2\n")
    arguments = (*QUICK, "--data", manifest, "--leave-out", tmp_path / "ids.txt")
    output = run("-o", tmp_path / "whole.safetensors", *arguments)
    assert "cells of fresh drawn smears found (recall " in output
    about = read_header(tmp_path / "whole.safetensors")
    assert about["saw"][-1] == "here (images without labels, 1 left out)"
    assert about["saw"][0] == "drawn cells"
    assert about["history"][-1]["step"] == 4
    assert about["settings"]["tiles"] == 6
    assert set(about["drawn"]) == {"cells", "found", "wrong"}

    assert "threshold 0." in run(
        "--weights", tmp_path / "whole.safetensors", "-o", tmp_path / "checked.safetensors", command="check-detector"
    )
    assert (tmp_path / "checked.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()

    usual = Training._train_step

    def killed(self: Training) -> None:
        usual(self)
        torch.save(self._state(), self.context.scratch / "detector.pt")
        if self.step == 2:
            raise RuntimeError("killed")

    monkeypatch.setattr(Training, "_train_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run("-o", tmp_path / "again.safetensors", *arguments)
    assert not (tmp_path / "again.safetensors").exists()
    monkeypatch.setattr(Training, "_train_step", usual)
    monkeypatch.setattr(detector_tokens, "collected", None)  # nothing is drawn or cut a second time
    monkeypatch.setattr(detector_tokens, "cut_cells", None)
    run("-o", tmp_path / "again.safetensors", *arguments)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list((tmp_path / "cache" / "scratch").glob("detector-*"))
    own = CellDetector(str(tmp_path / "again.safetensors"))
    assert own.weights_saw[-1] == "here (images without labels, 1 left out)"
    assert own.detect(torch.zeros(3, 30, 40, dtype=torch.uint8)).shape[1] == 4


def test_mistakes(tmp_path):
    with pytest.raises(CellfeatError, match=r"tiles 0, .* all but seed must be above 0"):
        DetectorSettings(tiles=0)
    with pytest.raises(CellfeatError, match=r"lr nan, .*must be above 0"):
        DetectorSettings(lr=float("nan"))
    with pytest.raises(CellfeatError, match=r"--domain and --leave-out name photographs; name their manifest too"):
        run("-o", tmp_path / "own.safetensors", "--domain", "here")
    (tmp_path / "own.safetensors").write_bytes(b"")
    with pytest.raises(CellfeatError, match=r"own.safetensors exists already; name another file"):
        run("-o", tmp_path / "own.safetensors")
    with pytest.raises(CellfeatError, match=r"precision is torch.float16; a detector trains in fp32 or bf16"):
        run("-o", tmp_path / "half.safetensors", "--device", "cpu", "--precision", "fp16")
    assert not (tmp_path / "half.safetensors").exists()


def test_a_loss_that_is_no_number_stops_the_training(context: Context):
    tiles = {"tokens": torch.full((2, 4, 14, 14), float("nan")), "image": torch.zeros(2, 3, TILE, TILE)}
    tiles |= {"boxes": torch.full((2, 3, 4), float("nan")), "counted": torch.ones(2, 56, 56, dtype=torch.bool)}
    with pytest.raises(CellfeatError, match=r"training: heat is no number at step 1; try a lower --lr \(now 0.002\)"):
        Training(DetectorSettings(width=2, batch_size=2, steps=2), tiles, context).run()
