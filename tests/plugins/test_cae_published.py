"""Checkpoints of the autoencoders' authors as fitted methods; each file that is none refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_cae.cae import Cae
from cellfeat_cae.network import CrossDomainAutoencoder
from cellfeat_cae.published import BC_SAM_SAW, DORL_SAW, import_bc_sam, import_dorl_cae
from torch import nn

from cellfeat import CellfeatError
from cellfeat.testing import cpu_context, toy_cells

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS, LATENT = 8, 5


def dorl_cae(**sizes: int) -> tuple[CrossDomainAutoencoder, dict[str, torch.Tensor]]:
    """A network, and its tensors as DoRL's program names and lays them."""
    numbers = {"heads": 1, "encoder_depth": 2, "decoder_depth": 1, "head_width": 16, "latent": LATENT} | sizes
    network = CrossDomainAutoencoder(CHANNELS, **numbers).eval()
    content = {}
    for name, value in network.state_dict().items():
        top, _, rest = name.partition(".")
        rest = rest.replace("position", "pos_embedding").replace("blocks.", "transformer.")
        top = {"image_head": "decoder.head", "projector": "decoder.Linear"}.get(top, top)
        rest = f"layer_{rest}" if top == "encoder" and rest.startswith("norm.") else rest
        content[f"{top}.{rest}"] = value.transpose(0, 1) if "pos_embedding" in rest else value
    return network, content


def imported(tmp_path: Path, content: object, **options: int) -> Path:
    torch.save(content, tmp_path / "AE-SAM300.mdl")
    (tmp_path / "cae").mkdir(exist_ok=True)
    import_dorl_cae(tmp_path / "AE-SAM300.mdl", tmp_path / "cae", **options)
    return tmp_path / "cae"


def test_sizes_and_heads_are_those_of_the_file(tmp_path):
    network, content = dorl_cae(heads=2, encoder_depth=3)
    folder = imported(tmp_path, content, heads=2)
    method = Cae.load(folder)
    assert (method.encoder_depth, method.decoder_depth, method.head_width, method.latent) == (3, 1, 16, LATENT)
    assert (method.channels_, method.heads, method.weights_saw) == (CHANNELS, 2, DORL_SAW)
    got, wanted = method.network_.state_dict(), network.state_dict()
    assert set(got) == set(wanted)
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    tokens = torch.rand(2, 196, CHANNELS)
    with torch.no_grad():
        assert torch.equal(method.network_(tokens).z, network(tokens).z)
    assert {path.name for path in folder.iterdir()} == {"state.json", "state.safetensors"}


def test_a_run_can_use_the_folder(tmp_path):
    _, content = dorl_cae()
    folder = imported(tmp_path, content)
    cells, context = toy_cells(per_class=1, channels=CHANNELS), cpu_context(tmp_path / "scratch")
    method = Cae(weights=str(folder)).fit(cells, context)
    assert method.weights_saw == DORL_SAW
    assert np.array_equal(method.transform(cells, context), Cae.load(folder).transform(cells, context))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"encoder.cls_token": None},
            {},
            r"is no checkpoint of DoRL's autoencoder: it has no encoder.cls_token \(but ",
        ),
        ({"decoder.Linear.bias": None}, {}, r"does not fit: decoder.Linear.bias is absent$"),
        ({"encoder.pos_embedding": torch.ones(197, 1, 8)}, {}, r"pos_embedding has the shape .*\(196, 1, 8\)$"),
        ({"decoder.extra": torch.ones(1)}, {}, r"decoder.extra is unknown$"),
        ({}, {"heads": 3}, "3 heads do not divide the map's 8 channels"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, options, message):
    content = {name: value for name, value in (dorl_cae()[1] | change).items() if value is not None}
    with pytest.raises(CellfeatError, match=message):
        imported(tmp_path, content, **options)
    assert not list((tmp_path / "cae").iterdir())


class Touch:
    def __reduce__(self):
        return os.system, ("touch evil-was-run",)


class Whole(nn.Module):
    """As BC-SAM's program saves it, with something that would run when read."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.evil = Touch()


def test_a_whole_pickled_network_is_refused_unread_with_the_way_to_convert_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Whole(), tmp_path / "model.mdl")
    with pytest.raises(CellfeatError, match=r"saves its whole network as a pickle.*model\.py, convert it") as caught:
        import_bc_sam(tmp_path / "model.mdl", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "torch.load('model.mdl', map_location='cpu', weights_only=False)" in message
    assert {path.name for path in tmp_path.iterdir()} == {"model.mdl"}
    with pytest.raises(CellfeatError, match=r"was not loaded: .*run code"):
        imported(tmp_path, Whole())
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "was not loaded: it is no plain PyTorch checkpoint"),
        (b"PK\x03\x04 truncated", "cannot be read as a PyTorch checkpoint"),
    ],
)
def test_other_files_are_not_taken_for_pickled_networks(tmp_path, content, message):
    (tmp_path / "model.mdl").write_bytes(content)
    with pytest.raises(CellfeatError, match=message):
        import_bc_sam(tmp_path / "model.mdl", tmp_path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dictionary_of_bc_sam_becomes_a_fitted_method(tmp_path, prefix):
    from cellfeat_cae.bc_sam import BcSamAe
    from cellfeat_cae.bc_sam_network import BcSamAutoencoder

    network = BcSamAutoencoder(CHANNELS, LATENT).eval()
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, tmp_path / "state.pt")
    folder = tmp_path / "fitted"
    folder.mkdir()
    said = import_bc_sam(tmp_path / "state.pt", folder)
    assert said == f"Use it: cellfeat run --align bc-sam-ae --set align.weights={folder}"
    method = BcSamAe.load(folder)
    assert (method.channels_, method.latent, method.weights_saw) == (CHANNELS, LATENT, BC_SAM_SAW)
    cells, context = toy_cells(per_class=1, channels=CHANNELS), cpu_context(tmp_path / "scratch")
    with torch.no_grad():
        wanted = network(torch.from_numpy(cells.column("map").read(np.arange(len(cells))))).z
    np.testing.assert_allclose(method.transform(cells, context), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_a_state_dictionary_that_is_not_bc_sams(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "state.pt")
    with pytest.raises(CellfeatError, match=r"is no checkpoint of BC-SAM's autoencoder: it has no encoder\.0\.weight"):
        import_bc_sam(tmp_path / "state.pt", tmp_path)
