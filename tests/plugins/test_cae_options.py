"""Options of align `cae` beyond the published method, parts of batches, empty masks, and weights that are named."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.cae import Cae
from cellfeat_cae.discrepancies import coral_distance, domain_mean_distance, rbf_mmd
from cellfeat_cae.network import as_tokens
from cellfeat_cae.train import Trainer
from PIL import Image

from cellfeat import CellfeatError, Cells, recipe
from cellfeat.testing import check_align, cpu_context, toy_cells
from cellfeat.training import seeded

TINY = {"epochs": 1, "batch_size": 9, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8, "latent": 5}
DISTANCES = {"means": domain_mean_distance, "mmd": rbf_mmd, "coral": coral_distance}
FIXED = {"batches": "balanced", "discrepancy": "mmd", "discrepancy_on": "cls", "views": True}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One thread, as threads that wait for each other make tiny networks slow on a busy machine; and what pytest has
    imported is not searched for garbage after every training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cells():
    """Nine cells: three of each of three domains, the last two of which are targets; 8 channels."""
    return toy_cells(per_class=1)


@pytest.fixture(scope="module")
def fitted(cells, tmp_path_factory) -> Cae:
    return Cae(**TINY).fit(cells, cpu_context(tmp_path_factory.mktemp("fitted")))


@pytest.fixture(scope="module")
def stored(fitted, tmp_path_factory) -> Path:
    return kept(fitted, tmp_path_factory.mktemp("stored") / "cae")


@pytest.fixture
def saved(stored, tmp_path) -> Path:
    """The folder of a fitted method, to be spoiled as a test likes."""
    return shutil.copytree(stored, tmp_path / "saved")


def kept(method, folder: Path) -> Path:
    folder.mkdir()
    method.save(folder)
    return folder


def first_batch(method: Cae, cells, folder: Path):
    """The network before its first step, and all cells as its first batch, as a training in one batch has them."""
    context = cpu_context(folder)
    method.channels_ = 8
    with seeded(context.seed):
        network = method._build()
    trainer = Trainer(network, cells, method, "here", context)
    (rows,) = trainer._batches(0)
    values = {name: torch.from_numpy(cells.read(name, rows)) for name in ("map", "crop")}
    return network, trainer._batch(rows, values, trainer._noise(0, len(rows)))


def alone(z, domain):
    return z, domain


# How domains are compared -----------------------------------------------------------------------------------------


def test_the_recipe_sets_all_that_is_mended():
    assert recipe.read("dorl-fixed")["align"] == {"name": "cae"} | FIXED


def test_the_contract_with_all_that_is_mended(cells, tmp_path):
    check_align(Cae, tmp_path, cells, **TINY | FIXED)


@pytest.mark.parametrize("on", ["projector", "cls"])
def test_the_domain_term_is_the_chosen_distance_of_the_chosen_code(cells, tmp_path, on):
    found = {}
    for name, distance in DISTANCES.items():
        method = Cae(**TINY, discrepancy=name, discrepancy_on=on)
        network, batch = first_batch(method, cells, tmp_path / "by-hand")
        with torch.no_grad():
            output = network(as_tokens(batch.maps), batch.noise.argsort(dim=1), 49)
        code = output.z if on == "projector" else output.cls
        names = cells.domain[np.random.default_rng((0, 0)).permutation(9)]
        domain = torch.from_numpy(np.searchsorted(["elsewhere", "here", "there"], names))
        expected = distance(code, domain, 3, 1).item()
        history = method.fit(cells, cpu_context(tmp_path / name)).history_
        assert history["domain"] == [pytest.approx(expected, rel=1e-5)]
        found[name] = history["domain"][0]
    assert len({round(value, 7) for value in found.values()}) == 3


def test_the_choice_of_the_distance_changes_what_is_learned(cells, tmp_path, fitted):
    context = cpu_context(tmp_path)
    features = fitted.transform(cells, context)
    for change in ({"discrepancy": "mmd"}, {"discrepancy": "coral"}, {"discrepancy_on": "cls"}):
        other = Cae(**TINY, **change).fit(cells, cpu_context(tmp_path / str(change)))
        assert not np.array_equal(other.transform(cells, context), features), change


@pytest.mark.parametrize(("on", "reaches"), [("projector", True), ("cls", False)])
def test_what_the_domain_term_can_move(cells, tmp_path, on, reaches):
    method = Cae(**TINY, discrepancy_on=on)
    network, batch = first_batch(method, cells, tmp_path)
    method.losses(network, batch, alone)["domain"].backward()
    decoder = (network.projector.weight, network.projector.bias, network.decoder.mask_token)
    for parameter in (network.encoder.cls_token, network.encoder.norm.weight):
        assert parameter.grad.abs().max() > 0
    for parameter in decoder[::2]:
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved == reaches


# Views ------------------------------------------------------------------------------------------------------------


def views_of(method: Cae, cells, folder: Path, monkeypatch) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Features, the mean of the encoder's class tokens over its calls, and the tokens that each call saw."""
    seen, tokens = [], as_tokens(torch.from_numpy(cells.map))
    forward = method.network_.encoder.forward

    def spied(given, order=None, keep=196):
        seen.append((order[0, :keep].tolist(), keep, bool((order == order[0]).all())))
        return forward(given, order, keep)

    monkeypatch.setattr(method.network_.encoder, "forward", spied)
    features = method.transform(cells, cpu_context(folder))
    monkeypatch.undo()
    assert all(alike and len(view) == keep for view, keep, alike in seen)
    calls = []
    with torch.no_grad():
        for view, keep, _ in seen:
            shown = tokens[:, view] + method.network_.encoder.position[:, view]
            cls = method.network_.encoder.cls_token.expand(len(tokens), 1, -1)
            encoded = method.network_.encoder.blocks(torch.cat([cls, shown], dim=1))
            calls.append(method.network_.encoder.norm(encoded)[:, 0])
            assert keep == method.kept
    return features, torch.stack(calls).mean(dim=0).numpy(), [view for view, _, _ in seen]


@pytest.mark.parametrize(
    ("mask_ratio", "count", "size"),
    [(0.75, 4, 49), (0.5, 2, 98), (0.9, 10, 19), (0.6, 2, 78), (0.3, 1, 137), (0.0, 1, 196), (0.99, 196, 1)],
)
def test_features_are_the_mean_over_fixed_views(cells, fitted, tmp_path, monkeypatch, mask_ratio, count, size):
    method = replace(fitted, views=True, mask_ratio=mask_ratio)
    method.network_, method.channels_ = fitted.network_, fitted.channels_
    features, by_hand, views = views_of(method, cells[:2], tmp_path, monkeypatch)
    np.testing.assert_allclose(features, by_hand, rtol=1e-4, atol=1e-5)
    assert [len(view) for view in views] == [size] * count
    used = [token for view in views for token in view]
    assert len(set(used)) == len(used) == count * size  # no token twice
    if mask_ratio == 0.75:
        assert sorted(used) == list(range(196))
        assert used != list(range(196))  # not rows of the map, one after the other


def test_views_change_the_features_not_the_training(cells, fitted, tmp_path):
    context = cpu_context(tmp_path)
    method = Cae(**TINY, views=True).fit(cells, context)
    assert method.history_ == fitted.history_
    assert not np.allclose(method.transform(cells, context), fitted.transform(cells, context), atol=1e-3)
    np.testing.assert_array_equal(method.transform(cells[4:5], context), method.transform(cells, context)[4:5])


# Parts of batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "accumulate"),
    [
        (9, 2),
        (9, 9),  # parts of one cell
        (4, 3),  # batches of 4, 4 and 1: the last has two empty parts
        (2, 2),  # batches of two cells and of one
    ],
)
def test_parts_add_up_to_the_batch(cells, tmp_path, batch_size, accumulate):
    params = TINY | {"batch_size": batch_size, "domain_weight": 0.0}
    whole = Cae(**params).fit(cells, cpu_context(tmp_path / "whole"))
    parted = Cae(**params, accumulate=accumulate).fit(cells, cpu_context(tmp_path / "parts"))
    for name, tensor in parted.network_.state_dict().items():
        torch.testing.assert_close(tensor, whole.network_.state_dict()[name], rtol=0, atol=1e-5)
    for term in ("image", "feature", "total"):
        assert parted.history_[term] == pytest.approx(whole.history_[term], rel=1e-5)
    if accumulate == 9:
        assert parted.history_["domain"] == [0]  # one cell alone is compared with nothing


def test_domains_are_compared_within_each_part(cells, tmp_path):
    method = Cae(**TINY, accumulate=2, batches="balanced")
    history = method.fit(cells, cpu_context(tmp_path / "fit")).history_
    network, batch = first_batch(method, cells, tmp_path / "by-hand")
    expected = 0.0
    for rows in np.array_split(np.arange(9), 2):
        part = batch._replace(**{name: getattr(batch, name)[rows] for name in ("maps", "crop", "domain", "noise")})
        assert len(part.domain.unique()) == 3
        with torch.no_grad():
            expected += len(rows) / 9 * method.losses(network, part, alone)["domain"].item()
    assert history["domain"] == [pytest.approx(expected, rel=1e-5)]
    assert expected > 0


# What is trained on -----------------------------------------------------------------------------------------------


def without_masks(cells, rows):
    """The cells, with nothing found in these rows."""
    masks = cells.mask
    masks[rows] = False
    return cells.with_column("mask", masks)


def test_cells_with_an_empty_mask_train_nothing_and_are_counted(cells, tmp_path):
    context = cpu_context(tmp_path / "some")
    spoiled = without_masks(cells, [1, 3, 4])
    method = Cae(**TINY | {"batch_size": 4}).fit(spoiled, context)
    assert "cae: 3 of 9 cells have an empty mask and train nothing (here 1, there 2)" in context.reporter.notes
    there = np.array([0, 2, 5, 6, 7, 8])
    wanted = Cae(**TINY | {"batch_size": 4}).fit(cells[there], cpu_context(tmp_path / "others"))
    assert method.history_ == wanted.history_
    assert torch.equal(method.network_.projector.weight, wanted.network_.projector.weight)
    assert len(method.examples_["crop"]) == 6
    assert method.transform(spoiled, context).shape == (9, 8)  # features they have


def test_a_mask_of_one_pixel_is_a_mask(cells, tmp_path):
    masks = cells.mask
    masks[1] = False
    masks[1, 31, 31] = True
    context = cpu_context(tmp_path)
    Cae(**TINY).fit(cells.with_column("mask", masks), context)
    assert not [note for note in context.reporter.notes if "empty mask" in note]


def test_a_domain_without_any_mask_is_refused(cells, tmp_path):
    spoiled = without_masks(cells, cells.domain != "there")
    with pytest.raises(CellfeatError) as caught:
        Cae(**TINY).fit(spoiled, cpu_context(tmp_path))
    assert str(caught.value) == (
        "align 'cae': no cell was found in any image of elsewhere, here: all masks are empty. Look at the images, "
        "fine-tune the backbone on masks (`finetune:`), or name another --segmenter"
    )


def test_nan_in_a_later_batch_is_named_by_its_step(cells, tmp_path):
    order = np.random.default_rng((0, 0)).permutation(9)  # of the first epoch
    maps = cells.map
    maps[order[4]] = np.nan
    with pytest.raises(CellfeatError, match=r"loss became nan at step 2 of 3 \(epoch 1 of 1\), by the term") as caught:
        Cae(**TINY | {"batch_size": 4}).fit(cells.with_column("map", maps), cpu_context(tmp_path))
    assert "the feature maps of 1 of the batch's 4 cells hold NaN" in str(caught.value)


def test_nan_in_the_first_batch_is_named_before_a_second_is_trained(cells, tmp_path):
    maps, steps = cells.map, []
    maps[np.random.default_rng((0, 0)).permutation(9)[0]] = np.inf

    class Counting(Cae):
        def losses(self, *given):
            steps.append(1)
            return super().losses(*given)

    with pytest.raises(CellfeatError, match="at step 1 of 9 "):
        Counting(**TINY | {"batch_size": 1}).fit(cells.with_column("map", maps), cpu_context(tmp_path))
    assert len(steps) == 1


def test_fp16_on_the_cpu_is_fp32_and_it_is_said(cells, fitted, tmp_path):
    context = replace(cpu_context(tmp_path), dtype=torch.float16)
    method = Cae(**TINY).fit(cells, context)
    assert "cae: fp16 trains on a GPU alone; here it trains in fp32 (bf16 works on the CPU)" in context.reporter.notes
    assert method.history_ == fitted.history_


# Pictures ---------------------------------------------------------------------------------------------------------


def test_the_pictures_show_losses_and_cells(saved, fitted):
    for name, least in (("losses.png", (400, 150)), ("examples.png", (8 * 128, 3 * 128))):
        with Image.open(saved / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert all(side >= wanted for side, wanted in zip(picture.size, least, strict=True)), name
            assert max(picture.size) < 4000
            assert len(picture.convert("RGB").getcolors(2**24)) > 20, name
    with Image.open(saved / "examples.png") as picture:
        page = np.asarray(picture.convert("RGB"))
    crop = fitted.examples_["crop"][0].transpose(1, 2, 0)
    places = np.argwhere((page[:-127, :-127] == crop[0, 0]).all(axis=2))
    assert any(np.array_equal(page[y : y + 128, x : x + 128], crop) for y, x in places)


def test_examples_are_of_all_domains(cells, fitted):
    examples = fitted.examples_
    assert {name: (array.shape, array.dtype.name) for name, array in examples.items()} == {
        "crop": ((8, 3, 128, 128), "uint8"),
        "mask": ((8, 32, 32), "bool"),
        "reconstruction": ((8, 3, 128, 128), "uint8"),
    }
    where = [int(np.flatnonzero((cells.crop == crop).all(axis=(1, 2, 3)))[0]) for crop in examples["crop"]]
    assert len(set(where)) == 8
    assert sorted(np.unique(cells.domain[where], return_counts=True)[1].tolist()) == [2, 3, 3]
    np.testing.assert_array_equal(examples["mask"], cells.mask[where])


def test_domains_share_the_examples_whatever_their_sizes(tmp_path):
    cells = toy_cells(per_class=4)
    rows = np.flatnonzero((cells.domain == "here") | np.isin(np.arange(36), [12, 24, 25]))
    examples = Cae(**TINY).fit(cells[rows], cpu_context(tmp_path)).examples_
    where = [int(np.flatnonzero((cells.crop == crop).all(axis=(1, 2, 3)))[0]) for crop in examples["crop"]]
    names, counts = np.unique(cells.domain[where], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"elsewhere": 2, "here": 5, "there": 1}


def test_a_loaded_copy_saves_the_same_pictures_and_history(saved, tmp_path):
    again = kept(Cae.load(saved), tmp_path / "again")
    names = {path.name for path in saved.iterdir()}
    assert names == {"state.json", "state.safetensors", "losses.png", "examples.png"}
    for name in names:
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name


# Weights that are named -------------------------------------------------------------------------------------------


def test_weights_are_used_as_they_are(cells, fitted, saved, tmp_path):
    context = cpu_context(tmp_path / "scratch")
    method = Cae(weights=str(saved), epochs=10**6)  # of sizes that are not the folder's, and nothing is trained
    assert not method.uses_target
    method.prepare(context)
    method.fit(cells[~cells.is_target], context)
    assert not method.uses_target
    assert not list(context.scratch.iterdir())
    np.testing.assert_array_equal(method.transform(cells, context), fitted.transform(cells, context))
    assert method.history_ == fitted.history_
    assert (method.encoder_depth, method.epochs, method.weights) == (1, 1, str(saved))


def test_a_method_with_weights_is_saved_without_need_of_their_folder(cells, fitted, saved, tmp_path):
    context = cpu_context(tmp_path / "scratch")
    folder = kept(Cae(weights=str(saved)).fit(cells, context), tmp_path / "own")
    shutil.rmtree(saved)
    loaded = Cae.load(folder)
    np.testing.assert_array_equal(loaded.transform(cells, context), fitted.transform(cells, context))
    assert (loaded.uses_target, loaded.history_) == (False, fitted.history_)
    assert {path.name for path in folder.iterdir()} >= {"losses.png", "examples.png"}


@pytest.mark.parametrize(("trained", "asked"), [(True, False), (False, True)])
def test_views_can_be_asked_for_and_are_not_forgotten(cells, fitted, tmp_path, trained, asked):
    method = Cae(**TINY, views=True)
    vars(method).update(vars(fitted) | {"views": trained})
    context = cpu_context(tmp_path / "scratch")
    used = Cae(weights=str(kept(method, tmp_path / "saved")), views=asked).fit(cells, context)
    assert used.views
    assert not np.allclose(used.transform(cells, context), fitted.transform(cells, context), atol=1e-3)


def test_what_the_weights_saw_is_kept(cells, fitted, tmp_path):
    context = cpu_context(tmp_path / "scratch")
    for number, saw in enumerate([None, ("some images",)]):
        method = Cae(**TINY)
        vars(method).update(vars(fitted) | {"weights_saw": saw, "domains_": ()})
        folder = kept(method, tmp_path / f"saved-{number}")
        assert Cae.load(folder).weights_saw == saw
        assert Cae(weights=str(folder)).fit(cells, context).weights_saw == saw


def test_weights_of_another_run_saw_its_cells(cells, fitted, saved, tmp_path):
    context = cpu_context(tmp_path / "scratch")
    assert (fitted.weights_saw, Cae.load(saved).weights_saw) == ((), ())  # of the run's own cells nothing is said
    saw = tuple(f"{name} (images without labels)" for name in ("elsewhere", "here", "there"))
    method = Cae(weights=str(saved)).fit(cells, context)
    assert method.weights_saw == saw
    own = kept(method, tmp_path / "own")
    assert Cae.load(own).weights_saw == saw
    assert Cae(weights=str(own)).fit(cells, context).weights_saw == saw  # once


@pytest.mark.parametrize("use", ["prepare", "fit"])
def test_folders_that_hold_no_weights(cells, fitted, saved, tmp_path, use):
    context = cpu_context(tmp_path / "scratch")

    def message(folder, factory=Cae) -> str:
        method = factory(weights=str(folder))
        with pytest.raises(CellfeatError) as caught:
            method.prepare(context) if use == "prepare" else method.fit(cells, context)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    absent, empty, other = tmp_path / "absent", tmp_path / "empty", tmp_path / "other"
    assert message(absent) == (
        f"align 'cae': weights={absent} is no folder; give one made by `cellfeat weights import`, or the align-0 of a "
        "pipeline in a run folder"
    )
    empty.mkdir()
    assert message(empty).startswith(f"{empty} has no state.safetensors: it is not a saved method")
    assert message(saved, BcSamAe) == f"{saved} holds a fitted 'cae', not 'bc-sam-ae'"
    shutil.copytree(saved, other)
    (other / "state.json").write_text('{"params": {}, "values": {}}')  # as other methods save
    assert message(other) == f"{other} holds a fitted method of another kind, not 'cae'"


def test_weights_for_another_backbone(saved, tmp_path):
    wider = toy_cells(per_class=1, channels=16)
    with pytest.raises(CellfeatError) as caught:
        Cae(weights=str(saved)).fit(wider, cpu_context(tmp_path / "scratch"))
    assert str(caught.value) == (
        "align 'cae' was fitted on maps of 8 channels and got 16; use the backbone that it was fitted with"
    )


def test_training_cells_are_so_many_of_each_domain_drawn_by_the_seed():
    from cellfeat_cae.inputs import limited

    cells = Cells.from_arrays(np.zeros(30, int), domain=np.repeat(["a", "b", "c"], [20, 6, 4]))
    few = limited(cells, 5, seed=1)
    assert {name: int((few.domain == name).sum()) for name in "abc"} == {"a": 5, "b": 5, "c": 4}
    assert limited(cells, 5, seed=1).id.tolist() == few.id.tolist()
    assert limited(cells, 5, seed=2).id.tolist() != few.id.tolist()
    assert limited(cells, None, seed=1) is cells
