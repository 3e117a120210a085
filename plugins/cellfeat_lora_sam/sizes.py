"""The sizes of the networks that `lora-sam` knows: builds differ by these numbers only."""

from __future__ import annotations

from dataclasses import dataclass

PATCH_SIZE = 16


@dataclass(frozen=True)
class SamSizes:
    """Sizes of one Segment Anything network.

    Attributes:
        embed_dim, depth, heads: width, blocks and attention heads of the image encoder.
        global_blocks: indices of the blocks that attend over the whole grid; the others attend inside windows.
        window: side of those windows, in tokens.
        prompt_dim: width of neck, prompt encoder and mask decoder.
        decoder_depth, decoder_mlp, decoder_heads: of the two-way transformer.
        iou_hidden: hidden width of the head that predicts a mask's quality.
    """

    embed_dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    prompt_dim: int = 256
    decoder_depth: int = 2
    decoder_mlp: int = 2048
    decoder_heads: int = 8
    iou_hidden: int = 256


BUILDS: dict[str, SamSizes] = {
    "tiny": SamSizes(192, 8, 3, tuple(range(8)), prompt_dim=128, decoder_mlp=256, decoder_heads=4, iou_hidden=128),
    "vit_b": SamSizes(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamSizes(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamSizes(1280, 32, 16, (7, 15, 23, 31)),
}
