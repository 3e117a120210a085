"""The factory `lora-sam`: token map and mask of a cell in one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cellfeat import CellfeatError, Context, EncoderFacts, Features, NamedWeights, find_weights
from cellfeat_lora_sam.described import describe
from cellfeat_lora_sam.named import NAMED_WEIGHTS, refuse_tiny
from cellfeat_lora_sam.published import export_dorl, import_dorl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from cellfeat_lora_sam.network import SamOutput
    from cellfeat_lora_sam.onnx_graph import Graph

Pooling = Literal["auto", "cell", "parts"]
DETAIL = 1.5  # sides of the network's frame: what images are brought to when they are looked at twice


class LoraSam:
    """Segment Anything adapted to single cells: tokens before the neck, and the cell's mask (DoRL, arXiv 2408.07467).

    Args:
        weights: a name of `cellfeat weights list`, or the path of a file, in Meta's layout or as safetensors of this
            plugin.
        adapter: folder made by `cellfeat lora-sam finetune` for exactly these weights.
        image_size: side of the frame that the network sees, px, a multiple of 16; 224 as published.
        pooling: "cell", the mean over the cell's tokens, as published; "parts", means and deviations over cell, nucleus
            and cytoplasm; "auto", parts where the weights tell the nucleus from the cell.
        passes: 2 looks a second time, at a window around the mask in which every cell has one size, and appends what
            is pooled there. The window is cut from images half as large again as the frame, S = 336 px for 224.
        shape: append 75 numbers of the outlines of cell and nucleus: solidity, roughness, moments, lobes, spread. No
            stain, size or turn changes them. For weights that tell the nucleus; measured on the CPU.
        own_colours: standardise each image by its own colours, or by those of the training images; None: as the
            weights, or the adapter, were trained.

    Weights with Meta's own decoder have no class for "cell": without an adapter their mask is SAM's answer to one point
    in the image's main nucleus, which is found by its colour. A single point is ambiguous, so SAM gives three masks;
    the one with the best quality predicted by SAM is taken, as its authors recommend.
    """

    named_weights: ClassVar[Mapping[str, NamedWeights]] = NAMED_WEIGHTS
    paper: ClassVar[str] = "Li et al., Pattern Recognition 170:112000, 2025, arXiv 2408.07467"
    importers: ClassVar[Mapping[str, Callable[..., str | None]]] = {"dorl": import_dorl}
    exporters: ClassVar[Mapping[str, Callable[..., str | None]]] = {"dorl": export_dorl}
    interpolation = "bilinear"
    compiles: ClassVar[bool] = True

    def __init__(
        self,
        weights: str = "cell-tiny",
        adapter: str | None = None,
        image_size: int = 224,
        pooling: Pooling = "auto",
        passes: int = 1,
        shape: bool = False,
        own_colours: bool | None = None,
        context: Context | None = None,
    ) -> None:
        import torch

        from cellfeat_lora_sam.inference import prepare
        from cellfeat_lora_sam.loading import load_network
        from cellfeat_lora_sam.network import SAM_MASKS, WITH_NUCLEUS

        self.image_size = _frame(image_size, passes)
        self._side, self._passes = image_size, passes
        self._device = context.device if context else torch.device("cpu")
        self._dtype = context.dtype if context else torch.float32
        refuse_tiny(weights)
        path = find_weights(weights, NAMED_WEIGHTS, progress=context.progress if context else None)
        self.weights_sha256, self.weights_saw = describe(weights, path, adapter)
        network = load_network(path, adapter, image_size, own_colours).to(self._device)
        prepare(network, self._dtype, context is not None and context.compile)
        self._network, self._source = network, (path, adapter, image_size, own_colours)
        self._is_prompted, self._tells_nucleus = network.masks == SAM_MASKS, network.masks == WITH_NUCLEUS
        self._in_parts = self._tells_nucleus if pooling == "auto" else pooling == "parts"
        self._with_shape = shape
        if (self._in_parts or shape) and not self._tells_nucleus:
            tuned = "" if adapter is None else f" with the adapter {adapter}"
            wanted, possible = ("pooling is 'parts'", "'cell' and 'auto'") if self._in_parts else ("shape is on", "off")
            raise CellfeatError(
                f"{wanted}, but the weights {weights!r}{tuned} tell no nucleus from the cell; possible: {possible}"
            )
        if self._is_prompted and context:
            context.note(
                f"the weights {weights!r} have no decoder for cells: masks come from SAM's own decoder with one point "
                "in each image's main nucleus. An adapter (cellfeat lora-sam finetune) gives better ones"
            )

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> embedding (B, C, S/16, S/16) float32, mask (B, S, S) bool.

        pooled: (B, 6C) for parts, None for the cell; with a second look twice as wide, (B, 12C) or (B, 2C); with shapes
        75 wider. quality: of weights that tell the nucleus, None of others; 0 for an empty mask.
        """
        import torch

        if tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise CellfeatError(
                f"images of shape {tuple(images.shape)} were given; this backbone takes (B, 3, {self.image_size}, "
                f"{self.image_size}), RGB"
            )
        with torch.inference_mode():
            images = images.to(self._device, non_blocking=True)
            frames = self._frames(images)
            output = self._forward(frames)
            tokens, mask = output.tokens.float().contiguous(), self._masks(output, self.image_size)
            pooled = self._pooled(images, output, mask)
            return Features(tokens, mask, pooled, self._quality(output, mask))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, C, S/16, S/16) float32: `encode` without a mask."""
        import torch

        from cellfeat.training import autocast

        with torch.inference_mode(), autocast(self._device, self._dtype):
            return self._network.encode(self._frames(images.to(self._device))).float().contiguous()

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the cell; resized to S for the network."""
        import torch

        with torch.inference_mode():
            frames = self._frames(images.to(self._device, non_blocking=True))
            return self._masks(self._forward(frames), images.shape[-1])

    def nuclei(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, s, s) uint8 RGB of any side s -> (B, s, s) bool, True on the nucleus of the cell that `segment` finds.

        Raises:
            CellfeatError: for weights that tell no nucleus.
        """
        import torch

        from cellfeat_lora_sam.network import nucleus_mask

        if not self._tells_nucleus:
            raise CellfeatError("these weights tell no nucleus from the cell; cell-tiny does")
        with torch.inference_mode():
            frames = self._frames(images.to(self._device, non_blocking=True))
            output = self._forward(frames)
            return nucleus_mask(output.logits.float(), self._masks(output, images.shape[-1]))

    def onnx_module(self) -> Graph:
        """Encoder, mask and pooling as `cellfeat onnx` exports them.

        Raises:
            CellfeatError: for a second look, shapes, and SAM's own decoder, part of which is no tensor operation.
        """
        from cellfeat_lora_sam.onnx_graph import Graph

        if self._is_prompted:
            raise CellfeatError(
                "these weights have no decoder for cells: their masks come from a point that is found by colour, "
                "outside of the network, which no ONNX file can hold. Export with an adapter (cellfeat lora-sam "
                "finetune), or cell-tiny"
            )
        if self._passes == 2:
            raise CellfeatError("passes=2 is not exported to ONNX; possible: --set backbone.passes=1")
        if self._with_shape:
            raise CellfeatError("shape is not exported to ONNX; possible: --set backbone.shape=false")
        return Graph(*self._source, self._in_parts, self._tells_nucleus)

    def _frames(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, s, s) as the network takes them, of side S."""
        from torch.nn import functional

        if images.shape[-1] == self._side:
            return images
        size = (self._side, self._side)
        return functional.interpolate(images.float(), size, mode="bilinear", antialias=True).clamp(0, 255)

    def _forward(self, images: torch.Tensor) -> SamOutput:
        from cellfeat.training import autocast

        with autocast(self._device, self._dtype):
            if not self._is_prompted:
                return self._network(images)
            from cellfeat_lora_sam.prompt import nucleus_points

            return self._network.forward_points(images, nucleus_points(images))

    def _masks(self, output: SamOutput, side: int) -> torch.Tensor:
        from cellfeat_lora_sam.network import best_mask, two_class_mask

        if self._is_prompted:
            return best_mask(output.logits.float(), output.quality, side)
        return two_class_mask(output.logits.float(), side)

    def _pooled(self, images: torch.Tensor, output: SamOutput, cell: torch.Tensor) -> torch.Tensor | None:
        """The vectors of all passes, and shapes, side by side; None where the core takes its mean over the cell."""
        import torch

        from cellfeat_lora_sam.network import nucleus_mask

        if self._passes == 1 and not self._in_parts and not self._with_shape:
            return None
        nucleus = nucleus_mask(output.logits.float(), cell) if self._tells_nucleus else cell
        pooled = [self._pool(output.tokens, cell, nucleus)]
        if self._passes == 2:
            pooled.append(self._second(images, cell, nucleus))
        if self._with_shape:
            from cellfeat_lora_sam.shape import shapes

            pooled.append(torch.from_numpy(shapes(cell.cpu().numpy(), nucleus.cpu().numpy())).to(cell.device))
        return torch.cat(pooled, dim=1)

    def _second(self, images: torch.Tensor, cell: torch.Tensor, nucleus: torch.Tensor) -> torch.Tensor:
        from cellfeat.training import autocast
        from cellfeat_lora_sam.second_look import look_again

        look = look_again(images, cell, nucleus, self._side)
        with autocast(self._device, self._dtype):
            tokens = self._network.encode(look.images)
        return self._pool(tokens, look.cell, look.nucleus)

    def _pool(self, tokens: torch.Tensor, cell: torch.Tensor, nucleus: torch.Tensor) -> torch.Tensor:
        from cellfeat.images import masked_mean
        from cellfeat_lora_sam.pooling import pool_parts

        return pool_parts(tokens, cell, nucleus) if self._in_parts else masked_mean(tokens, cell)

    def _quality(self, output: SamOutput, cell: torch.Tensor) -> torch.Tensor | None:
        if not self._tells_nucleus:  # the heads of other decoders were never taught the quality of a cell's mask
            return None
        return output.quality[:, 1].float().clamp(0, 1) * cell.flatten(1).any(dim=1)

    @classmethod
    def facts(
        cls, weights: str, adapter: str | None, image_size: int, passes: int, context: Context, **_: Any
    ) -> EncoderFacts:
        """What an object of these parameters would say of itself; nothing is loaded."""
        refuse_tiny(weights)
        path = find_weights(weights, NAMED_WEIGHTS, progress=context.progress)
        return EncoderFacts(_frame(image_size, passes), cls.interpolation, *describe(weights, path, adapter))

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
        own_colours: bool | None = None,
    ) -> None:
        """Fill the empty `folder` with an adapter to pairs of image (H, W, 3) uint8 RGB and mask (H, W) bool.

        LoRA on query and value and the whole decoder, 0.2 cross-entropy + 0.8 Dice, AdamW, a warm-up of some epochs and
        then half a cosine; the defaults are the published ones (DoRL, stage 1). `saw` names the data. `stop_after`
        breaks the schedule off: the authors used the state after 85 of 150 epochs.

        Weights that tell the nucleus go on telling it, as they did before: it is no part of the masks.
        """
        from cellfeat_lora_sam.finetune import FinetuneSettings, finetune

        check_image_size(image_size)
        refuse_tiny(weights)
        numbers = (epochs, batch_size, lr, weight_decay, warmup, rank, accumulate, stop_after, own_colours)
        finetune(pairs, folder, FinetuneSettings(weights, image_size, *numbers), saw, context)


def _frame(image_size: int, passes: int) -> int:
    """The side of the images that are asked for."""
    check_image_size(image_size)
    if passes not in (1, 2):
        raise CellfeatError(f"passes is {passes}; possible are 1, and 2 for a second look at the cell alone")
    # a second look at pixels that the first has averaged away would see nothing new
    return image_size if passes == 1 else round(DETAIL * image_size)


def check_image_size(image_size: int) -> None:
    """Raise unless a frame of this side can be cut into patches."""
    if image_size < 32 or image_size % 16:
        raise CellfeatError(f"image_size is {image_size}; possible are multiples of 16 from 32, such as 224")
