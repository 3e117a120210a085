"""LoRA-SAM against numbers of the authors' own program (DoRL, stage 1) on a small network of the same pattern.

No weights are stored: a parameter is drawn from NumPy's legacy generator, seeded with the CRC-32 of its key.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_lora_sam.adapter import add_lora
from cellfeat_lora_sam.checkpoints import SamWeights, build_network, fit_positions, split_qkv
from cellfeat_lora_sam.losses import low_resolution, segmentation_loss
from cellfeat_lora_sam.network import SamNetwork, two_class_mask, upsample
from cellfeat_lora_sam.sizes import SamSizes

DATA = Path(__file__).parent / "data"
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


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(DATA / "lora_sam.npz") as file:
        return dict(file)


def fill(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule by which the reference program's parameters were filled."""
    scale = 0.1 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(int(np.prod(shape))) * scale
    values = values.reshape(shape).astype(np.float32)
    return torch.from_numpy(values + (len(shape) == 1 and key.endswith(".weight")))


def base_state() -> dict[str, torch.Tensor]:
    return {key: fill(f"base.{key}", tuple(shape)) for key, shape in FACTS["base_keys"].items()}


def weights() -> SamWeights:
    state = {key: value for key, value in base_state().items() if key.startswith("image_encoder.")}
    state |= {key: fill(f"tuned.{key}", tuple(shape)) for key, shape in FACTS["tuned_keys"].items()}
    state["pixel_mean"] = torch.tensor(FACTS["pixel_mean"]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor(FACTS["pixel_std"]).view(3, 1, 1)
    return SamWeights(split_qkv(state), SIZES, {})


def adapted_network() -> tuple[SamNetwork, dict[str, torch.nn.Parameter]]:
    """The network with the reference's LoRA matrices, and its trained parameters under the reference's names."""
    network = build_network(weights(), 224)
    add_lora(network)
    trained = {}
    for block, layer in enumerate(network.image_encoder.blocks):
        for offset, part in enumerate((layer.attn.qkv.q, layer.attn.qkv.v)):
            index = f"{2 * block + offset:03d}"
            a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
            with torch.no_grad():
                a.copy_(fill(f"w_a_{index}", tuple(a.shape)))
                b.copy_(fill(f"w_b_{index}", tuple(b.shape)) * FACTS["lora_b_scale"])
            trained |= {f"w_a_{index}": a, f"w_b_{index}": b}
    others = (pair for pair in network.named_parameters() if not pair[0].startswith("image_encoder."))
    return network, trained | dict(others)


@pytest.fixture(scope="module")
def network() -> SamNetwork:
    return adapted_network()[0].eval()


def close(got: torch.Tensor, wanted: np.ndarray) -> None:
    torch.testing.assert_close(
        got.detach(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max())
    )


def test_positions_are_interpolated_as_in_the_original(numbers):
    fitted = fit_positions(base_state(), SIZES, 224)
    names = [name for name in numbers if name.startswith("interpolated/")]
    assert len(names) == 4
    for name in names:
        close(fitted[name.removeprefix("interpolated/")], numbers[name])


@torch.no_grad()
def test_tokens_logits_and_masks(network, numbers):
    output = network(torch.from_numpy(numbers["images"]).permute(0, 3, 1, 2))
    close(output.tokens, numbers["encoder_feature"])
    close(output.logits, numbers["low_res_logits"])
    close(output.quality, numbers["iou"])
    close(upsample(output.logits, 224)[..., ::4, ::4], numbers["mask_logits"])
    assert torch.equal(two_class_mask(output.logits, 224), torch.from_numpy(numbers["mask"]).bool())


def test_loss_and_gradients_of_one_training_step(numbers):
    network, trained = adapted_network()
    logits = network(torch.from_numpy(numbers["images"]).permute(0, 3, 1, 2)).logits
    loss = segmentation_loss(logits, low_resolution(torch.from_numpy(numbers["labels"])))
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


def test_adapter_leaves_everything_else_in_the_encoder_frozen():
    network, _ = adapted_network()
    names = [name for name, value in network.image_encoder.named_parameters() if value.requires_grad]
    assert len(names) == 2 * 2 * CONFIG["depth"]
    assert all(".qkv.q.lora_" in name or ".qkv.v.lora_" in name for name in names)
