"""A SAM run by the `segment-anything` and `peft` packages, image by image as DoRL's program does: the plain way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from cellfeat import CellfeatError, load_tensors

PATCH, HEAD_WIDTH = 16, 32  # SAM's decoders have one head for 32 channels, which no tensor's shape tells
PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


class PlainSam(nn.Module):
    """The package's own three modules with the weights of a file made for images of `size` px.

    own_colours: standardise an image by its own colours, rather than by those of the training images.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        state = fused({name: value.float() for name, value in load_tensors(path).items()})
        self.size, self.own_colours = size, False
        try:
            self.image_encoder = _encoder(state, size)
            self.prompt_encoder, self.mask_decoder = _prompt_and_decoder(state, size)
            for part in PARTS:
                own = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(part)}
                getattr(self, part).load_state_dict(own)
        except (KeyError, RuntimeError) as error:
            raise CellfeatError(
                f"{path} holds no SAM for {size} px that the segment-anything package can be given as it is: {error}"
            ) from None
        self.mean, self.deviation = state["pixel_mean"], state["pixel_std"]
        self.tokens: Any = None  # of the last image before the neck, (1, C, S/16, S/16)
        self.image_encoder.neck.register_forward_pre_hook(self._keep)
        self.eval().requires_grad_(False)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, masks, S/4, S/4), for training: the encoder on all, the decoder one by one."""
        mean, deviation = self._colours(images.float())
        embeddings = self.image_encoder((images.float() - mean) / deviation)
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        where = self.prompt_encoder.get_dense_pe()
        found = [self.mask_decoder.predict_masks(one[None], where, sparse, dense)[0] for one in embeddings]
        return torch.cat(found)

    def _colours(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation to standardise (..., 3, S, S) pixels by."""
        if not self.own_colours:
            return self.mean, self.deviation
        flat = pixels.flatten(-2)
        return flat.mean(-1)[..., None, None], flat.std(-1, correction=0)[..., None, None].clamp(min=1.0)

    def _keep(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.tokens = given[0]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(3, S, S) uint8 RGB -> (S, S) bool mask, (C, S/16, S/16) float neck output, as `Sam.forward` gets them."""
        pixels = image.float()
        mean, deviation = self._colours(pixels)
        embedding = self.image_encoder(((pixels - mean) / deviation)[None])
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        logits, _ = self.mask_decoder.predict_masks(embedding, self.prompt_encoder.get_dense_pe(), sparse, dense)
        large = functional.interpolate(logits, (self.size, self.size), mode="bilinear", align_corners=False)[0]
        return large[1] > large[0], embedding[0]


def with_lora(plain: PlainSam, rank: int = 4) -> PlainSam:
    """LoRA beside every query-key-value layer, by peft, not merged, as the published program infers; it adds zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=r"blocks\.\d+\.attn\.qkv")
    plain.image_encoder = get_peft_model(plain.image_encoder, config)
    return plain.eval()


def write_random_vit_b(path: Path, size: int = 224, seed: int = 0) -> Path:
    """A file in Meta's layout with the sizes of ViT-B and random numbers: for time and memory, not for features."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

    grid = size // PATCH
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            "image_encoder": ImageEncoderViT(
                img_size=size,
                embed_dim=768,
                depth=12,
                num_heads=12,
                out_chans=256,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                global_attn_indexes=(2, 5, 8, 11),
                window_size=14,
            ),
            "prompt_encoder": PromptEncoder(256, (grid, grid), (size, size), mask_in_chans=16),
            "mask_decoder": MaskDecoder(
                transformer_dim=256,
                transformer=TwoWayTransformer(2, 256, num_heads=8, mlp_dim=2048),
                num_multimask_outputs=1,
            ),
        }
        for name, value in parts["image_encoder"].named_parameters():
            if "pos" in name:  # SAM begins with zeros there, and zeros would hide a wrong sum
                nn.init.normal_(value, std=0.02)
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    state |= {"pixel_mean": torch.tensor([215.0, 188.0, 200.0]).view(3, 1, 1)}
    state |= {"pixel_std": torch.tensor([41.0, 57.0, 22.0]).view(3, 1, 1)}
    torch.save(state, path)
    return path


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as the package has them, in one layer."""
    found = {name: value for name, value in state.items() if ".qkv.q." not in name and ".qkv.k." not in name}
    for name in [name for name in found if ".qkv.v." in name]:
        parts = [state[name.replace(".qkv.v.", f".qkv.{part}.")] for part in "qkv"]
        found[name.replace(".qkv.v.", ".qkv.")] = torch.cat(parts)
        del found[name]
    return found


def _encoder(state: Mapping[str, Tensor], size: int) -> ImageEncoderViT:
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    tables = [state[f"image_encoder.blocks.{block}.attn.rel_pos_h"] for block in range(depth)]
    grid, width = size // PATCH, state["image_encoder.pos_embed"].shape[-1]
    whole = tuple(block for block in range(depth) if len(tables[block]) == 2 * grid - 1)
    window = next(((len(table) + 1) // 2 for table in tables if len(table) != 2 * grid - 1), grid)
    return ImageEncoderViT(
        img_size=size,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=width // tables[0].shape[1],
        out_chans=_width(state),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=whole,
        window_size=window,
    )


def _prompt_and_decoder(state: Mapping[str, Tensor], size: int) -> tuple[PromptEncoder, MaskDecoder]:
    width, grid = _width(state), size // PATCH
    layers = [
        name for name in state if name.startswith("mask_decoder.transformer.layers.") and name.endswith("lin1.bias")
    ]
    masks = len(state["mask_decoder.mask_tokens.weight"])
    if masks > 3:
        raise KeyError("its decoder has no class for the cell")
    transformer = TwoWayTransformer(len(layers), width, num_heads=width // HEAD_WIDTH, mlp_dim=len(state[layers[0]]))
    hidden = len(state["mask_decoder.iou_prediction_head.layers.0.bias"])
    decoder: Any = MaskDecoder(
        transformer_dim=width, transformer=transformer, num_multimask_outputs=masks - 1, iou_head_hidden_dim=hidden
    )
    return PromptEncoder(width, (grid, grid), (size, size), mask_in_chans=16), decoder


def _width(state: Mapping[str, Tensor]) -> int:
    return state["image_encoder.neck.0.weight"].shape[0]
