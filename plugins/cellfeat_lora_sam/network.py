"""Segment Anything (Kirillov et al., 2023, arXiv 2304.02643) as one network from image to tokens and mask.

Built from the modules of the `segment-anything` package. What differs: query, key and value are separate layers, so
that an adapter can reach two of them alone; the tokens before the neck are returned beside the masks; a whole batch is
decoded at once; with two mask tokens, background and cell, both are kept (LoRA-SAM as in DoRL, arXiv 2408.07467), and
a third may tell the nucleus.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from cellfeat_lora_sam.attention import SplitAttention
from cellfeat_lora_sam.sizes import PATCH_SIZE, SamSizes

SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB on 0..255, of Meta's weights
TWO_CLASSES = 2  # mask tokens: background, cell
WITH_NUCLEUS = 3  # and nucleus
SAM_MASKS = 4  # mask tokens of the published decoder: one for clear prompts, three for ambiguous ones


class SamOutput(NamedTuple):
    """What one forward pass over B images of side S gives.

    tokens: (B, C, S/16, S/16) float, the encoder's output before its neck.
    logits: (B, masks, S/4, S/4) float, one per mask token, before any threshold or softmax.
    quality: (B, masks) float, the predicted intersection over union of each mask.
    """

    tokens: Tensor
    logits: Tensor
    quality: Tensor


class SamNetwork(nn.Module):
    """SAM for square images of one size, without prompts or with one point in each.

    Parameters keep the names of Meta's checkpoints, but for `qkv.{weight,bias}`, which are `qkv.{q,k,v}.{weight,bias}`.

    Args:
        sizes: numbers of the build, see `BUILDS`.
        image_size: S, a multiple of 16.
        masks: mask tokens of the decoder: 2 (background, cell), 3 (background, cell, nucleus) or 4 (as published).
        own_colours: standardise each image by its own colours rather than by those of the training images.

    Images smaller than S are windows of the same scale: they meet the middle of every table of positions.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, sizes: SamSizes, image_size: int = 224, masks: int = TWO_CLASSES, own_colours: bool = False
    ) -> None:
        super().__init__()
        self.sizes, self.image_size, self.masks, self.own_colours = sizes, image_size, masks, own_colours
        self.kept_positions: dict[int, Tensor] | None = None
        self.register_buffer("pixel_mean", torch.tensor(SAM_MEAN).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(SAM_STD).view(3, 1, 1))
        self.image_encoder = _image_encoder(sizes, image_size)
        self.prompt_encoder = _prompt_encoder(sizes, image_size)
        self.mask_decoder = build_mask_decoder(sizes, masks)

    def forward(self, images: Tensor) -> SamOutput:
        """(B, 3, S, S) RGB, 0..255, uint8 or float -> `SamOutput`, without a prompt."""
        tokens = self.encode(images)
        sparse, dense = self.prompt_encoder(None, None, None)
        return SamOutput(tokens, *self.decode(tokens, sparse, dense))

    def forward_points(self, images: Tensor, points: Tensor) -> SamOutput:
        """The same with one foreground point in every image; points (B, 2) float, x and y in px, 0 in the first."""
        tokens = self.encode(images)
        prompt = points.to(images.device)[:, None], torch.ones((len(points), 1), device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            sparse, dense = self.prompt_encoder(prompt, None, None)
        return SamOutput(tokens, *self.decode(tokens, sparse, dense))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) RGB, 0..255 -> (B, C, S/16, S/16) tokens before the neck."""
        encoder = self.image_encoder
        own = standardised(images) if self.own_colours else (images.float() - self.pixel_mean) / self.pixel_std
        patches = encoder.patch_embed(own)
        tokens = patches + _middle(encoder.pos_embed, patches.shape[1])
        for block in encoder.blocks:
            tokens = block(tokens)
        return tokens.permute(0, 3, 1, 2)

    def decode(self, tokens: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, C, h, w) and a prompt for each, or one for all -> logits (B, masks, 4h, 4w), quality (B, masks).

        `MaskDecoder.predict_masks` decodes many prompts for one image and would pair every image with every prompt.
        """
        decoder = self.mask_decoder
        batch, _, height, width = tokens.shape
        image = self.image_encoder.neck(tokens) + dense[..., :height, :width]  # the same everywhere
        where = self._dense_positions(height).expand(batch, -1, -1, -1)
        learned = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight)).expand(batch, -1, -1)
        asked = torch.cat((learned, sparse.expand(batch, -1, -1)), dim=1)
        answers, image = decoder.transformer(image, where, asked)
        upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(batch, -1, height, width))
        heads = enumerate(decoder.output_hypernetworks_mlps)
        weights = torch.stack([head(answers[:, 1 + index]) for index, head in heads], dim=1)
        logits = torch.einsum("bmc,bchw->bmhw", weights, upscaled)
        return logits, decoder.iou_prediction_head(answers[:, 0])

    def _dense_positions(self, side: int) -> Tensor:
        """(1, C', side, side), where every token of the decoder's image lies; kept once the network only infers."""
        if self.kept_positions is not None and side in self.kept_positions:
            return self.kept_positions[side]
        weight = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        with torch.autocast(weight.device.type, enabled=False):  # phases of many turns do not fit into half precision
            where = self.prompt_encoder.get_dense_pe().movedim(1, -1)
            where = _middle(where, side).movedim(-1, 1)
        if self.kept_positions is not None:
            self.kept_positions[side] = where
        return where


def standardised(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> float32, each image less its own mean and over its own deviation (at least 1), by channel."""
    pixels = images.flatten(2).to(torch.float32, copy=True)
    pixels -= pixels.mean(dim=2, keepdim=True)
    # torch's own `std` takes one pixel after the other.
    deviation = torch.linalg.vector_norm(pixels, dim=2, keepdim=True) / pixels.shape[2] ** 0.5
    pixels /= deviation.clamp(min=1.0)
    return pixels.unflatten(2, images.shape[2:])


def _middle(grid: Tensor, side: int) -> Tensor:
    """The middle (B, side, side, C) of a grid (B, h, h, C); the grid itself where it has this side."""
    start = (grid.shape[1] - side) // 2
    return grid[:, start : start + side, start : start + side]


def small_masks(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, 3, s, s) -> cell and nucleus, a part of the cell, each (B, s, s) bool, at the decoder's resolution."""
    cell = logits[:, 1] > logits[:, 0]
    return cell, (logits[:, TWO_CLASSES] > 0) & cell


def upsample(logits: Tensor, image_size: int) -> Tensor:
    """Low-resolution logits (B, masks, s, s) -> (B, masks, S, S), bilinear as in SAM's postprocessing."""
    return functional.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)


def two_class_mask(logits: Tensor, image_size: int) -> Tensor:
    """Logits (B, 2 or 3, s, s) of background, cell and perhaps nucleus -> (B, S, S) bool, True on the cell."""
    background, cell = upsample(logits[:, :TWO_CLASSES], image_size).unbind(dim=1)
    return cell > background


def nucleus_mask(logits: Tensor, cell: Tensor) -> Tensor:
    """Logits (B, 3, s, s) and the cell (B, S, S) bool -> (B, S, S) bool, True on the nucleus, a part of the cell."""
    return (upsample(logits[:, TWO_CLASSES:], cell.shape[-1])[:, 0] > 0) & cell


def best_mask(logits: Tensor, quality: Tensor, image_size: int) -> Tensor:
    """Of SAM's three masks for an ambiguous prompt, the one of the best predicted quality; (B, S, S) bool."""
    best = 1 + quality[:, 1:].argmax(dim=1)
    return upsample(logits[torch.arange(len(best), device=best.device), best][:, None], image_size)[:, 0] > 0


def _image_encoder(sizes: SamSizes, image_size: int) -> ImageEncoderViT:
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH_SIZE,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        out_chans=sizes.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=sizes.global_blocks,
        window_size=sizes.window,
    )
    for index, block in enumerate(encoder.blocks):
        side = image_size // PATCH_SIZE if index in sizes.global_blocks else sizes.window
        block.attn = SplitAttention(sizes.embed_dim, sizes.heads, (side, side))
        if side == image_size // PATCH_SIZE:
            block.window_size = 0  # a window as large as the grid need not be cut out of it
    return encoder


def _prompt_encoder(sizes: SamSizes, image_size: int) -> PromptEncoder:
    grid = image_size // PATCH_SIZE
    return PromptEncoder(sizes.prompt_dim, (grid, grid), (image_size, image_size), mask_in_chans=16)


def build_mask_decoder(sizes: SamSizes, masks: int) -> MaskDecoder:
    transformer = TwoWayTransformer(
        sizes.decoder_depth, sizes.prompt_dim, num_heads=sizes.decoder_heads, mlp_dim=sizes.decoder_mlp
    )
    return MaskDecoder(
        transformer_dim=sizes.prompt_dim,
        transformer=transformer,
        num_multimask_outputs=masks - 1,
        iou_head_hidden_dim=sizes.iou_hidden,
    )
