"""The factory `lora-sam`: token map and mask of a cell in one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat import CellfeatError, Context, Features, NamedWeights, find_weights
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from cellfeat_lora_sam.published import export_dorl, import_dorl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from cellfeat_lora_sam.network import SamOutput


class LoraSam:
    """Segment Anything adapted to single cells: tokens before the neck, and the cell's mask (DoRL, arXiv 2408.07467).

    Args:
        weights: a name (cell-tiny, vit_b, vit_l, vit_h, vit_b_lm, vit_l_lm) or the path of a file, in Meta's layout or
            as safetensors of this plugin.
        adapter: folder made by `cellfeat lora-sam finetune` for exactly these weights.
        image_size: side S of the frame, px, a multiple of 16; 224 as published.

    Weights with Meta's own decoder have no class for "cell": without an adapter their mask is SAM's answer to one point
    in the middle of the image. A single point is ambiguous, so SAM gives three masks; the one with the best quality
    predicted by SAM is taken, as its authors recommend.
    """

    named_weights: ClassVar[Mapping[str, NamedWeights]] = NAMED_WEIGHTS
    importers: ClassVar[Mapping[str, Callable[..., str | None]]] = {"dorl": import_dorl}
    exporters: ClassVar[Mapping[str, Callable[..., str | None]]] = {"dorl": export_dorl}
    interpolation = "bilinear"

    def __init__(
        self,
        weights: str = "cell-tiny",
        adapter: str | None = None,
        image_size: int = 224,
        context: Context | None = None,
    ) -> None:
        import torch

        from cellfeat_lora_sam.loading import load_network

        check_image_size(image_size)
        self.image_size = image_size
        self._device = context.device if context else torch.device("cpu")
        self._dtype = context.dtype if context else torch.float32
        path = find_weights(weights, NAMED_WEIGHTS, progress=context.progress if context else None)
        network, self.weights_sha256, self.weights_saw = load_network(weights, path, adapter, image_size)
        self._network = network.to(self._device)
        if self._is_prompted and context:
            context.note(
                f"the weights {weights!r} have no decoder for cells: masks come from SAM's own decoder with one point "
                "in the middle of each image. An adapter (cellfeat lora-sam finetune) gives better ones"
            )

    @property
    def _is_prompted(self) -> bool:
        return self._network.masks > 2

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> embedding (B, C, S/16, S/16) float32, mask (B, S, S) bool."""
        if tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise CellfeatError(
                f"images of shape {tuple(images.shape)} were given; this backbone takes (B, 3, {self.image_size}, "
                f"{self.image_size}), RGB"
            )
        output = self._forward(images)
        return Features(output.tokens.float().contiguous(), self._masks(output, self.image_size))

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the cell; resized to S for the network."""
        from torch.nn import functional

        side = images.shape[-1]
        if side != self.image_size:
            size = (self.image_size, self.image_size)
            images = functional.interpolate(images.float(), size, mode="bilinear", antialias=True).clamp(0, 255)
        return self._masks(self._forward(images), side)

    def _forward(self, images: torch.Tensor) -> SamOutput:
        import torch

        from cellfeat.training import autocast

        with torch.inference_mode(), autocast(self._device, self._dtype):
            images = images.to(self._device, non_blocking=True)
            return self._network.forward_centre(images) if self._is_prompted else self._network(images)

    def _masks(self, output: SamOutput, side: int) -> torch.Tensor:
        import torch

        from cellfeat_lora_sam.network import best_mask, two_class_mask

        with torch.inference_mode():
            if self._is_prompted:
                return best_mask(output.logits.float(), output.quality, side)
            return two_class_mask(output.logits.float(), side)

    @staticmethod
    def finetune(
        pairs: Sequence[Any],
        folder: Path,
        *,
        context: Context,
        saw: tuple[str, ...] = (),
        weights: str = "cell-tiny",
        image_size: int = 224,
        epochs: int = 150,
        batch_size: int = 32,
        lr: float = 1e-4,
        weight_decay: float = 0.1,
        warmup: int = 10,
        rank: int = 4,
        accumulate: int = 1,
        stop_after: int | None = None,
    ) -> None:
        """Fill the empty `folder` with an adapter to pairs of image (H, W, 3) uint8 RGB and mask (H, W) bool.

        LoRA on query and value and the whole decoder, 0.2 cross-entropy + 0.8 Dice, AdamW, a warm-up of some epochs and
        then half a cosine; the defaults are the published ones (DoRL, stage 1). `saw` names the data. `stop_after`
        breaks the schedule off: the authors used the state after 85 of 150 epochs.
        """
        from cellfeat_lora_sam.finetune import FinetuneSettings, finetune

        check_image_size(image_size)
        numbers = (epochs, batch_size, lr, weight_decay, warmup, rank, accumulate, stop_after)
        finetune(pairs, folder, FinetuneSettings(weights, image_size, *numbers), saw, context)


def check_image_size(image_size: int) -> None:
    """Raise unless a frame of this side can be cut into patches."""
    if image_size < 32 or image_size % 16:
        raise CellfeatError(f"image_size is {image_size}; possible are multiples of 16 from 32, such as 224")
