"""What a segmenter promises: images to masks, each image for itself, blank ones too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.testing import common_checks as common
from cellfeat.testing import encoder_checks as encoders
from cellfeat.testing.checks import Check, Failed, Skipped, check
from cellfeat.testing.encoder_checks import FEW, Answer, EncoderSubject
from cellfeat.testing.fresh import Arrays, Task
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.says import check_facts

if TYPE_CHECKING:
    import torch

SIDE = 224
OPTIONAL = ("detect", "nuclei", "cells_and_nuclei", "plausible")


@gate("Return one mask (S, S) for every image, in a tensor (B, S, S).")
def shape(subject: SegmenterSubject) -> None:
    """Its answer is a tensor of (images, side, side)."""
    subject.works()
    subject.check_form(subject.raw, FEW)


@gate("Return bool: `probability > 0.5`, say.")
def dtype(subject: SegmenterSubject) -> None:
    """Masks are bool."""
    subject.answers_well()
    _check_bool("the mask", subject.raw)


@check("Give boxes (x1, y1, x2, y2) in pixels of the image that came, of any height and width; none is (0, 4).")
def detect(subject: SegmenterSubject) -> None:
    """Boxes, where it detects, are (K, 4) with x1 < x2 and y1 < y2, inside the image."""
    subject.works()
    find = _optional(subject, "detect")
    side = subject.side()
    image = subject.images[0, :, :, : max(side * 3 // 4, 1)]
    with subject.watched():
        boxes = np.asarray(find(image.clone()), dtype=float)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise Failed(f"detect gives the shape {boxes.shape}, must be (boxes, 4)")
    x1, y1, x2, y2 = boxes.T
    if not ((x1 < x2) & (y1 < y2)).all():
        raise Failed("detect gives boxes without x1 < x2 and y1 < y2")
    height, width = image.shape[1:]
    if len(boxes) and (min(x1.min(), y1.min()) < 0 or x2.max() > width or y2.max() > height):
        raise Failed(f"detect gives boxes outside of an image {width} px wide and {height} px high")


@gate("Return masks as `segment` does, of the nucleus of the same cell: `nucleus & cell`.")
def nuclei(subject: SegmenterSubject) -> None:
    """Nuclei, where it tells them, are masks as those of cells, and lie inside them."""
    needs(subject, *subject.working, *subject.formed, dtype)
    found = _asked(subject, "nuclei", subject.images[:FEW])
    _check_masks("nuclei", found, subject)
    if bool((found.cpu() & ~subject.raw.cpu()).any()):
        raise Failed("nuclei has pixels outside of the cell's mask")


@check("Return (segment(images), nuclei(images)), computed once.")
def cells_and_nuclei(subject: SegmenterSubject) -> None:
    """Both at once, where it has that, are what `segment` and `nuclei` give."""
    needs(subject, *subject.working, *subject.formed, dtype)
    _optional(subject, "cells_and_nuclei")
    needs(subject, encoders.same_answer, nuclei)
    images = subject.images[:FEW]
    both = _asked(subject, "cells_and_nuclei", images)
    if not isinstance(both, (tuple, list)) or len(both) != 2:
        raise Failed(f"cells_and_nuclei gives {type(both).__name__}, must be a pair of masks")
    for name, mask, wanted in zip(
        ("segment", "nuclei"), both, (subject.raw, _asked(subject, "nuclei", images)), strict=True
    ):
        _check_masks("cells_and_nuclei", mask, subject)
        if encoders.alike({"mask": mask.cpu()}, {"mask": wanted.cpu()}):
            raise Failed(f"cells_and_nuclei gives other masks than {name}")


@check("Return one truth value for every image, (B,) bool.")
def plausible(subject: SegmenterSubject) -> None:
    """Whether masks look true, where it judges that, is (images,) bool."""
    import torch

    needs(subject, *subject.working, *subject.formed, dtype)
    _optional(subject, "plausible")
    cells = subject.raw
    given = (subject.images[:FEW].clone(), cells.clone(), cells.clone())
    with subject.watched(), torch.inference_mode():
        verdict = subject.product.plausible(*given)
    if not isinstance(verdict, torch.Tensor) or tuple(verdict.shape) != (FEW,) or verdict.dtype != torch.bool:
        raise Failed(f"plausible gives {_form(verdict)}, must be a tensor of ({FEW},) torch.bool")


def _optional(subject: SegmenterSubject, member: str) -> Callable[..., Any]:
    if not hasattr(subject.product, member):
        raise Skipped(f"it has no `{member}`")
    return getattr(subject.product, member)


def _asked(subject: SegmenterSubject, member: str, images: torch.Tensor) -> Any:
    import torch

    ask = _optional(subject, member)
    try:
        with subject.watched(), torch.inference_mode():
            return ask(images.clone())
    except CellfeatError as reason:  # of weights that tell no nucleus, say
        raise Skipped(str(reason)) from None


def _check_masks(what: str, mask: Any, subject: SegmenterSubject) -> None:
    _check_shape(what, mask, FEW, subject.side())
    _check_bool(what, mask)


def _check_shape(what: str, mask: Any, count: int, side: int) -> None:
    import torch

    if not isinstance(mask, torch.Tensor) or tuple(mask.shape) != (count, side, side):
        raise Failed(f"{what} gives {_form(mask)}, must be a tensor of ({count}, {side}, {side})")


def _check_bool(what: str, mask: torch.Tensor) -> None:
    import torch

    if mask.dtype != torch.bool:
        raise Failed(f"{what} has dtype {mask.dtype}, must be torch.bool")


def _form(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a {type(value).__name__} of {tuple(shape)} {value.dtype}"


def segmented(factory: Callable[..., Any], params: Mapping[str, Any], folder: Path, arrays: Arrays) -> Arrays:
    """In a new process: what the segmenter answers."""
    side = arrays["images"].shape[-1]
    return encoders.encoded(SegmenterSubject(factory, params, folder / "fresh", size=side), arrays)


@dataclass(eq=False)
class SegmenterSubject(EncoderSubject):
    """A segmenter, asked for toy images of `size` px."""

    slot: ClassVar[str] = "segmenter"
    working: ClassVar[tuple[Check, ...]] = (common.members, common.runs)
    formed: ClassVar[tuple[Check, ...]] = (shape,)

    size: int | None = None

    def side(self) -> int:
        return self.size or SIDE

    def call(self, product: Any, images: torch.Tensor) -> Any:
        return product.segment(images)

    def fresh_task(self) -> Task:
        return segmented

    def check_product(self) -> None:
        for member in ("segment", *OPTIONAL):
            value = getattr(self.product, member, None)
            if value is not None and not callable(value):
                raise Failed(f"{member} is a {type(value).__name__}, must be a method")
        check_facts(self.slot, self.factory, self.product)

    def check_form(self, raw: Any, count: int) -> None:
        _check_shape("segment", raw, count, self.side())

    def answer(self, raw: Any) -> Answer:
        return {"mask": raw}


SUBJECT = SegmenterSubject

CHECKS: tuple[Check, ...] = (
    common.members,
    common.runs,
    shape,
    dtype,
    encoders.same_answer,
    encoders.row_order,
    encoders.one_image,
    encoders.batch_shape,
    encoders.inputs,
    encoders.blank_images,
    detect,
    nuclei,
    cells_and_nuclei,
    plausible,
    encoders.facts,
    common.device,
    common.process,
    common.quiet,
    common.scratch,
    encoders.fresh_process,
    common.budget,
)
