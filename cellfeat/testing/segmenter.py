"""What a segmenter promises: images to masks, each image for itself, blank ones too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.slots import DetectorRecord
from cellfeat.testing import common_checks as common
from cellfeat.testing import encoder_checks as encoders
from cellfeat.testing.checks import Check, Failed, Skipped, check
from cellfeat.testing.encoder_checks import FEW, Answer, EncoderSubject
from cellfeat.testing.fresh import Arrays, Task
from cellfeat.testing.gates import after, gate, needs
from cellfeat.testing.says import check_facts

if TYPE_CHECKING:
    import torch

SIDE = 224
CALLS = 5  # of an optional member: by chance, three truth values are the same so often once in 32768 times
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
    given = image.clone()
    with subject.watched():
        boxes, again = (np.asarray(find(part), dtype=float) for part in (given, image.clone()))
    _check_kept("detect", given, image)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise Failed(f"detect gives the shape {boxes.shape}, must be (boxes, 4)")
    x1, y1, x2, y2 = boxes.T
    if not ((x1 < x2) & (y1 < y2)).all():
        raise Failed("detect gives boxes without x1 < x2 and y1 < y2")
    height, width = image.shape[1:]
    if len(boxes) and (min(x1.min(), y1.min()) < 0 or x2.max() > width or y2.max() > height):
        raise Failed(f"detect gives boxes outside of an image {width} px wide and {height} px high")
    if subject.says("deterministic", True) and not np.array_equal(boxes, again):
        raise Failed("two calls of detect differ")


@check("Say the diameter in px of a typical white cell at which `detect` works, as in 48.0, or leave it out.")
def cell_diameter(subject: SegmenterSubject) -> None:
    """The scale at which it detects, where it says one, is a number above 0."""
    said = _said_of_detect(subject, "cell_diameter")
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 < said < np.inf:
        raise Failed(f"cell_diameter is {said!r}, must be a number above 0")


@check("Give a `cellfeat.DetectorRecord`: cells, found of these, wrong boxes, and the photographs with the command.")
def detections(subject: SegmenterSubject) -> None:
    """How it did, where it says that, is a record of whole numbers that can be, and of where they are from."""
    said = _said_of_detect(subject, "detections")
    if not isinstance(said, DetectorRecord):
        raise Failed(f"detections is a {type(said).__name__}, must be a DetectorRecord")
    counts = (said.cells, said.found, said.wrong)
    if any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
        raise Failed(f"detections has the counts {counts}, must be whole numbers")
    if not (0 <= said.found <= said.cells and said.cells > 0 and said.wrong >= 0):
        raise Failed(
            f"detections says that {said.found} of {said.cells} cells were found, with {said.wrong} wrong boxes, which "
            "cannot be"
        )
    if not isinstance(said.on, str) or not said.on.strip():
        raise Failed(f"detections is on {said.on!r}, must be text: which photographs, and the command that counted")


def _said_of_detect(subject: SegmenterSubject, member: str) -> Any:
    subject.works()
    said = getattr(subject.product, member, None)
    if said is None:
        raise Skipped(f"it has no `{member}`")
    if not hasattr(subject.product, "detect"):
        raise Failed(f"{member} is there, but no `detect`, of which it tells something")
    return said


@gate("Return masks as `segment` does, of the nucleus of the same cell: `nucleus & cell`.")
def nuclei(subject: SegmenterSubject) -> None:
    """Nuclei, where it tells them, are masks as those of cells, and lie inside them."""
    needs(subject, *subject.working, *subject.formed, dtype)
    found = _asked(subject, "nuclei", subject.images[:FEW])
    _check_masks("nuclei", found, subject)
    if bool((found.cpu() & ~subject.raw.cpu()).any()):
        raise Failed("nuclei has pixels outside of the cell's mask")
    after(subject, encoders.one_image)
    _check_rows("nuclei", lambda rows: _asked(subject, "nuclei", subject.images[:FEW][rows]), subject)


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
    after(subject, encoders.one_image)
    cells = subject.raw.clone()
    cells[1], cells[2] = True, False  # all of an image, and nothing of it, as for images of one colour
    verdict = _judged(subject, cells, list(range(FEW)))
    if not isinstance(verdict, torch.Tensor) or tuple(verdict.shape) != (FEW,) or verdict.dtype != torch.bool:
        raise Failed(f"plausible gives {_form(verdict)}, must be a tensor of ({FEW},) torch.bool")
    _check_rows("plausible", lambda rows: _judged(subject, cells, rows), subject)


def _judged(subject: SegmenterSubject, cells: torch.Tensor, rows: list[int]) -> Any:
    import torch

    images = subject.images[:FEW][rows]
    given = (images.clone(), cells[rows], cells[rows])
    with subject.watched(), torch.inference_mode():
        verdict = subject.product.plausible(*given)
    for value, before in zip(given, (images, cells[rows], cells[rows]), strict=True):
        _check_kept("plausible", value, before)
    return verdict


def _check_rows(what: str, ask: Callable[[list[int]], Any], subject: SegmenterSubject) -> None:
    """Raises: Failed, where answers differ from call to call, with the order of the images, or with the batch."""
    if not subject.says("deterministic", True):
        return
    everything = list(range(FEW))
    wanted = ask(everything)
    if any(_differ(ask(everything), wanted) for _ in range(CALLS)):
        raise Failed(f"two calls of {what} differ")
    order = [2, 0, 1]
    if _differ(ask(order), wanted[order]):
        raise Failed(f"{what} does not follow the order of the images")
    if any(_differ(ask([row]), wanted[[row]]) for row in everything):
        raise Failed(f"{what} of an image depends on the rest of the batch")


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return encoders.alike({"answer": one}, {"answer": other}) is not None


def _check_kept(what: str, given: torch.Tensor, before: torch.Tensor) -> None:
    import torch

    if given.shape != before.shape or not torch.equal(given, before):
        raise Failed(f"{what} changed what it was given")


def _optional(subject: SegmenterSubject, member: str) -> Callable[..., Any]:
    if not hasattr(subject.product, member):
        raise Skipped(f"it has no `{member}`")
    return getattr(subject.product, member)


def _asked(subject: SegmenterSubject, member: str, images: torch.Tensor) -> Any:
    import torch

    ask, given = _optional(subject, member), images.clone()
    try:
        with subject.watched(), torch.inference_mode():
            found = ask(given)
    except CellfeatError as reason:  # of weights that tell no nucleus, say
        raise Skipped(str(reason)) from None
    _check_kept(member, given, images)
    return found


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
    cell_diameter,
    detections,
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
