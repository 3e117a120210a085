"""Right backbones, and wrong ones by the check that is meant for them."""

from __future__ import annotations

import os
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from cellfeat import EncoderFacts, Features


class Mean:
    """The mean colour, a mask of what is dark, and another pooling."""

    image_size, interpolation = 16, "area"

    def encode(self, images):
        mean = images.float().mean((2, 3))
        return Features(mean, images.float().mean(1) < 150, mean * 2)


class Map(Mean):
    """A token map, and nothing else."""

    def encode(self, images):
        return Features(torch.nn.functional.avg_pool2d(images.float(), 4))


class Judged(Mean):
    """It tells how good its masks are."""

    deterministic, paper, licence = True, "doi:10.1000/1", "MIT"

    def encode(self, images):
        return super().encode(images)._replace(quality=images.float().mean((1, 2, 3)) / 255)


class Told(Mean):
    """It asks for the context and can tell of itself before it is built."""

    def __init__(self, side: int = 16, *, context):
        assert context.scratch.is_dir()
        self.image_size, self.device = side, context.device
        self.weights_sha256, self.weights_saw = f"digest of {side}", ("a set of cells",)
        (context.scratch / "note.txt").write_text("scratch may be written to")
        context.note("notes are not printed")

    @classmethod
    def facts(cls, side, context):
        return EncoderFacts(side, "area", f"digest of {side}", ("a set of cells",))

    def encode(self, images):
        with self.progress():
            return super().encode(images.to(self.device))

    def progress(self):
        return torch.random.fork_rng()  # draws nothing from the process


def wrong(base=Mean, **members):
    return type("Wrong", (base,), members)


def encoding(change, base=Mean):
    """A backbone whose features are changed: `change(features, images)`."""
    return wrong(base, encode=lambda self, images: change(base.encode(self, images), images))


def doing(act):
    """A backbone that does something beside."""
    return encoding(lambda features, images: (act(images), features)[1])


def no_factory(context):
    raise OSError("no weights here")


def refuses_batches_of_five(features, images):
    if len(images) == 5:
        raise ValueError("at most 4 images fit")
    return features


def zero_after_four(features, images):
    features.embedding[4:] = 0
    return features


def one_of_equals(features, images):
    _, index = torch.unique(images.flatten(1), dim=0, return_inverse=True)
    seen = torch.bincount(index)[index]
    return Features(features.embedding / seen[:, None])


class Growing(Mean):
    """Its answers grow from call to call."""

    calls = 0

    def encode(self, images):
        self.calls += 1
        return Features(super().encode(images).embedding + self.calls)


class Flicker(Mean):
    """Every other mask is the background."""

    calls = 0

    def encode(self, images):
        self.calls += 1
        features = super().encode(images)
        return features._replace(mask=features.mask if self.calls % 2 else ~features.mask)


class RemembersTheLast(Mean):
    """As a BatchNorm in training mode: what came before shifts what comes."""

    last = 0.0

    def encode(self, images):
        features = Features(super().encode(images).embedding + self.last)
        self.last = images.float().mean()
        return features


class StretchesContrast(Mean):
    """To the darkest that it has ever seen."""

    darkest = 255.0

    def encode(self, images):
        self.darkest = min(self.darkest, float(images.min()))
        return Features(super().encode(images).embedding - self.darkest)


class KeepsTheFirstMean(Mean):
    """It centres by the first batch that it saw."""

    centre = None

    def encode(self, images):
        mean = super().encode(images).embedding
        self.centre = mean.mean(0) if self.centre is None else self.centre
        return Features(mean - self.centre)


class OneBuffer(Mean):
    """It writes every answer into the same memory."""

    def __init__(self):
        self.buffer = torch.zeros(64, 3)

    def encode(self, images):
        self.buffer[: len(images)] = super().encode(images).embedding
        return Features(self.buffer[: len(images)])


class Noisy(Mean):
    """It encodes a view that is drawn anew every time, and says so."""

    deterministic = False

    def encode(self, images):
        mean = super().encode(images).embedding
        return Features(mean + 0.01 * torch.from_numpy(np.random.default_rng().normal(size=mean.shape)).float())


RIGHT = (Mean, Map, Judged, Told, Noisy)


class UnseededWeights(Mean):
    def __init__(self):
        self.weights = torch.from_numpy(np.random.default_rng().random((3, 3))).float()

    def encode(self, images):
        return Features(super().encode(images).embedding @ self.weights)


class Unseeded(Mean):
    def encode(self, images):
        return Features(torch.from_numpy(np.random.default_rng().random((len(images), 3))).float())


def by_brightness(features, images):
    return Features(features.embedding[images.flatten(1).double().mean(1).argsort()])


def turned_round(features, images):
    return Features(features.embedding.flip(0))


def many_turned_round(features, images):
    return turned_round(features, images) if len(images) > 5 else features


def over_the_batch(features, images):
    return Features(features.embedding - features.embedding.mean(0))


def by_count(features, images):
    return Features(features.embedding * len(images))


def normalised_image(features, images):
    pixels = images.float().flatten(1)
    return Features((pixels - pixels.mean(1, keepdim=True)) / pixels.std(1, keepdim=True))


def index_of_the_darkest_row(features, images):
    for image in images:
        int((image.float().mean((0, 2)) < 200).nonzero()[0])
    return features


def says_otherwise(**said):
    truth = EncoderFacts(16, "area", None, None)
    return wrong(facts=staticmethod(lambda context: truth._replace(**said)))


def on_the_gpu(features, images):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Features(features.embedding.to(device).cpu())


def prints_from_below(images):
    os.write(1, b"libfast 1.2\n")


class Hashes(Mean):
    """Weights that are drawn by the hash of a string, which every process salts."""

    def encode(self, images):
        weights = torch.rand(3, 3, generator=torch.Generator().manual_seed(hash("weights") % 2**31))
        return Features(super().encode(images).embedding @ weights)


def writes_with_torch(images):
    torch.save({"mean": images.float().mean()}, "last.pt")


MUTANTS = {
    "members": (
        type("Half", (), {"encode": 0}),
        wrong(interpolation="cubic"),
        wrong(image_size="224"),
        wrong(image_size=0),
        wrong(weights_saw="acevedo20"),
        wrong(weights_sha256=7),
        wrong(deterministic="yes"),
        wrong(paper=b"doi"),
    ),
    "runs": (no_factory, doing(lambda images: {}["key"]), doing(lambda images: sys.exit(1))),
    "features": (
        encoding(lambda features, images: tuple(features)),
        encoding(lambda features, images: Features(features.embedding[:, :, None])),
        encoding(lambda features, images: Features(features.embedding[:1])),
        encoding(lambda features, images: Features(features.embedding[:, :0])),
        encoding(lambda features, images: Features(features.embedding.numpy())),
        encoding(lambda features, images: Features(None, features.mask)),
        encoding(lambda features, images: features._replace(mask=features.mask[:, :8])),
        encoding(lambda features, images: features._replace(pooled=features.pooled[0])),
        encoding(lambda features, images: features._replace(quality=features.embedding / 255)),
        encoding(lambda features, images: features._replace(quality=torch.ones(2))),
    ),
    "dtype": (
        encoding(lambda features, images: Features(features.embedding.int())),
        encoding(lambda features, images: features._replace(mask=features.mask.float())),
        encoding(lambda features, images: features._replace(quality=features.mask[:, 0, 0])),
    ),
    "finite": (
        encoding(lambda features, images: Features(features.embedding * torch.nan)),
        encoding(lambda features, images: features._replace(pooled=features.pooled / 0)),
        encoding(lambda features, images: features._replace(quality=features.embedding[:, 0] * torch.nan)),
    ),
    "quality-range": (encoding(lambda features, images: features._replace(quality=features.embedding[:, 0])),),
    "same-answer": (
        Growing,
        Flicker,
        RemembersTheLast,
        StretchesContrast,
        KeepsTheFirstMean,
        OneBuffer,
        UnseededWeights,
        Unseeded,
    ),
    "row-order": (encoding(by_brightness), encoding(turned_round, Noisy)),
    "one-image": (
        encoding(over_the_batch),
        encoding(lambda features, images: Features(features.embedding * len(images))),
    ),
    "batch-shape": (
        encoding(refuses_batches_of_five),
        encoding(zero_after_four),
        encoding(one_of_equals),
        encoding(many_turned_round),
    ),
    "inputs": (doing(lambda images: images.zero_()), doing(lambda images: images.resize_(0))),
    "blank-images": (encoding(normalised_image), encoding(index_of_the_darkest_row)),
    "facts": (
        says_otherwise(image_size=32),
        says_otherwise(weights_saw=()),
        wrong(facts=staticmethod(lambda context: (16, "area", None, None))),
        wrong(facts=staticmethod(lambda context: EncoderFacts(16, "bilinear", None, None))),
    ),
    "device": (encoding(on_the_gpu),),
    "process": (
        doing(lambda images: torch.manual_seed(0)),
        doing(lambda images: torch.rand(1)),
        doing(lambda images: np.random.rand()),  # noqa: NPY002 - the fault itself
        doing(lambda images: random.random()),
        doing(lambda images: torch.set_num_threads(1)),
        doing(lambda images: torch.set_default_dtype(torch.float64)),
        doing(lambda images: torch.set_grad_enabled(False)),
        doing(lambda images: torch.use_deterministic_algorithms(True)),
        doing(lambda images: os.environ.__setitem__("CUDA_VISIBLE_DEVICES", "0")),
        doing(lambda images: os.chdir("/")),
        doing(lambda images: np.seterr(all="ignore")),
        doing(lambda images: warnings.simplefilter("ignore")),
    ),
    "quiet": (doing(lambda images: print(len(images), "images")), doing(prints_from_below)),
    "scratch": (doing(lambda images: Path("last.txt").write_text("seen")), doing(writes_with_torch)),
    "fresh-process": (Hashes,),
    "budget": (doing(lambda images: time.sleep(0.06)),),
}
