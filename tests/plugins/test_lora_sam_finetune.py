"""Fine-tuning LoRA-SAM to images with masks, and the adapters it leaves behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam import finetune as finetuning
from cellfeat_lora_sam.checkpoints import save_weights
from cellfeat_lora_sam.finetune import FinetuneSettings, epoch_rate, finetune
from cellfeat_lora_sam.finetune_data import augment, load_frames
from cellfeat_lora_sam.network import SamNetwork
from cellfeat_lora_sam.sizes import BUILDS

from cellfeat import CellfeatError, find_weights, synthetic

SIZE = 64
QUICK = FinetuneSettings(image_size=SIZE, epochs=3, batch_size=3, lr=2e-3)


def pairs(count: int = 6, size: int = 48) -> list[tuple[np.ndarray, np.ndarray]]:
    """Synthetic cells whose mask is the nucleus: something that cell-tiny was not trained to find."""
    rng = np.random.default_rng(5)
    cells = [synthetic.draw_cell("lymphocyte", "lab-a", rng, size=size) for _ in range(count)]
    return [(cell.image, cell.mask == 255) for cell in cells]


def images_of(data: list[tuple[np.ndarray, np.ndarray]], context) -> torch.Tensor:
    return torch.from_numpy(load_frames(data, SIZE, context).images).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    from cellfeat.testing import cpu_context

    folder = tmp_path_factory.mktemp("adapter")
    context = cpu_context(tmp_path_factory.mktemp("scratch"), seed=1234)
    LoraSam.finetune(
        pairs(),
        folder,
        context=context,
        saw=("nuclei",),
        image_size=SIZE,
        epochs=QUICK.epochs,
        batch_size=QUICK.batch_size,
        lr=QUICK.lr,
    )
    return folder


def test_the_loss_falls_and_only_safe_files_are_left(adapter):
    about = json.loads((adapter / "adapter.json").read_text())
    losses = about["epoch_losses"]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    assert about["base"] == "cell-tiny"
    assert about["images"] == 6
    files = {str(path.relative_to(adapter)) for path in adapter.rglob("*") if path.is_file()}
    assert files == {
        "adapter.json",
        "decoder.safetensors",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
    }
    config = json.loads((adapter / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)


def test_a_loaded_adapter_gives_the_masks_of_the_trained_network(tmp_path, context):
    data = pairs(3)
    context.scratch.mkdir(exist_ok=True)
    path = find_weights("cell-tiny", LoraSam.named_weights)
    frames = load_frames(data, SIZE, context)
    run = finetuning.Finetuning(QUICK, path, frames, context)
    run.fit()
    finetuning.save_adapter(tmp_path, run.network, run.lora, {"base_sha256": finetuning.file_sha256(path), "saw": []})
    images = images_of(data, context)
    with torch.no_grad():
        trained = run.network.eval()(images)
    loaded = LoraSam(adapter=str(tmp_path), image_size=SIZE)
    features = loaded.encode(images)
    torch.testing.assert_close(features.embedding, trained.tokens, rtol=1e-4, atol=1e-4)
    wanted = finetuning_mask(trained.logits)
    assert (features.mask != wanted).float().mean() < 1e-3


def finetuning_mask(logits: torch.Tensor) -> torch.Tensor:
    from cellfeat_lora_sam.network import two_class_mask

    return two_class_mask(logits, SIZE)


def test_an_adapter_changes_digest_masks_and_provenance(adapter, context):
    plain, tuned = LoraSam(image_size=SIZE), LoraSam(adapter=str(adapter), image_size=SIZE)
    assert tuned.weights_sha256 != plain.weights_sha256
    assert tuned.weights_saw == (*plain.weights_saw, "nuclei")
    images = images_of(pairs(2), context)
    assert not torch.equal(plain.encode(images).embedding, tuned.encode(images).embedding)


def test_the_digest_covers_both_parts_of_an_adapter(adapter, tmp_path):
    for part in ("decoder.safetensors", "lora/adapter_model.safetensors"):
        copy = tmp_path / part.replace("/", "-")
        shutil.copytree(adapter, copy)
        content = bytearray((copy / part).read_bytes())
        content[-1] ^= 1
        (copy / part).write_bytes(content)
        first, second = (LoraSam(adapter=str(folder), image_size=SIZE) for folder in (adapter, copy))
        assert first.weights_sha256 != second.weights_sha256


def test_an_adapter_on_other_weights_is_refused_with_both_values(adapter, tmp_path):
    other = tmp_path / "other.safetensors"
    save_weights(other, SamNetwork(BUILDS["tiny"], 224).state_dict(), {})
    meant, got = LoraSam(image_size=SIZE).weights_sha256, finetuning.file_sha256(other)
    with pytest.raises(CellfeatError, match=f"made for the weights 'cell-tiny' .*{meant}.*{got}"):
        LoraSam(weights=str(other), adapter=str(adapter))


def test_folders_that_are_no_adapter(adapter, tmp_path):
    with pytest.raises(CellfeatError, match=r"is no adapter, or not a whole one: it has no adapter\.json"):
        LoraSam(adapter=str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    (copy / "adapter.json").write_text("{")
    with pytest.raises(CellfeatError, match=r"adapter\.json is damaged"):
        LoraSam(adapter=str(copy))


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(tmp_path, context, monkeypatch):
    monkeypatch.setattr(finetuning, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    data = pairs(3)
    whole = finetune(data, made(tmp_path / "whole"), QUICK, (), context)
    assert not list(context.scratch.iterdir()), "the checkpoint outlives the run"
    step, calls = finetuning.Finetuning.step, []

    def killed_in_epoch_3(self, images, masks):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return step(self, images, masks)

    monkeypatch.setattr(finetuning.Finetuning, "step", killed_in_epoch_3)
    with pytest.raises(Killed):
        finetune(data, made(tmp_path / "killed"), QUICK, (), context)
    resumed = finetune(data, made(tmp_path / "resumed"), QUICK, (), context)
    assert "fine-tuning goes on after epoch 2 of 3" in context.reporter.notes
    assert resumed == pytest.approx(whole, rel=1e-5)
    assert len(calls) == 4


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path, context, monkeypatch):
    monkeypatch.setattr(finetuning, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    settings = FinetuneSettings(image_size=SIZE, epochs=1, batch_size=3)
    data = pairs(2)
    path = finetuning.find_weights("cell-tiny", LoraSam.named_weights)
    frames = load_frames(data, SIZE, context)
    finetuning.Finetuning(settings, path, frames, context).fit()
    other = finetuning.Finetuning(QUICK, path, frames, context)
    other.fit()
    assert len(other.losses) == QUICK.epochs
    assert not [note for note in context.reporter.notes if "goes on" in note]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_empty_masks_are_left_out_and_counted(context):
    data = pairs(3)
    data[1] = (data[1][0], np.zeros_like(data[1][1]))
    frames = load_frames(data, SIZE, context)
    assert len(frames.images) == len(frames.masks) == 2
    assert "1 of 3 images have an empty mask and are left out of training" in context.reporter.notes
    with pytest.raises(CellfeatError, match="none of the 1 masks has a cell"):
        load_frames(data[1:2], SIZE, context)


def test_an_image_and_a_mask_of_different_size_are_refused(context):
    image, mask = pairs(1)[0]
    with pytest.raises(CellfeatError, match=r"pair 0: the image is \(48, 48\), its mask \(48, 40\)"):
        load_frames([(image, mask[:, :40])], SIZE, context)


def test_colours_are_means_of_each_image_own(context):
    black, white = np.zeros((40, 40, 3), np.uint8), np.full((80, 80, 3), 200, np.uint8)
    white[::2] = 100
    frames = load_frames([(image, np.ones(image.shape[:2], bool)) for image in (black, white)], SIZE, context)
    np.testing.assert_allclose(frames.mean, 75.0)
    np.testing.assert_allclose(frames.std, 25.0)
    assert frames.images.shape == (2, SIZE, SIZE, 3)


def test_the_learning_rate_is_the_published_one():
    rows = [
        (1, 1e-05),
        (5, 5e-05),
        (10, 0.0001),
        (11, 9.998903417374228e-05),
        (75, 6.0395584540887963e-05),
        (85, 5e-05),
        (150, 1.0926199633097157e-06),
    ]
    for epoch, rate in rows:
        assert epoch_rate(epoch, 1e-4, 150, 10) == pytest.approx(rate, rel=1e-9)
    assert epoch_rate(1, 1e-4, 5, 10) == 1e-4  # a short run does not spend itself warming up


def test_augmentation_turns_image_and_mask_alike_with_the_published_chances():
    rng = np.random.default_rng(0)
    mask = np.zeros((21, 21), bool)
    mask[3:9, 5:18] = True
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 200
    kinds = {"same": 0, "turned": 0, "rotated": 0}
    for _ in range(600):
        new, moved = augment(image, mask, rng)
        assert np.array_equal(new[..., 0] > 0, moved)
        dihedral = {np.rot90(flip, k).tobytes() for flip in (mask, mask[:, ::-1]) for k in range(4)}
        if new is image:
            kinds["same"] += 1
        elif moved.tobytes() in dihedral:
            kinds["turned"] += 1
        else:
            kinds["rotated"] += 1
    assert kinds["turned"] == pytest.approx(300 + 150 / 40, abs=45)  # a rotation by 0° looks like no turn
    assert kinds["same"] == pytest.approx(150, abs=40)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ({"lr": 0.0}, "lr is 0; a number above 0 is needed"),
        ({"lr": -1e-4}, "lr is -0.0001; a number above 0"),
        ({"lr": float("nan")}, "lr is nan; a number above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; at least 0 is needed"),
        ({"rank": 0}, "rank is 0; at least 1 is needed"),
    ],
)
def test_impossible_rates_are_refused_before_an_image_is_read(tmp_path, context, number, message):
    class Unread:
        def __len__(self):
            raise AssertionError("images were asked for")

    with pytest.raises(CellfeatError, match=message):
        LoraSam.finetune(Unread(), tmp_path, context=context, **number)


def test_half_precision_is_trained_in_float32_and_it_is_said(context):
    path = find_weights("cell-tiny", LoraSam.named_weights)
    frames = load_frames(pairs(1), SIZE, context)
    for dtype, trained in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        assert finetuning.Finetuning(QUICK, path, frames, replace(context, dtype=dtype)).dtype == trained
    [note] = context.reporter.notes
    assert "trains in float32" in note


def test_impossible_numbers_are_refused(tmp_path, context):
    with pytest.raises(CellfeatError, match="epochs is 0; at least 1 is needed"):
        LoraSam.finetune(pairs(1), tmp_path, context=context, epochs=0)
    with pytest.raises(CellfeatError, match="multiples of 16"):
        LoraSam.finetune(pairs(1), tmp_path, context=context, image_size=100)
