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
from cellfeat.training import Checkpoint

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
    assert set(about["epoch_losses"]) == {"loss", "cross-entropy", "1 - Dice", "nucleus", "quality"}
    losses = about["epoch_losses"]["loss"]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    assert about["base"] == "cell-tiny-v1"
    assert about["images"] == 6
    files = {str(path.relative_to(adapter)) for path in adapter.rglob("*") if path.is_file()}
    assert files == {
        "adapter.json",
        "decoder.safetensors",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
        "losses.png",
        "masks.png",
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
    with pytest.raises(CellfeatError, match=f"made for the weights 'cell-tiny-v1' .*{meant}.*{got}"):
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


@pytest.mark.parametrize("step_of_kill", [2, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(tmp_path, context, monkeypatch, step_of_kill):
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    data = pairs(4)  # two steps an epoch
    whole = finetune(data, made(tmp_path / "whole"), QUICK, (), context)
    assert not list(context.scratch.iterdir()), "the checkpoint outlives the run"
    step, calls = finetuning.Finetuning.step, []

    def killed(self, epoch, rows):
        calls.append(1)
        if len(calls) == step_of_kill:
            raise Killed
        return step(self, epoch, rows)

    monkeypatch.setattr(finetuning.Finetuning, "step", killed)
    with pytest.raises(Killed):
        finetune(data, made(tmp_path / "killed"), QUICK, (), context)
    resumed = finetune(data, made(tmp_path / "resumed"), QUICK, (), context)
    assert f"fine-tuning goes on after step {step_of_kill - 1} of 6" in context.reporter.notes
    assert resumed == whole
    assert len(calls) == 7
    for name in ("decoder.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_a_checkpoint_of_other_settings_is_not_continued(context, monkeypatch):
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    settings = FinetuneSettings(image_size=SIZE, epochs=1, batch_size=3)
    data = pairs(2)
    path = finetuning.find_weights("cell-tiny", LoraSam.named_weights)
    frames = load_frames(data, SIZE, context)
    finetuning.Finetuning(settings, path, frames, context).fit()
    assert len(finetuning.Finetuning(QUICK, path, frames, context).fit()["loss"]) == QUICK.epochs
    assert not [note for note in context.reporter.notes if "goes on" in note]


def test_parts_of_a_batch_add_up_to_its_cross_entropy(context, tmp_path):
    whole, parts = (
        finetuning.Finetuning(
            replace(QUICK, epochs=1, batch_size=5, accumulate=parts),
            find_weights("cell-tiny", LoraSam.named_weights),
            load_frames(pairs(5), SIZE, context),
            replace(context, scratch=made(tmp_path / str(parts))),
        ).fit()
        for parts in (1, 3)
    )
    assert parts["cross-entropy"] == pytest.approx(whole["cross-entropy"], rel=1e-5)
    assert parts["1 - Dice"] == pytest.approx(whole["1 - Dice"], rel=0.2)  # sums run over each part


def test_a_schedule_can_be_broken_off(context, tmp_path):
    """The weights after epoch 2 of 4 epochs' schedule, not those of a schedule of 2."""
    path, frames = find_weights("cell-tiny", LoraSam.named_weights), load_frames(pairs(3), SIZE, context)

    def rates(**numbers) -> list[float]:
        own = replace(context, scratch=made(tmp_path / str(numbers)))
        run = finetuning.Finetuning(replace(QUICK, **numbers), path, frames, own)
        seen, step = [], run.step
        run.step = lambda *args: seen.append(run.optimizer.param_groups[0]["lr"]) or step(*args)
        assert len(run.fit()["loss"]) == len(seen)
        return seen

    broken_off = rates(epochs=4, stop_after=2)
    assert broken_off == [epoch_rate(epoch, QUICK.lr, 4, QUICK.warmup) for epoch in (1, 2)]
    assert broken_off != rates(epochs=2)
    assert len(rates(epochs=1, stop_after=85)) == 1


def test_a_loss_that_explodes_names_step_and_remedy(context):
    settings = replace(QUICK, lr=1e30)
    path, frames = find_weights("cell-tiny", LoraSam.named_weights), load_frames(pairs(3), SIZE, context)
    with pytest.raises(CellfeatError, match=r"the loss is no number at step 2 of 3 .*lr 1e\+29, now 1e\+30"):
        finetuning.Finetuning(settings, path, frames, context).fit()


def test_a_network_that_finds_nothing_is_told(context):
    path, frames = find_weights("cell-tiny", LoraSam.named_weights), load_frames(pairs(2), SIZE, context)
    run = finetuning.Finetuning(QUICK, path, frames, context)
    with torch.no_grad():
        for layer in run.network.mask_decoder.output_hypernetworks_mlps:
            layer.layers[-1].weight.zero_()
            layer.layers[-1].bias.zero_()
    assert not run.examples()["found"].any()
    assert any("finds no cell in 2 of the 2 training images" in note for note in context.reporter.notes)


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


def test_half_precision_on_the_cpu_is_trained_in_float32_and_it_is_said(context, tmp_path):
    path, frames = find_weights("cell-tiny", LoraSam.named_weights), load_frames(pairs(2), SIZE, context)
    settings = replace(QUICK, epochs=1)
    losses = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        half = replace(context, dtype=dtype, scratch=made(tmp_path / str(dtype)))
        losses[dtype] = finetuning.Finetuning(settings, path, frames, half).fit()["loss"][0]
    assert losses[torch.float16] == losses[torch.float32] != losses[torch.bfloat16]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.05)
    [note] = context.reporter.notes
    assert "fp16 trains on a GPU alone" in note


def test_impossible_numbers_are_refused(tmp_path, context):
    with pytest.raises(CellfeatError, match="epochs is 0; at least 1 is needed"):
        LoraSam.finetune(pairs(1), tmp_path, context=context, epochs=0)
    with pytest.raises(CellfeatError, match="multiples of 16"):
        LoraSam.finetune(pairs(1), tmp_path, context=context, image_size=100)
