"""What fine-tuning leaves behind, and putting it onto the weights it was made for.

An adapter is a folder: the LoRA matrices as peft writes them, the tuned prompt encoder and mask decoder with the
input's mean and deviation (`decoder.safetensors`), and `adapter.json`: which weights it belongs to and what it saw.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cellfeat import CellfeatError, load_tensors
from cellfeat_lora_sam.checkpoints import SamWeights
from cellfeat_lora_sam.described import ABOUT, DECODER, LORA
from cellfeat_lora_sam.network import SamNetwork

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

TUNED = ("prompt_encoder.", "mask_decoder.", "pixel_")
TARGETS = r"blocks\.\d+\.attn\.qkv\.[qv]"  # queries and values of every block, not keys
RANK = 4
NUMBERS = ("alpha_pattern", "bias", "lora_alpha", "lora_dropout", "r", "rank_pattern", "target_modules", "use_rslora")
NOTES = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")


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
    about_file = folder / ABOUT
    about_file.write_text(json.dumps(about, indent=1, sort_keys=True))
    for path in folder.rglob("*.safetensors"):  # which safetensors makes their owner's alone
        path.chmod(about_file.stat().st_mode)


def with_tuned_decoder(weights: SamWeights, folder: Path) -> SamWeights:
    """The base weights with the adapter's prompt encoder, decoder and colours in their place."""
    kept = {name: value for name, value in weights.state.items() if not name.startswith(TUNED)}
    return weights._replace(state=kept | load_tensors(Path(folder) / DECODER))


def merge_lora(network: SamNetwork, folder: Path) -> None:
    """Add the adapter's LoRA products to the encoder's weights, in place.

    Raises: CellfeatError for a configuration that asks peft for more than LoRA, see `_lora_config`.
    """
    from peft import PeftModel

    place = Path(folder) / LORA
    lora = PeftModel.from_pretrained(network.image_encoder, str(place), config=_lora_config(place))
    network.image_encoder = lora.merge_and_unload()


def _lora_config(folder: Path) -> LoraConfig:
    """The numbers alone of an adapter's configuration: peft would import modules that it names, and read its files."""
    from peft import LoraConfig

    path = folder / "adapter_config.json"
    try:
        said = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CellfeatError(f"{path} is no configuration of an adapter: {' '.join(str(error).split())}") from None
    usual = LoraConfig().to_dict() | {"peft_type": "LORA"}
    odd = {
        name: value
        for name, value in said.items()
        if name not in (*NUMBERS, *NOTES) and value not in (None, False, usual.get(name))
    }
    if odd:
        raise CellfeatError(f"{path} asks for {', '.join(sorted(odd))}, which no adapter of lora-sam needs")
    return LoraConfig(**{name: said[name] for name in NUMBERS if name in said}, inference_mode=True)


def fuse_qkv(network: SamNetwork) -> None:
    """One product for query, key and value, in place: quicker, and the same numbers."""
    for block in network.image_encoder.blocks:
        block.attn.qkv = block.attn.qkv.fused()


def trained_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
