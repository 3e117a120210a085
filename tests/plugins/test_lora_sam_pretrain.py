"""Pre-training itself: steps, teacher, checkpoints, what is written; and the weights that are shipped."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import LoraSam, pretrain, pretrain_check
from cellfeat_lora_sam.checkpoints import build_network, read_weights, save_weights
from cellfeat_lora_sam.network import SamNetwork, SamOutput
from cellfeat_lora_sam.pretrain import OVERDONE, Pretraining
from cellfeat_lora_sam.pretrain_check import PLAIN_FRAMES as PLAIN
from cellfeat_lora_sam.pretrain_check import held_out_iou, scale_tokens, token_deviation
from cellfeat_lora_sam.pretrain_config import LossWeights, read_config
from cellfeat_lora_sam.pretrain_pool import Pool
from cellfeat_lora_sam.sizes import BUILDS
from helpers import with_nucleus
from pretraining import MINI, QUICK, as_photographs, drawn_cells, pool_of, with_scratch
from torch.nn import functional

from cellfeat import CellfeatError

pytestmark = pytest.mark.usefixtures("one_thread")
SHIPPED = Path(__file__).parents[2] / "benchmarks" / "cell-tiny.yaml"
SAW = ["drawn cells", "one (images without labels)"]


@pytest.fixture(autouse=True)
def mini_build(monkeypatch) -> None:
    monkeypatch.setitem(BUILDS, "mini", MINI)


@pytest.fixture
def pools(context) -> tuple[Pool, Pool]:
    drawn = drawn_cells(context)
    return drawn, as_photographs(drawn_cells(context, replace(QUICK, seed=9)), [True, True, False, True])


def started(pools: tuple[Pool, Pool | None], context, **changes) -> Pretraining:
    return Pretraining(replace(QUICK, **changes), *pools, context)


# One step


def test_steps_change_between_whole_frames_and_near_views(pools, context, monkeypatch):
    run, seen = started(pools, context), []
    monkeypatch.setattr(run.network, "forward", lambda images: seen.append(images) or 1 / 0)
    for step, side, count in ((0, 64, 2), (1, 32, 4), (2, 64, 2), (3, 32, 4)):
        run.step = step
        with pytest.raises(ZeroDivisionError):
            run.train_step()
        assert seen[-1].shape == (count, 3, side, side)
    near = seen[1]
    assert not torch.equal(near[:2], near[2:])  # two views of each cell


def test_some_frames_and_no_near_views_are_overdone(pools, context, monkeypatch):
    run, seen = started(pools, context), []
    usual = pretrain.views
    monkeypatch.setattr(pretrain, "views", lambda *args, **named: seen.append(args[4:]) or usual(*args, **named))
    for step in range(0, 16):
        run.step, before = step, len(seen)
        run.train_step()
        strong = step % 8 == 0  # a frame is every second step, and every fourth of them is overdone
        assert seen[before] == ((OVERDONE,) if strong else (1.0,)), step
        assert step % 2 == 0 or seen[before:] == [(1.0,), (1.0,), ()]  # both of the student, the teacher's is weak


def test_a_step_is_a_function_of_seed_and_step(pools, context):
    first, again, other = (started(pools, context) for _ in range(3))
    other.config = replace(QUICK, seed=QUICK.seed + 1)
    again.step = first.step = other.step = 1
    torch.manual_seed(5)
    wanted = first.train_step()
    torch.manual_seed(6)
    assert again.train_step() == wanted
    assert other.train_step() != wanted
    assert set(wanted) == {"cell", *(field.name for field in fields(LossWeights))}
    for mine, value in zip(again.parameters, first.parameters, strict=True):
        assert torch.equal(mine, value)


def test_weights_of_the_losses_scale_their_terms(pools, context):
    ones = LossWeights(*[1.0] * len(fields(LossWeights)))
    plain = started(pools, context, weights=ones)
    plain.step = 1
    wanted = plain.train_step()
    assert all(value > 0 for value in wanted.values())
    factors = {name: factor for factor, name in enumerate(wanted.keys() - {"cell"}, start=2)}
    assert set(factors) == {field.name for field in fields(LossWeights)}
    other = started(pools, context, weights=LossWeights(**factors))
    other.step = 1
    found = other.train_step()
    assert found == {name: pytest.approx(factors.get(name, 1) * value, rel=1e-4) for name, value in wanted.items()}


def test_rows_come_from_both_pools_in_the_wanted_shares(pools, context):
    run = started(pools, context, drawn_share=0.25)
    taken, rows = run._rows(8, torch.Generator().manual_seed(0))
    assert [len(r) for r in rows] == [2, 6]
    assert taken[0].drawn.min() >= 0
    assert taken[1].drawn.max() == -1
    alone = started((pools[0], None), context, drawn_share=0.25)
    assert [len(r) for r in alone._rows(8, torch.Generator().manual_seed(0))[1]] == [8]
    assert set(alone._rows(64, torch.Generator().manual_seed(0))[1][0].tolist()) == {0, 1, 2, 3}
    for share in (0.0, 1.0):
        assert started(pools, context, drawn_share=share).train_step()["cell"] > 0


def test_the_update_follows_rate_decay_and_running_mean(pools, context):
    run = started(pools, context, steps=10, warmup=4, cooldown=2, lr=0.01, average=0.9)
    before = [value.detach().clone() for value in run.network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, run.average.parameters(), strict=True))
    run.train_step()
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.01 / 4, pretrain.HEAD_RATE * 0.01 / 4}
    now = list(run.network.parameters())
    assert sum(not torch.equal(a, b) for a, b in zip(before, now, strict=True)) > 0.8 * len(now)
    for old, new, mean in zip(before, now, run.average.parameters(), strict=True):
        torch.testing.assert_close(mean, old + (new - old) * (1 - 1 / 11))  # the mean forgets its start soon
    run.step = 8
    run.train_step()
    assert max(group["lr"] for group in run.optimizer.param_groups) == 0.01


def test_matrices_decay_and_heads_are_slower(pools, context):
    run = started(pools, context)
    encoder, heads = run.network.image_encoder, run.heads
    group_of = {id(p): group for group in run.optimizer.param_groups for p in group["params"]}
    assert len(group_of) == len(run.parameters)
    for parameter, decay, rate in (
        (encoder.blocks[0].mlp.lin1.weight, QUICK.weight_decay, 1.0),
        (run.network.mask_decoder.mask_tokens.weight, QUICK.weight_decay, 1.0),
        (encoder.pos_embed, 0.0, 1.0),
        (encoder.blocks[0].attn.rel_pos_h, 0.0, 1.0),
        (encoder.blocks[0].norm1.weight, 0.0, 1.0),
        (heads.stain.weight, QUICK.weight_decay, 1.0),  # on tokens, not on the thousand numbers of a vector
        (heads.words.bias, 0.0, 1.0),
        (heads.bags.weight, QUICK.weight_decay, pretrain.HEAD_RATE),
        (heads.descriptors.bias, 0.0, pretrain.HEAD_RATE),
    ):
        group = group_of[id(parameter)]
        assert (group["weight_decay"], group["rate"]) == (decay, rate)


def test_the_teacher_is_the_running_mean_and_learns_nothing_by_itself(pools, context):
    run = started(pools, context)
    assert not any(p.requires_grad for p in [*run.average.parameters(), *run.average_heads.parameters()])
    generator = torch.Generator().manual_seed(0)
    source = (
        torch.rand(3, 3, 80, 80, generator=generator) * 255,
        torch.full((3, 80, 80), 255).byte(),
        torch.ones(3, 3),
    )
    first = run._answers(source, generator)
    assert first.chances.shape == (6, run.teacher.centre.shape[0])
    assert first.vectors.shape == (6, 6 * MINI.embed_dim)
    for values in first:
        assert torch.equal(values[:3], values[3:])  # the same for both views
    torch.testing.assert_close(first.chances.sum(1), torch.ones(6))
    before = run._answers(source, torch.Generator().manual_seed(0)).vectors
    with torch.no_grad():
        for value in [*run.network.parameters(), *run.heads.parameters()]:
            value.zero_()
    assert torch.equal(run._answers(source, torch.Generator().manual_seed(0)).vectors, before)


def test_the_network_recovers_masks_once_when_it_is_time(pools, context, tmp_path):
    config = replace(QUICK, recover_at=1, trusted=-9.0)
    run = Pretraining(config, *pools, context)
    run.recover()
    first = run.pools[1]
    assert first.known.tolist() == [True] * 4
    assert first.described.tolist() == [True, True, False, True]
    with torch.no_grad():
        run.average.mask_decoder.mask_tokens.weight.normal_(std=9.0)
    run.recover()
    assert run.pools[1] is first
    again = Pretraining(config, *pools, context)  # after a kill: what was kept in the scratch folder
    again.recover()
    assert torch.equal(again.pools[1].masks, first.masks)
    alone = Pretraining(config, pools[0], None, context)
    alone.recover()
    assert len(alone.pools) == 1
    for at, noted in ((None, False), (2, True)):
        done = with_scratch(context, tmp_path / str(at))
        pretrain.pretrain(replace(config, recover_at=at), *pools, SAW, tmp_path / "own.safetensors", done)
        assert any("recovered by the network itself" in note for note in done.reporter.notes) == noted
        if noted:
            notes = [note for note in done.reporter.notes if note.startswith(("step", "masks"))]
            assert [note.split()[0] for note in notes] == ["step", "step", "masks", "step"]


def test_photographs_whose_mask_is_not_known_tell_the_stain_alone(pools, context):
    drawn, photographed = pools
    nothing = torch.zeros(4, dtype=torch.bool)
    doubtful = photographed._replace(known=nothing, described=nothing.clone())
    run = started(pools, context, drawn_share=0.0)
    run.pools[1] = doubtful
    for run.step in (0, 1):  # a frame, and near views with the teacher
        terms = run.train_step()
        assert {name for name, value in terms.items() if value} == {"stain"}
    terms = started((drawn, photographed), context, drawn_share=1.0).train_step()
    assert {name for name, value in terms.items() if value} == {"cell", "nucleus", "quality", "types"}


def test_terms_without_weight_are_not_computed(pools, context, monkeypatch):
    run = started(pools, context, weights=LossWeights(compare=0.0, agree=0.0, stain=0.0))
    monkeypatch.setattr(run, "_answers", lambda *_: pytest.fail("the teacher was asked for nothing"))
    run.step = 1
    assert set(run.train_step()) == {"cell", *(field.name for field in fields(LossWeights))} - {
        "compare",
        "agree",
        "stain",
    }


def test_a_run_stops_before_it_saves_what_is_no_number(pools, context, tmp_path):
    config = replace(QUICK, steps=3, export_every=1, lr=1e30, clip=1e30, warmup=1)
    with pytest.raises(CellfeatError, match=r"is no number at step [123]; what was saved before is kept\. Try a low"):
        pretrain.pretrain(config, *pools, SAW, tmp_path / "out.safetensors", context)
    assert not (tmp_path / "out.safetensors").exists()
    for file in tmp_path.glob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in read_weights(file).state.values())


def test_drawn_cells_alone_have_no_words(pools, context):
    run = started((pools[0], None), context)
    assert run.words is None
    run.step = 1
    assert "words" not in run.train_step()


def test_a_network_that_reads_the_image_loses_nothing_on_the_way(context, monkeypatch):
    """Discs are painted into image and mask; the answer is taken from the image, so a shift between both would tell."""
    config = replace(QUICK, image_size=224, pool_size=336, held_out=8)
    ys, xs = np.mgrid[:336, :336]
    away = [np.hypot(ys - 150 - 5 * n, xs - 170 - 4 * n) for n in range(8)]
    masks = np.stack([np.where(d < 40, 255, np.where(d < 80, 128, 0)) for d in away]).astype(np.uint8)
    pool = pool_of(np.repeat(np.where(masks == 255, 40, np.where(masks == 128, 130, 240))[..., None], 3, 3), masks)
    monkeypatch.setattr(pretrain_check, "drawn_pool", lambda *_: pool)
    monkeypatch.setattr(
        pretrain_check, "PLAIN_FRAMES", replace(PLAIN, shares=(0.6, 0.8), plain=1.0, noise=0.0, resolution=(1.0, 1.0))
    )
    network = SamNetwork(BUILDS["tiny"], 224, 3)

    def forward(images: torch.Tensor) -> SamOutput:
        grey = functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return SamOutput(images, torch.stack([grey, torch.full_like(grey, 185), 85 - grey], dim=1), images)

    network.forward = forward
    found = held_out_iou(network, config, context)
    assert found["cell"] > 0.985
    assert found["nucleus"] > 0.97


# A run, what it writes, and a second start


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, context, pools, monkeypatch):
    config = replace(QUICK, steps=4, recover_at=1, trusted=-9.0)  # the last step asks the teacher
    first, second = (with_scratch(context, tmp_path / name) for name in ("one", "two"))
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    found = pretrain.pretrain(config, *pools, SAW, whole, first)
    assert set(found) == {"cell", "nucleus"}
    assert all(0 <= value <= 1 for value in found.values())

    def note(text: str) -> None:
        if text.startswith("step 2"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(second.reporter, "note", note)
        with pytest.raises(Killed):
            pretrain.pretrain(config, *pools, SAW, killed, second)
    assert not killed.exists()  # nothing unfinished under the final name
    unfinished = read_weights(pretrain.interim(killed))
    assert unfinished.meta["steps"] == 2
    assert "held_out" not in unfinished.meta
    pretrain.pretrain(config, *pools, SAW, killed, second)
    assert "pre-training goes on after step 2 of 4" in second.reporter.notes
    assert whole.read_bytes() == killed.read_bytes()
    assert not pretrain.interim(killed).exists()
    assert any(note.startswith("step 4: ") and "descriptors 0." in note for note in first.reporter.notes)
    meta = read_weights(whole).meta
    assert meta["held_out"] == found


def test_the_file_says_what_it_saw_and_how_it_was_made(tmp_path, context, pools):
    config, path = replace(QUICK, steps=1), tmp_path / "own.safetensors"
    pretrain.pretrain(config, *pools, SAW, path, context)
    weights = read_weights(path)
    meta = weights.meta
    assert meta["saw"] == SAW
    assert meta["config"] == json.loads(json.dumps(config.as_dict()))
    assert meta["own_colours"] is True
    assert weights.own_colours
    assert weights.masks == 3
    assert (meta["build"], meta["image_size"], meta["steps"]) == ("mini", 64, 1)
    assert set(meta["versions"]) == {"cellfeat", "torch", "segment-anything"}
    assert meta["hardware"] == "cpu, 1 threads"
    backbone = LoraSam(weights=str(path), image_size=64)
    assert backbone.weights_saw == tuple(SAW)
    network = build_network(weights, 64)
    assert token_deviation(network, config, context) == pytest.approx(1, abs=0.02)  # float16 rounds
    assert not any(name.startswith(("heads", "prototypes")) for name in weights.state)


def test_a_later_run_goes_on_from_the_weights_of_an_earlier_one(tmp_path, pools, context):
    path = with_nucleus(tmp_path / "base.safetensors", own_colours=False)
    run, base = started(pools, context, start_from=str(path), build="tiny"), build_network(read_weights(path), 64)
    for (name, mine), other in zip(run.network.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(mine, other), name
        assert mine.requires_grad
    assert run.network.own_colours  # as the file will say
    assert torch.equal(run.average.image_encoder.pos_embed, base.image_encoder.pos_embed)
    fresh, again = started(pools, context), started(pools, context)
    assert torch.equal(fresh.network.image_encoder.pos_embed, again.network.image_encoder.pos_embed)
    assert 0.01 < fresh.network.image_encoder.pos_embed.std() < 0.03


def test_weights_of_another_build_are_no_start(tmp_path, pools, context):
    path = with_nucleus(tmp_path / "base.safetensors")
    with pytest.raises(
        CellfeatError, match=r"start_from: .* is not of the build 'mini': its numbers are .*embed_dim=192"
    ):
        started(pools, context, start_from=str(path))


def test_weights_without_a_nucleus_are_no_start(tmp_path, pools, context):
    path = tmp_path / "two.safetensors"
    save_weights(path, SamNetwork(BUILDS["tiny"], 64, masks=2).state_dict(), {})
    with pytest.raises(CellfeatError, match=r"start_from: .*two\.safetensors has no mask token for the nucleus; name"):
        started(pools, context, start_from=str(path))


# The weights that are shipped


def shipped(size: int) -> SamNetwork:
    return build_network(read_weights(LoraSam.named_weights["cell-tiny"].path), size).eval()


@torch.inference_mode()
def test_tokens_are_scaled_and_nothing_else_changes():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = shipped(64)
    before = network(images)
    scale_tokens(network, 0.25)
    after = network(images)
    torch.testing.assert_close(after.tokens, 0.25 * before.tokens, rtol=1e-3, atol=1e-3)
    # smaller tokens notice the constant that layer norms add; logits are up to tens
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-2)


def test_the_shipped_weights_were_made_by_the_shipped_settings():
    weights = read_weights(LoraSam.named_weights["cell-tiny"].path)
    assert weights.meta["config"] == json.loads(json.dumps(read_config(SHIPPED).as_dict()))
    assert weights.meta["steps"] == read_config(SHIPPED).steps
    assert weights.meta["held_out"]["cell"] > 0.85
    assert tuple(weights.meta["saw"]) == LoraSam.named_weights["cell-tiny"].saw
    assert (weights.masks, weights.own_colours) == (3, True)


def test_the_shipped_file_is_small_and_holds_half_precision_but_for_colours():
    from safetensors import safe_open

    path = LoraSam.named_weights["cell-tiny"].path
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert {name: kind for name, kind in kinds.items() if not name.startswith("pixel_")}
    for name, kind in kinds.items():
        assert kind == ("F32" if name.startswith("pixel_") else "F16"), name


def test_the_shipped_tokens_have_unit_deviation_on_cells(context):
    few = replace(read_config(SHIPPED), held_out=8)
    assert token_deviation(shipped(224), few, context) == pytest.approx(1, abs=0.2)
