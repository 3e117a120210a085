"""Pre-training on synthetic cells: settings, data, and a run that is killed and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.checkpoints import read_weights
from cellfeat_lora_sam.network import SamNetwork
from cellfeat_lora_sam.pretrain import PretrainConfig, pretrain, read_config, scale_tokens, token_deviation
from cellfeat_lora_sam.pretrain_data import SyntheticCells, _window, batches

from cellfeat import CellfeatError

CONFIGURATION = Path(__file__).parents[2] / "benchmarks" / "cell-tiny.yaml"
QUICK = PretrainConfig(
    image_size=32, steps=3, batch_size=2, warmup=1, drawn_size=48, export_every=1, held_out=2, precision="fp32"
)


def test_the_shipped_weights_were_made_by_the_shipped_configuration():
    config = read_config(CONFIGURATION)
    meta = read_weights(LoraSam.named_weights["cell-tiny"].path).meta
    assert meta["config"] == {**config.__dict__, "shares": list(config.shares)}
    assert meta["held_out"]["iou"] > 0.85


@torch.inference_mode()
def test_tokens_are_scaled_and_nothing_else_changes():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = read_network(LoraSam.named_weights["cell-tiny"].path, 64)
    before = network(images)
    scale_tokens(network, 0.25)
    after = network(images)
    torch.testing.assert_close(after.tokens, 0.25 * before.tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-3)


def test_the_shipped_tokens_have_unit_deviation_on_cells(context):
    network = read_network(LoraSam.named_weights["cell-tiny"].path, 224)
    few = replace(read_config(CONFIGURATION), held_out=8)
    assert token_deviation(network, few, context) == pytest.approx(1, abs=0.2)


def read_network(path: Path, size: int) -> SamNetwork:
    from cellfeat_lora_sam.checkpoints import build_network

    return build_network(read_weights(path), size).eval()


def test_cells_are_a_function_of_seed_and_index():
    cells, again, other = (SyntheticCells(seed, 4, 64, 48, (0.3, 0.9)) for seed in (1, 1, 2))
    image, mask, label = cells[2]
    assert image.shape == (64, 64, 3)
    assert mask.shape == (16, 16)
    assert set(np.unique(mask)) <= {0, 128, 255}
    assert np.array_equal(image, again[2][0])
    assert label == again[2][2]
    assert not np.array_equal(image, other[2][0])


def test_a_batch_later_on_is_the_same_as_on_the_way_there():
    cells = SyntheticCells(1, 6, 32, 48, (0.3, 0.9))
    _, second, _ = batches(cells, 2)
    resumed = next(iter(batches(cells, 2, first=2)))
    assert torch.equal(second.images, resumed.images)
    assert torch.equal(second.cell, resumed.cell)
    assert (second.nucleus <= second.cell).all()


def test_the_window_holds_the_cell_whole():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = np.zeros((100, 100), np.uint8)
        top, left = rng.integers(5, 40, 2)
        height, width = rng.integers(10, 55, 2)
        mask[top : top + height, left : left + width] = 255
        share = rng.uniform(0.25, 0.9)
        row, column, side = _window(mask, share, rng)
        assert min(row, column) >= 0
        assert max(row, column) + side <= 100
        assert mask[row : row + side, column : column + side].sum() == mask.sum()
        if side < 100:
            assert max(height, width) / side == pytest.approx(share, abs=0.05)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path, context, monkeypatch):
    first, second = (replace_scratch(context, tmp_path / name) for name in ("one", "two"))
    found = pretrain(QUICK, tmp_path / "whole.safetensors", first)
    assert 0 <= found["iou"] <= 1

    def note(text):
        if text.startswith("step 2"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(second.reporter, "note", note)
        with pytest.raises(Killed):
            pretrain(QUICK, tmp_path / "killed.safetensors", second)
    interim = read_weights(tmp_path / "killed.safetensors")
    assert interim.meta["steps"] == 2
    assert "held_out" not in interim.meta
    pretrain(QUICK, tmp_path / "killed.safetensors", second)
    assert "pre-training goes on after step 2 of 3" in second.reporter.notes
    whole, resumed = (read_weights(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert whole.meta == resumed.meta
    assert whole.meta["saw"] == list(LoraSam.named_weights["cell-tiny"].saw)
    for name, value in whole.state.items():
        torch.testing.assert_close(resumed.state[name], value, rtol=1e-3, atol=1e-4, msg=name)


def replace_scratch(context, folder: Path):
    from cellfeat.console import SilentReporter

    folder.mkdir()
    return replace(context, scratch=folder, reporter=SilentReporter())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps: 3", r"holds \['stepps'\], which is no pre-training setting. Possible: build, image_size"),
        ("- 3", "holds list, which is no pre-training setting"),
        ("steps: many", "steps = 'many': Input should be a valid integer"),
        ("build: huge", "build = 'huge'. Possible: tiny, vit_b"),
        ("precision: fp8", "no precision named 'fp8'. Possible: fp32"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_wrong_settings_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CellfeatError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_an_absent_configuration_is_one_clear_line(tmp_path):
    with pytest.raises(CellfeatError, match=r"absent\.yaml cannot be read"):
        read_config(tmp_path / "absent.yaml")
