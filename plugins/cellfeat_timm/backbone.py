"""Backbones from timm: `resnext50`, and `timm` for any of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellfeat import CellfeatError, Context, Features, file_sha256
from cellfeat_timm.known import published_config
from cellfeat_timm.pretrained import NAMED, RESNEXT50, find_source

if TYPE_CHECKING:
    import torch

    from cellfeat_timm.onnx_graph import Graph

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")  # timm's names that the core knows too


def resnext50(
    weights: str = "imagenet", image_size: int | None = None, *, context: Context | None = None
) -> TimmBackbone:
    """ResNeXt-50 32x4d, frozen, with torchvision's ImageNet weights: map (B, 2048, S/32, S/32), pooled (B, 2048).

    weights: "imagenet", the path of a state dictionary, or "random". image_size: 224 unless given.
    Xie et al., CVPR 2017; the network of Matek et al. (2019) for white blood cells, there trained end to end.
    """
    return TimmBackbone(RESNEXT50, weights, image_size, context)


def timm(
    model: str,
    weights: str = "imagenet",
    image_size: int | None = None,
    saw: tuple[str, ...] | None = None,
    *,
    context: Context | None = None,
) -> TimmBackbone:
    """Any timm model by its name (`resnet50`, `vit_small_patch14_dinov2.lvd142m`), frozen.

    model: `python -c "import timm; print(*timm.list_models('*convnext*'))"` lists names, and
    `timm.list_pretrained('convnext_tiny*')` the published weights of one, behind a point; without it timm's own choice
    is taken. `hf-hub:owner/name` is a model in timm's layout on the Hugging Face hub.
    weights: "imagenet" stands for the weights that timm publishes under this name, whatever they were trained on
    (records say it, where the name does); or the path of a state dictionary; or "random".
    image_size: the size that the weights were trained at unless given.
    saw: names of the data that the weights were trained on, where that is not known (files, models of the hub), so that
    records of these targets are marked: `--set "backbone.saw=[acevedo20]"`.
    """
    return TimmBackbone(model, weights, image_size, context, saw)


resnext50.named_weights = NAMED  # type: ignore[attr-defined]
resnext50.paper = "Xie et al., CVPR 2017"  # type: ignore[attr-defined]


class TimmBackbone:
    """A frozen timm network with the size, interpolation and normalisation of its weights.

    The whole frame is resized to S x S: no centre crop, as a cell may lie anywhere in it. `weights_sha256` is the
    digest of the file, or of the drawn tensors for random weights.
    """

    def __init__(
        self,
        model: str,
        weights: str,
        image_size: int | None,
        context: Context | None,
        saw: tuple[str, ...] | None = None,
    ) -> None:
        import torch

        from cellfeat_timm.network import build, state_sha256

        config = published_config(model)
        self.image_size = checked_size(image_size) or config.input_size[-1]
        self.interpolation = config.interpolation if config.interpolation in INTERPOLATIONS else "bicubic"
        self.device = torch.device("cpu") if context is None else context.device
        self.dtype = torch.float32 if context is None else context.dtype
        source = find_source(model, weights, "backbone", context).stated(saw)
        seed = 0 if context is None else context.seed
        self.network: Any = build(model, source.file, size=self.image_size, num_classes=0, seed=seed)
        self.weights_saw = source.saw
        self.weights_sha256 = file_sha256(source.file) if source.file else state_sha256(self.network)
        self.network.eval().requires_grad_(False).to(self.device)
        self.model = model

    def encode(self, images: torch.Tensor) -> Features:
        """(B, 3, S, S) uint8 RGB -> embedding (B, C, h, w), or (B, D) where the model has no map; pooled (B, D)."""
        import torch

        from cellfeat.training import autocast
        from cellfeat_timm.network import features_of

        with torch.inference_mode(), autocast(self.device, self.dtype):
            grid, pooled = features_of(self.network, self.model, images.to(self.device))
        return Features(pooled) if grid is None else Features(grid, None, pooled)

    def onnx_module(self) -> Graph:
        """Map and vector, or the vector alone, as `cellfeat onnx` exports them."""
        from cellfeat_timm.onnx_graph import Graph

        return Graph(self.network, self.model, self.image_size)


def checked_size(image_size: int | None) -> int | None:
    if image_size is not None and image_size < 32:
        raise CellfeatError(f"image_size={image_size} is not possible: give at least 32 pixels, or leave it out")
    return image_size
