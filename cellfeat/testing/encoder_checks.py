"""Checks that backbones and segmenters share: an image's answer is its own, the same every time and everywhere."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.deferred import facts_of
from cellfeat.registry import Offer
from cellfeat.slots import EncoderFacts
from cellfeat.testing import common_checks as common
from cellfeat.testing.checks import Failed, NotReached, Skipped, check, told
from cellfeat.testing.fresh import Arrays, Task, in_fresh_process
from cellfeat.testing.gates import gate, needs
from cellfeat.testing.toys import cpu_context, toy_images
from cellfeat.testing.used import Used

if TYPE_CHECKING:
    import torch

IMAGES, FEW = 5, 3  # all toys, and those of the batch that most checks look at
TOLERANCE = 1e-4  # of the largest number: other batches are summed in another order
CALLS = 4  # of what is random: by chance, three rows in order are seen once in 1296 times
SMALL, MANY = 64, (17, 9)  # px, and the images of the largest batch: up to that side, and above
FLIPPED = 1e-3  # share of an image's pixels at whose edge rounding decides

Answer = Mapping[str, "torch.Tensor"]


@dataclass(eq=False)
class EncoderSubject(Used):
    """A backbone or segmenter, and toy images of its side."""

    def side(self) -> int:
        """S: of the images, px."""
        raise NotImplementedError

    def call(self, product: Any, images: torch.Tensor) -> Any:
        """What the object gives for (B, 3, S, S) uint8 RGB images."""
        raise NotImplementedError

    def check_form(self, raw: Any, count: int) -> None:
        """Look at the shapes of what it gave for `count` images. Raises: Failed."""
        raise NotImplementedError

    def answer(self, raw: Any) -> Answer:
        """{name: tensor (B, ...)} of what it gave."""
        raise NotImplementedError

    def fresh_task(self) -> Task:
        """What a new process is asked."""
        raise NotImplementedError

    @functools.cached_property
    def images(self) -> torch.Tensor:
        return toy_images(IMAGES, self.side())

    def encode(self, images: torch.Tensor, product: Any = None) -> Any:
        """What it gives for a copy of the images, as in a run."""
        import torch

        asked = self.product if product is None else product
        with self.watched(), torch.inference_mode():
            return self.call(asked, images.clone())

    def answers(self, images: torch.Tensor, product: Any = None) -> Answer:
        return self.answer(self.encode(images, product))

    @functools.cached_property
    def raw(self) -> Any:
        """A copy of what it gives for a few: whoever writes into an answer given before, changes no copy."""
        return copy.deepcopy(self.encode(self.images[:FEW]))

    def first(self) -> Any:
        return self.raw

    def use(self) -> list[torch.Tensor]:
        product = self.made()
        with self.watched():  # without inference mode, which would itself be a setting that it finds
            raw = self.call(product, self.images[:FEW].clone())
        return [value for value in self.answer(raw).values() if hasattr(value, "device")] if self.has_form(raw) else []

    def has_form(self, raw: Any) -> bool:
        try:
            self.check_form(raw, FEW)
        except Failed:
            return False
        return True

    def timed(self) -> float:
        self.encode(toy_images(FEW, self.side(), seed=1))
        return self.seconds


def identical(got: Answer, wanted: Answer) -> str | None:
    """The first name whose values differ at all."""
    return _differing(got, wanted, lambda one, other: bool(((one == other) | _both_nan(one, other)).all()))


def alike(got: Answer, wanted: Answer) -> str | None:
    """The first name whose values differ by more than rounding."""
    return _differing(got, wanted, _close)


def _differing(got: Answer, wanted: Answer, same: Callable[[Any, Any], bool]) -> str | None:
    if got.keys() != wanted.keys():
        return ", ".join(sorted(got.keys() ^ wanted.keys()))
    for name, value in wanted.items():
        if got[name].shape != value.shape or not same(got[name], value):
            return name
    return None


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not other.numel():
        return True
    if not other.is_floating_point():
        return float((one != other).reshape(len(other), -1).double().mean(dim=1).max()) <= FLIPPED
    largest = float(other.nan_to_num(0, 0, 0).abs().max())
    return bool((((one - other).abs() <= TOLERANCE * largest) | (one == other) | _both_nan(one, other)).all())


def _both_nan(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one.isnan() & other.isnan()


def rows(answer: Answer, index: Any) -> Answer:
    return {name: value[index] for name, value in answer.items()}


@gate("Seed what is random by `context.seed`, keep nothing of earlier images, or say `deterministic = False`.")
def same_answer(subject: EncoderSubject) -> None:
    """Two calls, and two objects made alike, answer equally, whatever was asked in between."""
    subject.answers_well()
    if not subject.says("deterministic", True):
        raise Skipped("it says that it is not deterministic")
    few, wanted = subject.images[:FEW], subject.answer(subject.raw)
    given = subject.answers(few)
    if name := identical(given, wanted):
        raise Failed(f"{name} differs between two calls")
    subject.encode(255 - few)
    if name := identical(given, wanted):
        raise Failed(f"{name} that it gave before is changed by the next call, as in a buffer that is used again")
    if name := identical(subject.answers(few), wanted):
        raise Failed(f"{name} differs after other images were asked for")
    another = subject.made()
    subject.encode(255 - few, another)
    if name := identical(subject.answers(few, another), wanted):
        raise Failed(f"{name} differs between two objects that were made alike")


@gate("Answer the rows in the order of the images.")
def row_order(subject: EncoderSubject) -> None:
    """Images in another order give the same rows in that order."""
    subject.answers_well()
    order = [2, 0, 1]
    if not subject.says("deterministic", True):
        _nearest_rows(subject, order)
        return
    needs(subject, same_answer)
    if name := alike(subject.answers(subject.images[order]), rows(subject.answer(subject.raw), order)):
        raise Failed(f"{name} does not follow the order of the images")


def _nearest_rows(subject: EncoderSubject, order: list[int]) -> None:
    """The order, of answers that vary: each row lies nearest to what the same image was answered before."""
    told = set(subject.answer(subject.raw))
    for _ in range(CALLS):
        told &= _in_order(subject, list(range(FEW)))
    if not told:
        raise Skipped("it says that it is not deterministic")
    for _ in range(CALLS):
        told -= _in_order(subject, order)
    if told:
        raise Failed(f"{min(told)} does not follow the order of the images")


def _in_order(subject: EncoderSubject, order: list[int]) -> set[str]:
    """The names whose rows, of the images in this order, are each nearest to the row of the same image before."""
    import torch

    got, before = subject.answers(subject.images[order]), subject.answer(subject.raw)
    return {
        name
        for name in got.keys() & before.keys()
        if got[name].shape == before[name].shape
        and torch.cdist(_flat(got[name]), _flat(before[name])).argmin(1).tolist() == order
    }


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(1).double() if value.ndim > 1 else value.double()[:, None]


@gate("Compute nothing over the batch (BatchNorm in training mode, a mean or maximum over images).")
def one_image(subject: EncoderSubject) -> None:
    """An image alone is answered as it is among others."""
    needs(subject, same_answer, row_order)
    raw = subject.encode(subject.images[:1])
    subject.check_form(raw, 1)
    if name := alike(subject.answer(raw), rows(subject.answer(subject.raw), slice(1))):
        raise Failed(f"{name} of an image depends on the rest of the batch")


@check("Take any number of images, and equal ones among them: a run pads its last batch with its last image.")
def batch_shape(subject: EncoderSubject) -> None:
    """Batches of any size are answered, and one that is padded with its last image too."""
    needs(subject, one_image)
    everything, rest = subject.encode(subject.images), subject.encode(subject.images[FEW:])
    subject.check_form(everything, IMAGES)
    wanted = subject.answer(everything)
    if name := alike(subject.answer(subject.raw), rows(wanted, slice(FEW))):
        raise Failed(f"{name} differs in a batch of {IMAGES} images from that in one of {FEW}")
    if name := alike(subject.answer(rest), rows(wanted, slice(FEW, None))):
        raise Failed(f"{name} differs in a batch of {IMAGES} images from that in one of {IMAGES - FEW}")
    padded = subject.images[[FEW, *[IMAGES - 1] * (IMAGES - 1)]]
    if name := alike(rows(subject.answers(padded), slice(IMAGES - FEW)), rows(wanted, slice(FEW, None))):
        raise Failed(f"{name} differs in a batch that is padded with its last image")
    common.in_time(subject)
    many = [number * 3 % IMAGES for number in range(MANY[subject.side() > SMALL])]
    if name := alike(subject.answers(subject.images[many]), rows(wanted, many)):
        raise Failed(f"{name} differs in a batch of {len(many)} images from that in one of {IMAGES}")


@check("Work on a copy: `images.float()` makes one, operations whose names end in `_` do not.")
def inputs(subject: EncoderSubject) -> None:
    """The images that it is given stay as they were."""
    import torch

    subject.works()
    given = subject.images[:FEW].clone()
    with subject.watched(), torch.inference_mode():
        subject.call(subject.product, given)
    if given.shape != subject.images[:FEW].shape or not torch.equal(given, subject.images[:FEW]):
        raise Failed("it changed the images that it was given")


@check("Guard divisions by a spread, a sum or a count that is 0 where an image shows one colour.")
def blank_images(subject: EncoderSubject) -> None:
    """Images of one colour are answered in the same form: grey, black and white."""
    import torch

    subject.answers_well()
    try:
        check_finite(subject)
    except Failed:
        raise NotReached("finite") from None
    side = subject.side()
    blank = torch.stack([torch.full((3, side, side), level, dtype=torch.uint8) for level in (230, 0, 255)])
    try:
        raw = subject.encode(blank)
    except (Exception, SystemExit) as error:
        raise Failed(f"images of one colour raise {told(error)}") from error
    subject.check_form(raw, len(blank))
    _check_finite(subject.answer(raw), "images of one colour give ")


def check_finite(subject: EncoderSubject) -> None:
    """Raises: Failed, where an answer to ordinary images has NaN or infinite values."""
    _check_finite(subject.answer(subject.raw))


def _check_finite(answer: Answer, before: str = "") -> None:
    for name, value in answer.items():
        if not bool(value.isfinite().all()):
            raise Failed(f"{before}NaN or infinite values in {name}")


@check("Have `facts` say what the object will: both from one place, such as a function that reads the file's header.")
def facts(subject: EncoderSubject) -> None:
    """What its factory says of it before it is built is so (where the factory has `facts`)."""
    subject.works()
    if not hasattr(subject.factory, "facts"):
        raise Skipped("its factory has no `facts`")
    arguments = Offer(subject.slot, "checked", subject.factory, "", "", "").arguments(subject.params)
    with subject.watched():
        said = subject.factory.facts(context=cpu_context(subject.folder / "facts"), **arguments)
    if not isinstance(said, EncoderFacts):
        raise Failed(f"`facts` gives {type(said).__name__}, must be EncoderFacts")
    found = facts_of(subject.product)
    if subject.slot == "segmenter":  # the frame is a backbone's alone
        found = found._replace(image_size=said.image_size, interpolation=said.interpolation)
    for name, before, after in zip(EncoderFacts._fields, said, found, strict=True):
        if before != after:
            raise Failed(f"`facts` says that {name} is {before!r}; the object has {after!r}")


@check("Depend on nothing that one process alone has: hashes of strings, order of sets, counters, earlier calls.")
def fresh_process(subject: EncoderSubject) -> None:
    """A new process gives the same answers."""
    import torch

    needs(subject, same_answer)
    common.in_time(subject)
    wanted = subject.answer(subject.raw)
    given = {"images": subject.images[:FEW].numpy()}
    got = in_fresh_process(
        subject.fresh_task(), subject.factory, subject.params, subject.folder, given, slot=subject.slot
    )
    if name := alike({name: torch.from_numpy(value) for name, value in got.items()}, wanted):
        raise Failed(f"{name} differs in a new process")


def encoded(subject: EncoderSubject, arrays: Arrays) -> Arrays:
    """In the new process: {name: array} for the images in `arrays`."""
    import torch

    answer = subject.answers(torch.from_numpy(arrays["images"]))
    return {name: np.asarray(value.float() if value.is_floating_point() else value) for name, value in answer.items()}
