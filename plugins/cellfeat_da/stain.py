"""Aligners `reinhard` and `macenko`: every image is recoloured to one reference stain, before the backbone sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState, import_extra
from cellfeat_da.stain_fixed import MACENKO, REINHARD

LARGEST_SAMPLE = 1000  # source images that a reference is learned from
AT_ONCE = 32
ROUNDING = 0.1  # Lab units; a channel that varies less than rounding to 8 bits would make it vary says nothing
ALIKE = 100.0  # condition number of the two stains: about one degree between them
LIGHT, TRANSPARENT, PERCENTILE = 240, 0.15, 1  # Macenko's Io, beta and alpha


class StainNormalisation(SavesState, ABC):
    """What both methods share: a reference of several numbers, learned or fixed, and images done one by one."""

    reads, writes, uses_target, uses_labels = ("image",), "image", False, False
    name: str
    fixed: dict[str, Any]  # {number: value} for reference "fixed"

    def __init__(self, reference: Literal["source", "fixed"] = "source") -> None:
        self.reference = reference

    def prepare(self, context: Context) -> None:
        torchstain("normalizers", self.name)

    def fit(self, cells: Cells, context: Context) -> Self:
        """Raises: CellfeatError where the reference is to be learned and no image shows what it needs."""
        numbers = self.fixed if self.reference == "fixed" else self._learned(cells, context)
        self.reference_ = {name: np.array(value, np.float64) for name, value in numbers.items()}
        return self

    def _learned(self, cells: Cells, context: Context) -> dict[str, np.ndarray]:
        import torch

        order = torch.randperm(len(cells), generator=context.generator).numpy()
        sample = cells[np.sort(order[:LARGEST_SAMPLE])]
        with context.progress(len(sample), f"{self.name}: the reference") as bar:
            found = []
            for image in _images(sample):
                found.append(self.estimate(image))
                bar.advance()
        usable = [one for one in found if one is not None]
        if not usable:
            raise CellfeatError(
                f"align {self.name!r}: none of {len(sample)} source images shows enough colour to learn a reference "
                "from; look at the images, or take the one of drawn cells (--set align.reference=fixed)"
            )
        return self.combined(usable)

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, 3, S, S) uint8 RGB. An image that cannot be judged comes back as it was, bit for bit."""
        painted = np.empty(cells.column("image").shape, np.uint8)
        for row, image in enumerate(_images(cells)):
            done = self.paint(image)
            painted[row] = (image if done is None else done).transpose(2, 0, 1)
        return painted

    @abstractmethod
    def estimate(self, image: np.ndarray) -> dict[str, np.ndarray] | None:
        """What the reference is made of, of one (H, W, 3) uint8 RGB image; None where it cannot be told."""

    @abstractmethod
    def combined(self, estimates: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The reference of several images."""

    @abstractmethod
    def paint(self, image: np.ndarray) -> np.ndarray | None:
        """The image with its own numbers replaced by the reference's, (H, W, 3) uint8 RGB; None as for `estimate`."""


class Reinhard(StainNormalisation):
    """Align `reinhard`: mean and standard deviation of every Lab channel become those of a reference.

    Reinhard, Ashikhmin, Gooch and Shirley, "Color Transfer between Images", IEEE Computer Graphics and Applications
    21(5), 2001, eqs. 10 and 11, in CIELAB (D65) as torchstain has it; published: Ruderman's l-alpha-beta. Means and
    deviations are those of the whole image, background included.

    reference: "source", the mean over source images (at most 1,000, drawn) of their means and deviations; "fixed", what
    drawn cells have, see `stain_fixed`: then no fit differs from another.

    An image in which a channel hardly varies (blank, or grey) stays as it is: its own colours cannot be told from
    rounding. Values are cut to 0..255, and cut off to whole numbers, as torchstain does.
    """

    paper = (
        'Reinhard, Ashikhmin, Gooch and Shirley, "Color Transfer between Images", IEEE Computer Graphics and '
        "Applications 21(5), 2001"
    )

    name, fixed = "reinhard", REINHARD

    def estimate(self, image: np.ndarray) -> dict[str, np.ndarray] | None:
        return _moments(self._channels(image))

    def combined(self, estimates: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.mean([one[name] for one in estimates], axis=0) for name in ("mean", "std")}

    def paint(self, image: np.ndarray) -> np.ndarray | None:
        lab = torchstain("utils", self.name)
        to = {name: values.astype(np.float32) for name, values in self.reference_.items()}
        channels = self._channels(image)
        own = _moments(channels)
        if own is None:
            return None
        moved = [
            (channel - own["mean"][i]) / own["std"][i] * to["std"][i] + to["mean"][i]
            for i, channel in enumerate(channels)
        ]
        return (lab.lab2rgb(lab.lab_merge(*moved)) * 255).astype(np.uint8)

    def _channels(self, image: np.ndarray) -> Any:
        """L in 0..100, a and b around 0, each (H, W) float32."""
        lab = torchstain("utils", self.name)
        return lab.lab_split(lab.rgb2lab(image.astype(np.float32) / 255))


class Macenko(StainNormalisation):
    """Align `macenko`: the two stains of an image, and how much there is of each, become those of a reference.

    Macenko et al., "A Method for Normalizing Histology Slides for Quantitative Analysis", ISBI 2009: the stains are the
    outermost directions (1st and 99th percentile of the angle) of the pixels' optical densities in the plane of their
    two main components, pixels with any density below 0.15 left out; amounts are scaled by their 99th percentiles.
    torchstain finds them (NumPy, float64; light 240); the first stain is the one with more density in red.

    reference: "source", the median over source images (at most 1,000, drawn) of stains and amounts, stains scaled to
    length 1 again; "fixed", what drawn cells have, see `stain_fixed`: then no fit differs from another.

    Departures: the method is meant for haematoxylin and eosin in tissue, here it sees the Romanowsky stain of one white
    cell among red ones. An image stays as it is where two stains cannot be told:
    too few coloured pixels, directions less than about one degree apart, or a stain of which the 99th percentile is
    below the 0.15 that count as transparent.
    """

    paper = 'Macenko et al., "A Method for Normalizing Histology Slides for Quantitative Analysis", ISBI 2009'

    name, fixed = "macenko", MACENKO

    def estimate(self, image: np.ndarray) -> dict[str, np.ndarray] | None:
        coloured = (_density()[image] >= TRANSPARENT).all(axis=-1)
        if coloured.sum() < 3:  # torchstain stops, or gives NaN, where there is no covariance to take
            return None
        finder = torchstain("normalizers", self.name).NumpyMacenkoNormalizer()
        try:
            finder.fit(image, Io=LIGHT, alpha=PERCENTILE, beta=TRANSPARENT)
        except np.linalg.LinAlgError:
            return None
        stains, amounts = finder.HERef, finder.maxCRef
        told = np.isfinite(stains).all() and np.linalg.cond(stains) < ALIKE and amounts.min() >= TRANSPARENT
        return {"stains": stains, "amounts": amounts} if told else None

    def combined(self, estimates: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        stains = np.median([one["stains"] for one in estimates], axis=0)
        amounts = np.median([one["amounts"] for one in estimates], axis=0)
        return {"stains": stains / np.linalg.norm(stains, axis=0), "amounts": amounts}

    def paint(self, image: np.ndarray) -> np.ndarray | None:
        own = self.estimate(image)
        if own is None:
            return None
        # Unmixing, scaling and mixing are linear in the optical densities: one 3 x 3 matrix, and torchstain's result.
        scale = self.reference_["amounts"] / own["amounts"]
        matrix = (self.reference_["stains"] * scale) @ np.linalg.pinv(own["stains"])
        light = LIGHT * np.exp(-(_density()[image] @ matrix.T))
        return np.minimum(light, 255).astype(np.uint8)


def torchstain(part: str, method: str) -> Any:
    """A module of torchstain's NumPy half. Raises: CellfeatError where it is not installed."""
    return import_extra(f"torchstain.numpy.{part}", f"align {method!r}")


def _moments(channels: Any) -> dict[str, np.ndarray] | None:
    """Means and standard deviations (ddof 0) of three Lab channels; None where they do not vary."""
    std = np.array([channel.std() for channel in channels])
    return None if std.min() < ROUNDING else {"mean": np.array([channel.mean() for channel in channels]), "std": std}


def _density() -> np.ndarray:
    """(256,) float64 optical density of every grey level, as torchstain computes it; negative above the light."""
    return -np.log((np.arange(256) + 1.0) / LIGHT)


def _images(cells: Cells) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, one after the other."""
    column = cells.column("image")
    for start in range(0, len(cells), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(cells)))
        for image in column.read(rows):
            yield np.ascontiguousarray(image.transpose(1, 2, 0))
