"""The networks at their published sizes, with random numbers: import, load, encode, a training step, read back.

Files have the authors' layouts and up to 500 MB each, and are deleted as soon as they were read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellfeat_cae.ae_cfe import AeCfe
from cellfeat_cae.batches import Batch
from cellfeat_cae.bc_sam import BcSamAe
from cellfeat_cae.cae import Cae
from cellfeat_cae.published import DORL_NAMES, import_bc_sam, import_dorl_cae
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.finetune import FinetuneSettings, Finetuning
from cellfeat_lora_sam.finetune_data import load_frames
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.published import import_dorl
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from cellfeat import synthetic
from cellfeat.testing import toy_images

pytestmark = pytest.mark.slow

CHANNELS, BLOCKS, RANK = 768, 12, 4  # of ViT-B, and of DoRL's adapter


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory) -> Iterator[Path]:
    """ViT-B for 1024 px as Meta published it, in float32: 375 MB."""
    path = tmp_path_factory.mktemp("meta") / "sam_vit_b_01ec64.pth"
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    for name, value in sam.named_parameters():
        if "pos" in name:  # positions begin as zeros, which any resampling would keep
            torch.nn.init.normal_(value, std=0.02)
    torch.save(sam.state_dict(), path)
    del sam
    yield path
    path.unlink()


@contextmanager
def for_a_while(path: Path, content: Any) -> Iterator[Path]:
    """A checkpoint that is gone when the block ends."""
    torch.save(content, path)
    try:
        yield path
    finally:
        path.unlink()


def authors_adapter() -> dict[str, torch.Tensor]:
    """DoRL's stage 1: LoRA's matrices by number, prompt encoder and a decoder of two masks under SAM's names."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    modules = {
        "prompt_encoder": PromptEncoder(256, (14, 14), (224, 224), mask_in_chans=16),
        "mask_decoder": MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=1),
    }
    content = {f"w_a_{number:03d}": 0.05 * torch.randn(RANK, CHANNELS) for number in range(2 * BLOCKS)}
    content |= {f"w_b_{number:03d}": 0.05 * torch.randn(CHANNELS, RANK) for number in range(2 * BLOCKS)}
    for part, module in modules.items():
        content |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    return content


def test_vit_b_with_the_authors_adapter_encodes_an_image(vit_b, tmp_path):
    torch.manual_seed(1)
    content, folder = authors_adapter(), tmp_path / "adapter"
    folder.mkdir()
    with for_a_while(tmp_path / "epoch_85.pth", content) as path:
        import_dorl(path, folder, base=str(vit_b))
    backbone = LoraSam(weights=str(vit_b), adapter=str(folder), image_size=224)
    features = backbone.encode(toy_images(1, 224))
    assert features.embedding.shape == (1, CHANNELS, 14, 14)
    assert features.embedding.dtype == torch.float32
    assert features.embedding.isfinite().all()
    assert features.mask.shape == (1, 224, 224)
    assert features.mask.dtype == torch.bool
    name = "image_encoder.blocks.11.attn.qkv.weight"
    before = torch.load(vit_b, weights_only=True, mmap=True)[name].chunk(3)
    query, key, value = load_network(vit_b, str(folder), 224).state_dict()[name].chunk(3)
    torch.testing.assert_close(query, before[0] + content["w_b_022"] @ content["w_a_022"])
    torch.testing.assert_close(value, before[2] + content["w_b_023"] @ content["w_a_023"])
    assert torch.equal(key, before[1])


def test_a_step_of_fine_tuning_trains_lora_and_decoder(vit_b, context):
    cell = synthetic.draw_cell("lymphocyte", "lab-a", np.random.default_rng(5), size=96)
    settings = FinetuneSettings(weights=str(vit_b), image_size=224, epochs=1, batch_size=1, lr=1e-3)
    run = Finetuning(settings, vit_b, load_frames([(cell.image, cell.mask > 0)], 224, context), context)
    lora = {name: value for name, value in run.trained.items() if ".lora_" in name}
    assert sum(value.numel() for value in lora.values()) == 147_456
    assert {name.split(".")[0] for name in run.trained} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert {name for name in run.trained if name.startswith("image_encoder")} == set(lora)
    before = {name: value.detach().clone() for name, value in run.network.named_parameters()}
    history = run.fit()
    assert np.isfinite(history["loss"]).all()
    after = dict(run.network.named_parameters())
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(value.isfinite().all() for value in after.values())
    assert moved <= set(run.trained)
    assert {name for name in lora if "lora_B" in name} <= moved  # A gets its first gradient once B is not 0
    assert any(name.startswith("mask_decoder.output_upscaling") for name in moved)


def batch_of(channels: int, domains: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(len(domains), *shape, generator=generator)

    return Batch(drawn(channels, 14, 14) - 0.5, drawn(3, 128, 128), torch.tensor(domains), drawn(196), 2, 0)


def trained_once(method: Any, channels: int, domains: list[int]) -> torch.nn.Module:
    """The method's network after one backward pass, every parameter with a finite gradient."""
    method.channels_ = channels
    torch.manual_seed(3)
    network = method._build()
    terms = method.losses(network, batch_of(channels, domains), lambda *gathered: gathered)
    assert all(term.isfinite() and term > 0 for term in terms.values()), terms
    sum(method.term_weights[name] * term for name, term in terms.items()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    network.zero_grad(set_to_none=True)
    return network


def check_import(
    importer: Callable[[Path, Path], str],
    kind: type,
    network: torch.nn.Module,
    file: Path,
    content: Any,
    **sizes: int,
) -> None:
    """Import the authors' file; what is read back has the network's very numbers."""
    folder = file.parent / "fitted"
    folder.mkdir()
    with for_a_while(file, content) as path:
        importer(path, folder)
    method = kind.load(folder)
    shutil.rmtree(folder)
    assert repr(method) == repr(kind(**sizes))  # beside these, the published numbers are the defaults
    got = method.network_.state_dict()
    assert set(got) == set(network.state_dict())
    assert all(torch.equal(got[name], value) for name, value in network.state_dict().items())


def millions(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def test_the_autoencoder_of_dorl(tmp_path):
    network = trained_once(Cae(), CHANNELS, [0, 1])
    assert 122.5 < millions(network) < 123.7
    content = {}
    for name, value in network.state_dict().items():
        for ours, theirs in DORL_NAMES.items():
            name = name.replace(ours, theirs)
        content[name] = value.transpose(0, 1) if name.endswith("pos_embedding") else value
    assert content["encoder.pos_embedding"].shape == (196, 1, CHANNELS)
    check_import(import_dorl_cae, Cae, network, tmp_path / "AE-SAM300.mdl", content, head_width=512)


def test_the_autoencoder_of_bc_sam(tmp_path):
    network = trained_once(BcSamAe(), CHANNELS, [0, 1])
    check_import(import_bc_sam, BcSamAe, network, tmp_path / "state.pt", network.state_dict())


def test_the_autoencoder_of_ae_cfe():
    network = trained_once(AeCfe(), 256, [0, 0, 1, 1])
    assert network.encoder[0].in_channels == network.img_decoder[0].in_channels == 256
    assert network.decoder[0].in_channels == 50
