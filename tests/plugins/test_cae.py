"""Align `cae`: configuration, training, resuming, saving and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_cae import cellfeat_align, train
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.cae import Cae
from cellfeat_cae.network import CrossDomainAutoencoder, Encoder, as_tokens, take
from cellfeat_cae.ssim import ssim
from helpers import check_variant

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells
from cellfeat.training import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"epochs": 2, "batch_size": 4, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8, "latent": 5}


@pytest.fixture(scope="module")
def cells():
    """Nine cells: three of each of three domains, the last two of which are targets; 8 channels."""
    return toy_cells(per_class=1)


@pytest.fixture(scope="module")
def fitted(cells, tmp_path_factory) -> Cae:
    return Cae(**TINY).fit(cells, cpu_context(tmp_path_factory.mktemp("fitted")))


class Interrupted(Exception):
    pass


def interrupted_after(context, steps: int):
    """The context, but its progress raises after so many steps, as a kill would end them."""

    class Bar:
        done = 0

        def advance(self, n: int = 1) -> None:
            self.done += n
            if self.done >= steps:
                raise Interrupted

    class Reporter:
        note = staticmethod(context.note)

        @contextmanager
        def progress(self, total, text):
            yield Bar()

    return replace(context, reporter=Reporter())


def test_contract(tmp_path, cells):
    check_variant(Cae, tmp_path, cells, **TINY)


def test_plugin_offers_cae_without_importing_torch():
    code = "import cellfeat_cae as p, sys; p.cellfeat_align()['cae'](); print({'torch', 'timm'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
    assert cellfeat_align() == {"cae": Cae, "bc-sam-ae": BcSamAe, "ae-cfe": AeCfe}


@pytest.mark.parametrize(
    ("channels", "heads", "head_width"), [(768, 12, 512), (192, 3, 128), (48, 1, 32), (100, 2, 64), (1024, 16, 680)]
)
def test_sizes_follow_the_channels(channels, heads, head_width):
    method = Cae(encoder_depth=1, decoder_depth=1)
    method.channels_ = channels
    with torch.device("meta"):
        network = method._build()
    assert network.encoder.blocks[0].attn.num_heads == heads
    assert network.image_head[0].out_channels == head_width
    assert network.encoder.blocks[0].attn.qkv.bias is None


def test_published_network_has_the_published_size():
    method = Cae()
    method.channels_ = 768
    with torch.device("meta"):
        network = method._build()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert (len(network.encoder.blocks), len(network.decoder.blocks)) == (12, 4)
    assert round(count["image_head"] / 1e6, 2) == 9.45
    assert round(count["encoder"] / 1e6, 1) == 85.2  # the specification's 85.1 and the positions
    assert round(count["decoder"] / 1e6, 1) == 28.5
    assert [layer.out_channels for layer in list(network.image_head)[::2]] == [512, 256, 128, 64, 3]


def test_image_head_grows_to_128_pixels():
    head = CrossDomainAutoencoder(8, 1, 1, 1, 8, 5).image_head
    image, sizes = torch.zeros(1, 8, 14, 14), []
    for layer in head:
        image = layer(image)
        sizes.append(image.shape[-1])
    assert sizes[::2] == [28, 56, 57, 62, 128]


def test_masked_tokens_cannot_be_seen():
    torch.manual_seed(0)
    encoder, tokens = Encoder(8, 1, 1), torch.randn(2, 196, 8)
    order = torch.rand(2, 196).argsort(dim=1)
    changed = tokens.scatter_add(1, order[:, 49:, None].expand(-1, -1, 8), torch.randn(2, 147, 8))
    assert encoder(tokens, order, 49).shape == (2, 50, 8)
    torch.testing.assert_close(encoder(changed, order, 49), encoder(tokens, order, 49))
    assert not torch.allclose(encoder(changed, order, 50), encoder(tokens, order, 50))


def test_take_undoes_a_permutation():
    tokens, order = torch.randn(2, 196, 3), torch.rand(2, 196).argsort(dim=1)
    assert torch.equal(take(take(tokens, order), order.argsort(dim=1)), tokens)


@pytest.mark.parametrize("window", [11, 10, 7])
def test_ssim_of_an_image_with_itself_and_by_the_definition(window):
    torch.manual_seed(0)
    image, other = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    assert ssim(image, image, window).item() == pytest.approx(1, abs=1e-6)
    x = torch.arange(window, dtype=torch.float64) - window // 2
    line = torch.exp(-(x**2) / 4.5)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, window, window).contiguous()

    def blur(values):
        return torch.nn.functional.conv2d(values.double(), kernel, padding=window // 2, groups=3)

    mx, my = blur(image), blur(other)
    vx, vy, cov = blur(image**2) - mx**2, blur(other**2) - my**2, blur(image * other) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert expected.shape[-2:] == ((20, 24) if window % 2 else (21, 25))
    assert ssim(image, other, window).item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_ssim_looks_through_a_window_of_11_unless_told_otherwise():
    torch.manual_seed(0)
    image, other = torch.rand(1, 3, 20, 24), torch.rand(1, 3, 20, 24)
    assert ssim(image, other) == ssim(image, other, 11)
    assert abs(ssim(image, other, 10) - ssim(image, other, 11)) > 1e-5


def test_training_lowers_the_loss_and_keeps_a_history(cells, tmp_path):
    method = Cae(**TINY | {"epochs": 12, "learning_rate": 5e-3}).fit(cells, cpu_context(tmp_path))
    history = method.history_
    assert set(history) == {"total", "image", "domain", "feature"}
    assert all(len(values) == 12 for values in history.values())
    assert history["total"][-1] < 0.8 * history["total"][0]
    for epoch in range(12):
        parts = history["image"][epoch] + 2 * history["domain"][epoch] + history["feature"][epoch]
        assert history["total"][epoch] == pytest.approx(parts, rel=1e-4)


def test_a_last_batch_of_one_cell(cells, tmp_path):
    assert len(cells) % 4 == 1
    method = Cae(**TINY | {"epochs": 1}).fit(cells, cpu_context(tmp_path))
    assert method.transform(cells, cpu_context(tmp_path)).shape == (9, 8)


def test_features_are_the_cls_token_of_the_unmasked_encoder(fitted, cells, tmp_path):
    features = fitted.transform(cells, cpu_context(tmp_path))
    with torch.no_grad():
        encoded = fitted.network_.encoder(as_tokens(torch.from_numpy(cells.map)))
    np.testing.assert_allclose(features, encoded[:, 0].numpy(), rtol=1e-4, atol=1e-5)


def test_a_cell_alone_gets_the_very_same_features(fitted, cells, tmp_path):
    context = cpu_context(tmp_path)
    together = fitted.transform(cells, context)
    np.testing.assert_array_equal(fitted.transform(cells[:1], context), together[:1])
    assert fitted.transform(cells[:0], context).shape == (0, 8)
    without_crops = replace(cells, columns={"map": cells.columns["map"]})
    np.testing.assert_array_equal(fitted.transform(without_crops, context), together)


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_an_interrupted_fit_continues_to_the_same_bits(cells, tmp_path, monkeypatch, steps):
    # After every step, also where saving takes long.
    monkeypatch.setattr(Checkpoint, "save_when_due", lambda self, state: self.save(**state()))
    params = TINY | {"epochs": 3}  # of three steps
    whole = Cae(**params).fit(cells, cpu_context(tmp_path / "whole"))
    broken = cpu_context(tmp_path / "broken")
    with pytest.raises(Interrupted):
        Cae(**params).fit(cells, interrupted_after(broken, steps))
    assert torch.load(tmp_path / "broken" / "cae.pt", weights_only=True)["done"] == steps
    again = cpu_context(tmp_path / "broken")
    resumed = Cae(**params).fit(cells, again)
    for name, tensor in whole.network_.state_dict().items():
        assert torch.equal(tensor, resumed.network_.state_dict()[name]), name
    assert resumed.history_ == whole.history_


def test_a_finished_fit_is_not_repeated(cells, tmp_path):
    first = Cae(**TINY).fit(cells, cpu_context(tmp_path))
    second = Cae(**TINY).fit(cells, interrupted_after(cpu_context(tmp_path), 7))  # six steps are done: none is left
    assert torch.equal(first.network_.projector.weight, second.network_.projector.weight)


def test_a_compiled_training_trains_the_networks_own_parameters(cells, tmp_path, monkeypatch):
    """What the compiler is given must be what is saved; the compiler itself would take minutes."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    plain = Cae(**TINY).fit(cells, cpu_context(tmp_path / "plain"))
    assert compiled == []
    fast = Cae(**TINY).fit(cells, replace(cpu_context(tmp_path / "fast"), compile=True))
    assert compiled == [fast.network_]
    assert torch.equal(plain.network_.projector.weight, fast.network_.projector.weight)


def test_a_checkpoint_of_other_cells_or_parameters_is_not_continued(cells, tmp_path):
    Cae(**TINY).fit(cells, cpu_context(tmp_path / "shared"))
    for other_cells, params in ((cells[:8], TINY), (cells, TINY | {"latent": 6})):
        context = cpu_context(tmp_path / "shared")
        method = Cae(**params).fit(other_cells, context)
        fresh = Cae(**params).fit(other_cells, cpu_context(tmp_path / f"fresh-{len(other_cells)}"))
        assert torch.equal(method.network_.projector.weight, fresh.network_.projector.weight)
        assert any("belongs to other cells or parameters" in note for note in context.reporter.notes)


def test_saved_state_has_the_history_and_no_pickle(fitted, cells, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    fitted.save(folder)
    assert {path.name for path in folder.iterdir()} == {"state.json", "state.safetensors", "losses.png", "examples.png"}
    before = torch.random.get_rng_state()
    loaded = Cae.load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.history_ == fitted.history_
    assert repr(loaded) == repr(fitted)
    context = cpu_context(tmp_path)
    np.testing.assert_array_equal(loaded.transform(cells, context), fitted.transform(cells, context))


def test_fit_leaves_the_global_generator_alone(cells, tmp_path):
    before = torch.random.get_rng_state()
    Cae(**TINY | {"epochs": 1}).fit(cells, cpu_context(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_anchor_is_the_first_source_and_it_is_said(cells, tmp_path):
    source_second = cells.with_target(cells.domain == "elsewhere")
    context = cpu_context(tmp_path)
    Cae(**TINY | {"epochs": 1}).fit(source_second, context)
    assert "cae: of the domains here, there the first, 'here', is the one drawn to" in context.reporter.notes


def test_the_anchor_decides_the_domain_term(cells, tmp_path):
    def first_domain_loss(target: str) -> float:
        context = cpu_context(tmp_path / target)
        method = Cae(**TINY | {"epochs": 1, "batch_size": 9})
        return method.fit(cells.with_target(cells.domain != target), context).history_["domain"][0]

    assert len({first_domain_loss(name) for name in ("here", "there", "elsewhere")}) == 3


def test_one_domain_has_no_domain_term_and_it_is_said(cells, tmp_path):
    context = cpu_context(tmp_path)
    method = Cae(**TINY).fit(cells[cells.domain == "here"], context)
    assert method.history_["domain"] == [0, 0]
    assert any("only domain 'here' is seen" in note for note in context.reporter.notes)


def test_the_weights_of_the_terms_are_used(cells, tmp_path):
    params = TINY | {"epochs": 1, "image_weight": 0.5, "domain_weight": 3.0, "feature_weight": 0.25}
    history = Cae(**params).fit(cells, cpu_context(tmp_path)).history_
    expected = 0.5 * history["image"][0] + 3 * history["domain"][0] + 0.25 * history["feature"][0]
    assert history["total"][0] == pytest.approx(expected, rel=1e-4)


def test_warm_up_is_shortened_in_short_runs_and_it_is_said(cells, tmp_path):
    def warmup(context, **params):
        return train.Trainer(CrossDomainAutoencoder(8, 1, 1, 1, 8, 5), cells, Cae(**params), "here", context).warmup

    context = cpu_context(tmp_path)
    assert warmup(context, epochs=100, batch_size=4) == 60  # a fifth of 300 steps
    assert warmup(context, epochs=2000, batch_size=4) == 500
    assert warmup(context, epochs=1, batch_size=9) == 1
    Cae(**TINY).fit(cells, context)
    assert "cae: warm-up of 1 steps instead of 500, a fifth of this run's 6" in context.reporter.notes


def test_another_grid_is_resampled_and_it_is_said(tmp_path):
    cells, context = toy_cells(per_class=1, grid=7), cpu_context(tmp_path)
    method = Cae(**TINY | {"epochs": 1}).fit(cells, context)
    assert method.transform(cells, context).shape == (9, 8)
    assert "cae: token maps of 7 x 7 are resampled to 14 x 14" in context.reporter.notes


def test_resampling_is_bilinear_and_row_major():
    maps = torch.arange(4.0).reshape(1, 1, 2, 2)
    tokens = as_tokens(maps)
    assert tokens.shape == (1, 196, 1)
    assert tokens[0, [0, 13, 182, 195], 0].tolist() == [0, 1, 2, 3]
    assert tokens.mean().item() == pytest.approx(1.5)


def test_half_precision_trains_and_transforms(cells, tmp_path):
    context = replace(cpu_context(tmp_path), dtype=torch.bfloat16)
    method = Cae(**TINY).fit(cells, context)
    features = method.transform(cells, context)
    assert features.dtype == np.float32
    full = method.transform(cells, replace(context, dtype=torch.float32))
    assert 0 < np.abs(features - full).max() < 0.2


def test_maps_that_hold_nan_are_named_at_once(cells, tmp_path):
    maps = cells.map
    maps[[4, 5]] = np.nan
    spoiled = cells.with_column("map", maps)
    with pytest.raises(
        CellfeatError, match=r"loss became nan at step 1 of 2 \(epoch 1 of 2\), by the term image"
    ) as error:
        Cae(**TINY | {"batch_size": 9}).fit(spoiled, cpu_context(tmp_path))
    assert "the feature maps of 2 of the batch's 9 cells hold NaN or infinity" in str(error.value)
    assert not (tmp_path / "cae.pt").exists()


def test_a_loss_that_explodes_names_step_and_remedy(cells, tmp_path):
    with pytest.raises(CellfeatError, match=r"the loss became (nan|inf) at step \d of 6") as error:
        Cae(**TINY | {"learning_rate": 1e30}).fit(cells, cpu_context(tmp_path))
    assert "try a lower learning rate (--set align.learning_rate=1e+29, now 1e+30)" in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"heads": -1}, "heads must be at least 1, got -1"),
        ({"batch_size": 2, "accumulate": 5}, "accumulate is 5, but a batch of 2 has no more than 2 parts"),
        ({"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1, got 1"),
        ({"head_width": 12}, "head_width must be a multiple of 8, got 12"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": -1e-4}, "learning_rate must be above 0, got -0.0001"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"image_weight": -1.0}, "image_weight must be at least 0, got -1"),
        ({"domain_weight": -2.0}, "domain_weight must be at least 0, got -2"),
        ({"feature_weight": -0.5}, "feature_weight must be at least 0, got -0.5"),
    ],
)
def test_impossible_parameters(params, message):
    with pytest.raises(CellfeatError, match=message):
        Cae(**params)


def test_heads_that_do_not_divide_the_channels(cells, tmp_path):
    with pytest.raises(CellfeatError, match=r"3 heads do not divide the map's 8 channels. Possible: 1, 2, 4, 8"):
        Cae(**TINY, heads=3).fit(cells, cpu_context(tmp_path))


def test_vectors_in_place_of_maps(cells, tmp_path):
    flat = cells.with_column("map", cells.pooled)
    with pytest.raises(
        CellfeatError, match=r"needs a token map .* got shape \(8,\); choose a backbone that gives maps"
    ):
        Cae(**TINY).fit(flat, cpu_context(tmp_path))


def test_crops_of_another_shape(cells, tmp_path):
    small = cells.with_column("crop", cells.crop[:, :, :64])
    with pytest.raises(CellfeatError, match=r"needs crops of shape \(3, 128, 128\), uint8, and got \(3, 64, 128\)"):
        Cae(**TINY).fit(small, cpu_context(tmp_path))


def test_no_cells(cells, tmp_path):
    with pytest.raises(CellfeatError, match="got no cells to fit on"):
        Cae(**TINY).fit(cells[:0], cpu_context(tmp_path))


def test_maps_of_another_backbone(fitted, tmp_path):
    other = toy_cells(per_class=1, channels=16)
    with pytest.raises(CellfeatError, match="fitted on maps of 8 channels and got 16"):
        fitted.transform(other, cpu_context(tmp_path))
