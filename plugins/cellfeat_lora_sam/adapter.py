"""What fine-tuning leaves behind, and putting it onto the weights it was made for.

An adapter is a folder: the LoRA matrices as peft writes them, the tuned prompt encoder and mask decoder with the
input's mean and deviation (`decoder.safetensors`), and `adapter.json`: which weights it belongs to and what it saw.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cellfeat import load_tensors
from cellfeat_lora_sam.checkpoints import SamWeights
from cellfeat_lora_sam.described import ABOUT, DECODER, LORA
from cellfeat_lora_sam.network import SamNetwork

if TYPE_CHECKING:
    from peft import PeftModel

TUNED = ("prompt_encoder.", "mask_decoder.", "pixel_")
TARGETS = r"blocks\.\d+\.attn\.qkv\.[qv]"  # queries and values of every block, not keys
RANK = 4


def add_lora(network: SamNetwork, rank: int = RANK) -> PeftModel:
    """Freeze the image encoder and put LoRA (Hu et al., 2021) on q and v, in place; the product is added at scale 1."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=TARGETS)
    return get_peft_model(network.image_encoder, config)


def save_adapter(folder: Path, network: SamNetwork, lora: PeftModel, about: dict[str, Any]) -> None:
    """Fill an existing folder with the adapter of a fine-tuned network."""
    from safetensors.torch import save_file

    folder = Path(folder)
    lora.save_pretrained(str(folder / LORA))
    (folder / LORA / "README.md").unlink(missing_ok=True)  # peft's card is a form to fill in about hub models
    tuned = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if name.startswith(TUNED)
    }
    save_file(tuned, folder / DECODER)
    (folder / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True))


def with_tuned_decoder(weights: SamWeights, folder: Path) -> SamWeights:
    """The base weights with the adapter's prompt encoder, decoder and colours in their place."""
    kept = {name: value for name, value in weights.state.items() if not name.startswith(TUNED)}
    return weights._replace(state=kept | load_tensors(Path(folder) / DECODER))


def merge_lora(network: SamNetwork, folder: Path) -> None:
    """Add the adapter's LoRA products to the encoder's weights, in place."""
    from peft import PeftModel

    network.image_encoder = PeftModel.from_pretrained(
        network.image_encoder, str(Path(folder) / LORA)
    ).merge_and_unload()


def fuse_qkv(network: SamNetwork) -> None:
    """One product for query, key and value, in place: quicker, and the same numbers."""
    for block in network.image_encoder.blocks:
        block.attn.qkv = block.attn.qkv.fused()


def trained_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
