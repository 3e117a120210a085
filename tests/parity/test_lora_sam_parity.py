"""LoRA-SAM against numbers of the authors' own program (DoRL, stage 1) on a small network of the same pattern.

No weights are stored: the test writes a base file in Meta's layout at 1024 px and a checkpoint as the authors' program
does, every tensor drawn by the rule of `published.fill`, and imports the latter as a user would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import adapter as adapters
from cellfeat_lora_sam import sizes as builds
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.described import LORA
from cellfeat_lora_sam.loading import load_network
from cellfeat_lora_sam.losses import segmentation_loss
from cellfeat_lora_sam.network import SamNetwork, two_class_mask, upsample
from cellfeat_lora_sam.sizes import SamSizes
from parity.published import DATA, fill
from peft import PeftModel

from cellfeat.exchange import import_file
from cellfeat.registry import installed

FACTS = json.loads((DATA / "lora_sam.json").read_text())
CONFIG = FACTS["config"]
SIZES = SamSizes(
    CONFIG["embed_dim"],
    CONFIG["depth"],
    CONFIG["num_heads"],
    tuple(CONFIG["global_attn_indexes"]),
    prompt_dim=CONFIG["prompt_dim"],
    decoder_mlp=CONFIG["mlp_dim"],
    decoder_heads=CONFIG["decoder_heads"],
    iou_hidden=CONFIG["iou_hidden"],
)
ZERO_GRADIENT = 1e-7  # a stored norm below it is zero in exact arithmetic


class Imported(NamedTuple):
    """The base file, and the folder that the importer made."""

    base: Path
    adapter: Path


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(DATA / "lora_sam.npz") as file:
        return dict(file)


def filled(key: str, shape: list[int]) -> torch.Tensor:
    return torch.from_numpy(fill(key, shape))


def authors_checkpoint() -> dict[str, torch.Tensor]:
    width, rank = CONFIG["embed_dim"], CONFIG["rank"]
    numbers = [f"{number:03d}" for number in range(2 * CONFIG["depth"])]
    content = {f"w_a_{number}": filled(f"w_a_{number}", [rank, width]) for number in numbers}
    content |= {f"w_b_{number}": filled(f"w_b_{number}", [width, rank]) * FACTS["lora_b_scale"] for number in numbers}
    return content | {key: filled(f"tuned.{key}", shape) for key, shape in FACTS["tuned_keys"].items()}


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Imported:
    folder = tmp_path_factory.mktemp("published")
    base, checkpoint = folder / "sam_1024.pth", folder / "epoch_85.pth"
    torch.save({key: filled(f"base.{key}", shape) for key, shape in FACTS["base_keys"].items()}, base)
    torch.save(authors_checkpoint(), checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(builds.BUILDS, "small", SIZES)
        import_file(installed(), "dorl", checkpoint, folder / "adapter", [f"base={base}"])
        yield Imported(base, folder / "adapter")


@pytest.fixture(scope="module")
def network(imported) -> SamNetwork:
    return load_network(imported.base, str(imported.adapter), 224)


def trainable(imported: Imported) -> tuple[SamNetwork, dict[str, torch.nn.Parameter]]:
    """The network with the LoRA matrices beside its layers, and what is trained under the authors' names."""
    network = build_network(adapters.with_tuned_decoder(read_weights(imported.base), imported.adapter), 224)
    PeftModel.from_pretrained(network.image_encoder, str(imported.adapter / LORA), is_trainable=True)
    trained = {}
    for block, layer in enumerate(network.image_encoder.blocks):
        for offset, part in enumerate((layer.attn.qkv.q, layer.attn.qkv.v)):
            number = f"{2 * block + offset:03d}"
            trained[f"w_a_{number}"] = part.lora_A["default"].weight
            trained[f"w_b_{number}"] = part.lora_B["default"].weight
    others = (pair for pair in network.named_parameters() if not pair[0].startswith("image_encoder."))
    return network, trained | dict(others)


def close(got: torch.Tensor, wanted: np.ndarray) -> None:
    torch.testing.assert_close(
        got.detach(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max())
    )


def test_positions_are_interpolated_as_in_the_original(network, numbers):
    names = [name for name in numbers if name.startswith("interpolated/")]
    assert len(names) == 4
    for name in names:
        close(network.state_dict()[name.removeprefix("interpolated/")], numbers[name])


def test_the_published_colours_belong_to_the_adapter(network):
    assert network.pixel_mean.flatten().tolist() == pytest.approx(FACTS["pixel_mean"])
    assert network.pixel_std.flatten().tolist() == pytest.approx(FACTS["pixel_std"])


@torch.no_grad()
def test_tokens_logits_and_masks(network, numbers):
    output = network(torch.from_numpy(numbers["images"]).permute(0, 3, 1, 2))
    close(output.tokens, numbers["encoder_feature"])
    close(output.logits, numbers["low_res_logits"])
    close(output.quality, numbers["iou"])
    close(upsample(output.logits, 224)[..., ::4, ::4], numbers["mask_logits"])
    assert torch.equal(two_class_mask(output.logits, 224), torch.from_numpy(numbers["mask"]).bool())


def test_loss_and_gradients_of_one_training_step(imported, numbers):
    network, trained = trainable(imported)
    logits = network(torch.from_numpy(numbers["images"]).permute(0, 3, 1, 2)).logits
    loss = segmentation_loss(logits, torch.from_numpy(numbers["labels"])[:, ::4, ::4])
    loss.loss.backward()
    wanted = FACTS["training"]
    for term in ("loss", "cross_entropy", "dice"):
        assert getattr(loss, term).item() == pytest.approx(wanted[term], rel=1e-4)
    assert len(wanted["gradients"]) == 151
    for name, (norm, first) in wanted["gradients"].items():
        gradient = trained[name].grad
        if norm < ZERO_GRADIENT:
            assert gradient.norm() < 1e-6, name
            continue
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3), name
        largest = float(gradient.abs().max())
        np.testing.assert_allclose(
            gradient.flatten()[: len(first)], first, rtol=1e-3, atol=1e-3 * largest, err_msg=name
        )
    silent = {name for name, value in trained.items() if value.grad is None or not value.grad.any()}
    assert not silent & {name for name, (norm, _) in wanted["gradients"].items() if norm >= ZERO_GRADIENT}


def test_adapter_leaves_everything_else_in_the_encoder_frozen(imported):
    network, _ = trainable(imported)
    names = [name for name, value in network.image_encoder.named_parameters() if value.requires_grad]
    assert len(names) == 2 * 2 * CONFIG["depth"]
    assert all(".qkv.q.lora_" in name or ".qkv.v.lora_" in name for name in names)
