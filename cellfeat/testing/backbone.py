"""What a backbone promises: images to features of one form, each image for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cellfeat.images import INTERPOLATIONS
from cellfeat.testing import common_checks as common
from cellfeat.testing import encoder_checks as encoders
from cellfeat.testing.checks import Check, Failed, Skipped, check
from cellfeat.testing.encoder_checks import Answer, EncoderSubject
from cellfeat.testing.fresh import Arrays, Task
from cellfeat.testing.gates import gate
from cellfeat.testing.says import check_facts
from cellfeat.types import Features

if TYPE_CHECKING:
    import torch


@gate("Return cellfeat.Features with rows in the images' number, of the shapes that its documentation gives.")
def features(subject: BackboneSubject) -> None:
    """Its answer is `Features`, every member of its shape."""
    subject.works()
    subject.check_form(subject.raw, encoders.FEW)


@check("Give numbers as floats (`.float()`), and a mask as bool (`logits > 0`).")
def dtype(subject: BackboneSubject) -> None:
    """Embedding, pooled and quality are floating-point numbers, the mask is bool."""
    import torch

    subject.answers_well()
    for name, value in subject.answer(subject.raw).items():
        if name == "mask" and value.dtype != torch.bool:
            raise Failed(f"mask has dtype {value.dtype}, must be torch.bool")
        if name != "mask" and not value.is_floating_point():
            raise Failed(f"{name} has dtype {value.dtype}, must be floating")


@check("Look for a division by 0, a logarithm of 0 or an overflow of half precision.")
def finite(subject: BackboneSubject) -> None:
    """No value is NaN or infinite."""
    subject.answers_well()
    encoders.check_finite(subject)


@check("Give the predicted intersection over union, clamped to 0..1, or leave `quality` out.")
def quality_range(subject: BackboneSubject) -> None:
    """Quality, where it is told, lies in 0..1."""
    subject.answers_well()
    quality = subject.answer(subject.raw).get("quality")
    if quality is None:
        raise Skipped("it tells no quality")
    numbers = quality.double()
    if bool(((numbers < 0) | (numbers > 1)).any()):
        raise Failed(f"quality has values outside 0..1: {float(numbers.min()):.3g} to {float(numbers.max()):.3g}")


def encoded(factory: Callable[..., Any], params: Mapping[str, Any], folder: Path, arrays: Arrays) -> Arrays:
    """In a new process: what the backbone answers."""
    return encoders.encoded(BackboneSubject(factory, params, folder / "fresh"), arrays)


@dataclass(eq=False)
class BackboneSubject(EncoderSubject):
    """A backbone, asked for toy images of its own size."""

    slot: ClassVar[str] = "backbone"
    working: ClassVar[tuple[Check, ...]] = (common.members, common.runs)
    formed: ClassVar[tuple[Check, ...]] = (features,)

    def side(self) -> int:
        return self.product.image_size

    def call(self, product: Any, images: torch.Tensor) -> Any:
        return product.encode(images)

    def fresh_task(self) -> Task:
        return encoded

    def check_product(self) -> None:
        size, interpolation = self.product.image_size, self.product.interpolation
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise Failed(f"image_size is {size!r}, must be a whole number of pixels above 0")
        if interpolation not in INTERPOLATIONS:
            raise Failed(f"interpolation is {interpolation!r}, must be one of {', '.join(INTERPOLATIONS)}")
        check_facts(self.slot, self.factory, self.product)

    def check_form(self, raw: Any, count: int) -> None:
        if not isinstance(raw, Features):
            raise Failed(f"encode gives {type(raw).__name__}, must be cellfeat.Features")
        side = self.side()
        wanted: dict[str, list[tuple[int | None, ...]]] = {
            "embedding": [(count, None, None, None), (count, None)],
            "mask": [(count, side, side)],
            "pooled": [(count, None)],
            "quality": [(count,)],
        }
        if raw.embedding is None:
            raise Failed("embedding is None; it is the one member that every backbone gives")
        for name, value in self.answer(raw).items():
            _check_shape(name, value, wanted[name])

    def answer(self, raw: Any) -> Answer:
        return {name: value for name, value in raw._asdict().items() if value is not None}


def _check_shape(name: str, value: Any, wanted: list[tuple[int | None, ...]]) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        raise Failed(f"{name} is a {type(value).__name__}, must be a tensor")
    shape = tuple(value.shape)
    for form in wanted:
        if len(form) == len(shape) and all(b in (None, a) and a > 0 for a, b in zip(shape, form, strict=True)):
            return
    told = " or ".join(f"({', '.join('n' if part is None else str(part) for part in form)})" for form in wanted)
    raise Failed(f"{name} has the shape {shape}, must be {told}")


SUBJECT = BackboneSubject

CHECKS: tuple[Check, ...] = (
    common.members,
    common.runs,
    features,
    dtype,
    finite,
    quality_range,
    encoders.same_answer,
    encoders.row_order,
    encoders.one_image,
    encoders.batch_shape,
    encoders.inputs,
    encoders.blank_images,
    encoders.facts,
    common.device,
    common.process,
    common.quiet,
    common.scratch,
    encoders.fresh_process,
    common.budget,
)
