"""Backbones `dinov2-*` and `dinobloom-*`: vision transformers with patches of 14 px, at 224 px."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from cellfeat import CellfeatError, Context, EncoderFacts, Features, file_sha256
from cellfeat_timm.dino_named import DINOS, Dino
from cellfeat_timm.pretrained import Source, file_source, no_weights

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.onnx_graph import DinoGraph

PATCH = 14
INTERPOLATION = "bicubic"
Pooling = Literal["cls", "mean", "both"]

_PARAMETERS = """
Embedding: the patch tokens behind the last norm, map (B, {width}, S/14, S/14), 16 x 16 at 224 px.
Images are resized bicubically and standardised by ImageNet's mean and deviation.

weights: "published"; or the path of a file, in Meta's layout, in timm's, or of a training ("teacher", "student" with
`backbone.` before the names); or "random".
image_size: S, a multiple of 14; positions are resampled as Meta's program does.
pooling: "cls", the class token, which Meta recommends for nearest neighbours and logistic regression and DinoBloom's
authors take; "mean", of the patch tokens; "both", one behind the other, twice as wide, which Meta recommends for
linear layers.
saw: names of the data that the weights were trained on, where that is not known, so that records of these targets are
marked: `--set "backbone.saw=[acevedo20]"`.
"""


class DinoBackbone:
    """A frozen network of DINOv2's family. `weights_sha256`: of the file, or of the drawn tensors."""

    interpolation = INTERPOLATION

    def __init__(
        self,
        dino: Dino,
        weights: str,
        image_size: int,
        pooling: Pooling,
        saw: tuple[str, ...] | None,
        context: Context | None,
    ) -> None:
        import torch

        from cellfeat_timm.dino_network import build
        from cellfeat_timm.network import state_sha256

        self.image_size, self.pooling = _checked_size(image_size), pooling
        source = _source(dino, weights, saw, context)
        self.device = torch.device("cpu") if context is None else context.device
        self.dtype = torch.float32 if context is None else context.dtype
        network = build(dino, source.file, image_size, 0 if context is None else context.seed)
        self.weights_sha256 = file_sha256(source.file) if source.file else state_sha256(network)
        self.weights_saw = source.saw
        self.network = network.to(self.device)

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> embedding (B, D, S/14, S/14) float32; pooled (B, D), or (B, 2D) for "both"."""
        import torch

        from cellfeat.training import autocast
        from cellfeat_timm.dino_network import map_and_vector

        side = self.image_size
        if tuple(images.shape[1:]) != (3, side, side):
            raise CellfeatError(
                f"images of shape {tuple(images.shape)} were given; this backbone takes (B, 3, {side}, {side}), RGB"
            )
        with torch.inference_mode(), autocast(self.device, self.dtype):
            tokens, pooled = map_and_vector(self.network, images.to(self.device, non_blocking=True), self.pooling)
        return Features(tokens, None, pooled)

    def onnx_module(self) -> DinoGraph:
        """Map and vector, as `cellfeat onnx` exports them."""
        from cellfeat_timm.onnx_graph import DinoGraph

        return DinoGraph(self.network, self.pooling)


def _source(dino: Dino, weights: str, saw: tuple[str, ...] | None, context: Context | None) -> Source:
    from cellfeat import find_weights

    if weights == "random":
        source = Source(None, ())
    elif weights != "published":
        source = file_source(weights, "published")
    else:
        named = {dino.name: dino.weights}
        try:
            path = find_weights(dino.name, named, progress=context.progress if context else None)
        except CellfeatError as error:
            raise no_weights(dino.name, error, f"`cellfeat weights fetch {dino.name}`", "backbone") from error
        source = Source(path, dino.weights.saw)
    return source.stated(saw)


def _checked_size(image_size: int) -> int:
    if image_size < 2 * PATCH or image_size % PATCH:
        raise CellfeatError(f"image_size={image_size} is not possible: give a multiple of 14 from 28, such as 224")
    return image_size


def _factory(dino: Dino) -> Callable[..., DinoBackbone]:
    def make(
        weights: str = "published",
        image_size: int = 224,
        pooling: Pooling = "cls",
        saw: tuple[str, ...] | None = None,
        *,
        context: Context | None = None,
    ) -> DinoBackbone:
        return DinoBackbone(dino, weights, image_size, pooling, saw, context)

    def facts(
        weights: str, image_size: int, saw: tuple[str, ...] | None, context: Context, **others: Any
    ) -> EncoderFacts:
        if weights == "random":  # whose digest only the drawn tensors tell
            made = make(weights, image_size, saw=saw, context=context)
            return EncoderFacts(image_size, INTERPOLATION, made.weights_sha256, made.weights_saw)
        source = _source(dino, weights, saw, context)
        sha256 = file_sha256(source.file) if source.file else None
        return EncoderFacts(_checked_size(image_size), INTERPOLATION, sha256, source.saw)

    make.__name__ = make.__qualname__ = dino.name.replace("-", "_")
    make.__doc__ = f"{_summary(dino)}\n{_PARAMETERS.format(width=dino.width)}"
    make.named_weights = {dino.name: dino.weights}  # type: ignore[attr-defined]
    make.paper = dino.paper  # type: ignore[attr-defined]
    make.facts = facts  # type: ignore[attr-defined]
    return make


def _summary(dino: Dino) -> str:
    letter = dino.name.split("-")[1].upper().replace("G", "g")
    size = f"ViT-{letter}/14, {dino.width} wide and {dino.depth} deep, frozen"
    if dino.name.startswith("dinobloom"):
        return (
            f"DinoBloom, {size}: DINOv2 trained on with cells of blood and bone marrow.\n\n{dino.paper}. The authors "
            "count 13 public data sets and list them in the\npaper alone: here it counts as not known which targets it "
            "has seen, until `saw` tells."
        )
    kind = "DINOv2 with four registers" if dino.registers else "DINOv2"
    return f"{kind}, {size}, trained by Meta on LVD-142M without labels.\n\n{dino.paper}."


FACTORIES: dict[str, Callable[..., DinoBackbone]] = {name: _factory(dino) for name, dino in DINOS.items()}
