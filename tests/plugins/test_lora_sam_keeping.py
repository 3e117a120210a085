"""Fine-tuning weights that tell the nucleus: cells are learned, the nucleus is kept, quality is learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam, distillation
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.described import read_about
from cellfeat_lora_sam.distillation import keeping_loss
from cellfeat_lora_sam.finetune import FinetuneSettings, Finetuning, finetune
from cellfeat_lora_sam.finetune_data import load_frames
from cellfeat_lora_sam.network import SamOutput
from helpers import with_nucleus, without_nucleus

from cellfeat import synthetic
from cellfeat.distributed import Part
from cellfeat.training import Checkpoint

SIZE = 64
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(with_nucleus(tmp_path_factory.mktemp("weights") / "nucleus.safetensors"))


@pytest.fixture
def settings(weights) -> FinetuneSettings:
    return FinetuneSettings(weights, SIZE, epochs=4, batch_size=3, lr=2e-3)


def pairs(count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Drawn cells whose mask is the nucleus: something that the weights were not trained to find."""
    rng = np.random.default_rng(5)
    cells = [synthetic.draw_cell("lymphocyte", "lab-a", rng, size=48) for _ in range(count)]
    return [(cell.image, cell.mask == 255) for cell in cells]


def trained(settings: FinetuneSettings, context, count: int = 6) -> Finetuning:
    run = Finetuning(settings, Path(settings.weights), load_frames(pairs(count), SIZE, context), context)
    run.losses = run.fit()
    return run


def random_output(seed: int, count: int = 4) -> SamOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((count, 3, 8, 8), generator=generator)
    return SamOutput(torch.zeros(count), logits, torch.rand((count, 3), generator=generator))


def test_the_loss_is_the_one_written_down():
    output, before = random_output(0), random_output(1)
    cell = torch.rand((4, 8, 8), generator=torch.Generator().manual_seed(2)) > 0.5
    cell[3] = False
    got = keeping_loss(output, before, cell)
    logits, chance = output.logits[:, 2].double().numpy(), 1 / (1 + np.exp(-before.logits[:, 2].double().numpy()))
    nucleus = np.mean(np.log1p(np.exp(logits)) - chance * logits)
    found, truth = (output.logits[:, 1] > output.logits[:, 0]).numpy(), cell.numpy()
    overlap = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    told, wanted = output.quality.numpy()[:, 1:], np.stack([overlap, before.quality.numpy()[:, 2]], axis=1)
    quality = np.mean(np.square(told - wanted))
    assert got.nucleus.item() == pytest.approx(nucleus, rel=1e-5)
    assert got.quality.item() == pytest.approx(quality, rel=1e-5)
    assert got.loss.item() == pytest.approx(0.2 * nucleus + 0.05 * quality, rel=1e-5)
    half = keeping_loss(output, before, cell, Part(np.arange(4), 0.5, 1.0, 4))
    assert half.loss.item() == pytest.approx(got.loss.item() / 2)


def test_the_nucleus_stays_and_the_quality_is_learned(settings, context, tmp_path, monkeypatch):
    settings = replace(settings, epochs=12)  # what is not kept is forgotten by and by
    kept = trained(settings, context)
    assert set(kept.losses) == {"loss", "cross-entropy", "1 - Dice", "nucleus", "quality"}
    assert kept.losses["loss"][-1] < 0.9 * kept.losses["loss"][0]
    assert kept.losses["quality"][-1] < 0.5 * kept.losses["quality"][0]
    monkeypatch.setattr(distillation, "NUCLEUS_SHARE", 0.0)
    (tmp_path / "other").mkdir()
    lost = trained(settings, replace(context, scratch=tmp_path / "other"))
    images = torch.from_numpy(kept.frames.images).permute(0, 3, 1, 2)
    untouched = build_network(read_weights(Path(settings.weights)), SIZE)
    assert kept.losses["nucleus"][-1] < 0.7 * lost.losses["nucleus"][-1]
    with torch.no_grad():
        before, teacher = (network(images).logits[:, 2] for network in (untouched, kept.teacher))
    torch.testing.assert_close(teacher, before, rtol=1e-3, atol=1e-3)


def test_the_adapter_keeps_three_masks_and_the_way_colours_are_taken(settings, context, tmp_path):
    for own in (None, False):
        folder = tmp_path / str(own)
        folder.mkdir()
        finetune(pairs(3), folder, replace(settings, epochs=1, own_colours=own), ("nuclei",), context)
        assert read_about(folder)["own_colours"] is (own is None)
        assert set(json.loads((folder / "adapter.json").read_text())["epoch_losses"]) >= {"nucleus", "quality"}
        backbone = LoraSam(weights=settings.weights, adapter=str(folder), image_size=SIZE)
        assert (backbone._network.masks, backbone._network.own_colours) == (3, own is None)
        base, mean = read_weights(Path(settings.weights)).state["pixel_mean"], backbone._network.pixel_mean
        assert torch.equal(mean, base) is (own is None), "measured colours belong to networks that use them"
        features = backbone.encode(torch.zeros((1, 3, SIZE, SIZE), dtype=torch.uint8))
        assert features.pooled.shape == (1, 6 * 192)
        forced = LoraSam(weights=settings.weights, adapter=str(folder), image_size=SIZE, own_colours=own is not None)
        assert forced._network.own_colours is (own is not None)


def test_weights_of_two_masks_are_trained_as_published(context, tmp_path):
    path = without_nucleus(tmp_path / "two.safetensors")
    run = trained(FinetuneSettings(str(path), SIZE, epochs=1, batch_size=3), context, 3)
    assert (run.network.masks, run.teacher) == (2, None)
    assert set(run.losses) == {"loss", "cross-entropy", "1 - Dice"}
    colours = run.network.pixel_mean.flatten().tolist()
    assert colours == pytest.approx(run.frames.mean.tolist())


def test_parts_of_a_batch_add_up_to_the_whole(settings, context, tmp_path):
    losses = {}
    for parts in (1, 3):
        (tmp_path / str(parts)).mkdir()
        own = replace(context, scratch=tmp_path / str(parts))
        losses[parts] = trained(replace(settings, epochs=1, batch_size=5, accumulate=parts), own, 5).losses
    for name in ("nucleus", "quality", "cross-entropy"):
        assert losses[3][name] == pytest.approx(losses[1][name], rel=1e-4)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(settings, tmp_path, context, monkeypatch):
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    for name in ("whole", "killed", "resumed"):
        (tmp_path / name).mkdir()
    data = pairs(4)  # two steps an epoch
    finetune(data, tmp_path / "whole", settings, (), context)
    step, calls = Finetuning.step, []

    def killed(self, epoch, rows):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return step(self, epoch, rows)

    monkeypatch.setattr(Finetuning, "step", killed)
    with pytest.raises(Killed):
        finetune(data, tmp_path / "killed", settings, (), context)
    finetune(data, tmp_path / "resumed", settings, (), context)
    assert "fine-tuning goes on after step 3 of 8" in context.reporter.notes
    for name in ("decoder.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    whole, resumed = (json.loads((tmp_path / name / "adapter.json").read_text()) for name in ("whole", "resumed"))
    assert whole["epoch_losses"] == resumed["epoch_losses"]
