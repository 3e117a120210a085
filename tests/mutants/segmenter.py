"""Right segmenters, and wrong ones by the check that is meant for them."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from cellfeat import CellfeatError, DetectorRecord, EncoderFacts


class Dark:
    """What is dark is the cell."""

    def segment(self, images):
        return images.float().mean(1) < 150


class Careful(Dark):
    """It can do everything that a segmenter may."""

    weights_sha256, weights_saw = "digest", ()
    cell_diameter, detections = 48.0, DetectorRecord(10, 9, 2, "drawn smears (command)")

    def __init__(self, *, context):
        assert context.device.type == "cpu"

    @staticmethod
    def facts(context):
        return EncoderFacts(None, None, "digest", ())

    def detect(self, image):
        ys, xs = (image.float().mean(0) < 150).nonzero(as_tuple=True)
        if not len(ys):
            return torch.zeros(0, 4)
        return torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])[None].float()

    def nuclei(self, images):
        return images.float().mean(1) < 90

    def cells_and_nuclei(self, images):
        return self.segment(images), self.nuclei(images)

    def plausible(self, images, cells, nuclei):
        return cells.flatten(1).any(1)


class TellsNoNucleus(Dark):
    """It has the method, and refuses it in words."""

    def nuclei(self, images):
        raise CellfeatError("these weights tell no nucleus")


RIGHT = (Dark, Careful, TellsNoNucleus)


def wrong(base=Dark, **members):
    return type("Wrong", (base,), members)


def segmenting(change, base=Dark):
    """A segmenter whose masks are changed: `change(mask, images)`."""
    return wrong(base, segment=lambda self, images: change(base.segment(self, images), images))


def doing(act):
    """A segmenter that does something beside."""
    return segmenting(lambda mask, images: (act(images), mask)[1])


def member(name, ask):
    """A segmenter with one optional member: `ask(images)`, or of more arguments."""
    return wrong(**{name: staticmethod(ask)})


class Alternating:
    calls = 0

    def segment(self, images):
        self.calls += 1
        return torch.full((len(images), *images.shape[-2:]), self.calls % 2 == 0)


class KeepsTheFirstThreshold:
    """Its threshold is that of the first batch that it saw."""

    level = None

    def segment(self, images):
        grey = images.float().mean(1)
        self.level = float(grey.mean()) if self.level is None else self.level
        return grey < self.level


def many_turned_round(mask, images):
    return mask.flip(0) if len(images) > 5 else mask


def by_brightness(mask, images):
    return mask[images.flatten(1).double().mean(1).argsort()]


def near_the_darkest_of_the_batch(mask, images):
    grey = images.float().mean(1)
    return grey < grey.min() + 15


def four_at_once(mask, images):
    if len(images) > 4:
        raise RuntimeError("out of memory")
    return mask


def around_the_first_dark_pixel(mask, images):
    for row in mask:
        int(row.nonzero()[0, 0])
    return mask


def without_the_blank(mask, images):
    return mask[mask.flatten(1).any(1)]


def on_the_gpu(mask, images):
    return mask.cuda().cpu() if torch.cuda.is_available() else mask


class Hashes(Dark):
    """Holes that are drawn by the hash of a string, which every process salts."""

    def segment(self, images):
        generator = torch.Generator().manual_seed(hash("holes") % 2**31)
        return super().segment(images) & (torch.rand(images.shape[-2:], generator=generator) < 0.5)


def dark(images):
    return images.float().mean(1) < 90


class OtherCells(Careful):
    def cells_and_nuclei(self, images):
        return self.nuclei(images), self.nuclei(images)


class OneMask(Careful):
    def cells_and_nuclei(self, images):
        return self.segment(images)


class Larger(Careful):
    def nuclei(self, images):
        return images.float().mean(1) < 255


class NucleiTurnedRound(Careful):
    """As their cells are one disc, no pixel is outside of another image's smaller cell."""

    def nuclei(self, images):
        return core(images) & shares(images).flip(0)[:, None, None]

    def cells_and_nuclei(self, images):
        return self.segment(images), self.nuclei(images)


def core(images):
    """The middle pixels, which lie in every disc."""
    middle = torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.bool)
    middle[:, 8, 8] = True
    return middle


def shares(images):
    """Whether an image is among the darker ones, by a fixed threshold."""
    return images.float().mean((1, 2, 3)) < 200


class NucleiOverTheBatch(Careful):
    """Of an image that is no darker than the rest of the batch it tells no nucleus."""

    def nuclei(self, images):
        grey = images.float().mean((1, 2, 3))
        return core(images) & (grey < grey.mean())[:, None, None]


class NucleiBlackened(Careful):
    def nuclei(self, images):
        found = super().nuclei(images)
        images.zero_()
        return found


class RandomVerdict(Dark):
    def plausible(self, images, cells, nuclei):
        return torch.from_numpy(np.random.default_rng().random(len(images)) < 0.5)


class VerdictsTurnedRound(Careful):
    def plausible(self, images, cells, nuclei):
        return super().plausible(images, cells, nuclei).flip(0)


class VerdictsOverTheBatch(Careful):
    def plausible(self, images, cells, nuclei):
        share = cells.flatten(1).float().mean(1)
        return share >= share.max()


class RandomBoxes(Careful):
    def detect(self, image):
        return np.sort(np.random.default_rng().uniform(0, 8, 4))[None]


class Blackens(Careful):
    def detect(self, image):
        found = super().detect(image)
        image.zero_()
        return found


def boxes(*rows):
    return member("detect", lambda image: np.array(rows, dtype=float))


MUTANTS = {
    "members": (object, wrong(segment=7), wrong(nuclei=True), wrong(weights_saw=["a list"])),
    "runs": (
        wrong(segment=lambda self, images: images.nothing),
        wrong(__init__=lambda self: int("no number")),
    ),
    "shape": (
        segmenting(lambda mask, images: mask[:, None]),
        segmenting(lambda mask, images: mask[:1]),
        segmenting(lambda mask, images: mask.numpy()),
    ),
    "dtype": (segmenting(lambda mask, images: mask.float()), segmenting(lambda mask, images: mask.to(torch.uint8))),
    "same-answer": (Alternating, KeepsTheFirstThreshold),
    "row-order": (segmenting(by_brightness),),
    "one-image": (segmenting(near_the_darkest_of_the_batch),),
    "batch-shape": (segmenting(four_at_once), segmenting(many_turned_round)),
    "inputs": (doing(lambda images: images.zero_()),),
    "blank-images": (segmenting(around_the_first_dark_pixel), segmenting(without_the_blank)),
    "detect": (
        boxes(1, 1, 5, 5),
        boxes((1, 1, 5)),
        boxes((5, 5, 1, 1)),
        boxes((-1, 0, 3, 3)),
        member("detect", lambda image: torch.tensor([[0.0, 0.0, image.shape[1], image.shape[2]]])),
        RandomBoxes,
        Blackens,
    ),
    "cell-diameter": (
        *(wrong(Careful, cell_diameter=value) for value in (0.0, -3, float("inf"), float("nan"), "48 px", True)),
        wrong(cell_diameter=48.0),
    ),
    "detections": (
        *(
            wrong(Careful, detections=DetectorRecord(*said))
            for said in ((10, 11, 0, "a"), (10, -1, 0, "a"), (0, 0, 0, "a"), (10, 9, -1, "a"))
        ),
        wrong(Careful, detections=DetectorRecord(10, 0.9, 2, "shares")),
        wrong(Careful, detections=DetectorRecord(10, 9, 2, " ")),
        wrong(Careful, detections=(10, 9, 2, "no record")),
        wrong(detections=DetectorRecord(10, 9, 2, "no detect")),
    ),
    "nuclei": (
        Larger,
        member("nuclei", lambda images: dark(images).float()),
        member("nuclei", lambda images: dark(images)[0]),
        member("nuclei", lambda images: None),
        NucleiTurnedRound,
        NucleiOverTheBatch,
        NucleiBlackened,
    ),
    "cells-and-nuclei": (OtherCells, OneMask),
    "plausible": (
        member("plausible", lambda images, cells, nuclei: cells),
        member("plausible", lambda images, cells, nuclei: [True, True, True]),
        RandomVerdict,
        VerdictsTurnedRound,
        VerdictsOverTheBatch,
    ),
    "facts": (wrong(facts=staticmethod(lambda context: EncoderFacts(None, None, "another digest", None))),),
    "device": (segmenting(on_the_gpu),),
    "process": (
        doing(lambda images: torch.manual_seed(1)),
        doing(lambda images: os.chdir("/")),
        doing(lambda images: warnings.simplefilter("ignore")),
    ),
    "quiet": (doing(lambda images: print("segmenting")),),
    "scratch": (doing(lambda images: Path("masks").mkdir(exist_ok=True)),),
    "fresh-process": (Hashes,),
    "budget": (doing(lambda images: time.sleep(0.06)),),
}
