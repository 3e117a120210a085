"""What differs between laboratories that photograph the same blood: stain, slide, optics, camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Laboratory:
    """All that differs between laboratories while the biology stays the same.

    Colours are RGB. An optical density of 1 lets exp(-1) = 37 % of the light through.

    Attributes:
        name: for messages and file names.
        azure, eosin, red: optical density per unit of the blue dye, the red dye and a full red cell.
        azure_strength, eosin_strength: mean amount of each dye, 1 is ordinary.
        stain_spread: standard deviation of the logarithm of those amounts from cell to cell.
        light: colour of the empty background (lamp and white balance); 1 is white, more is overexposed.
        contrast: gain on all optical densities.
        gamma: exponent on intensity; above 1 darkens the midtones.
        haze: share of veiling light of the background's colour, 0..1.
        unevenness: standard deviation of slow changes in the background's optical density.
        vignetting: loss of light in the corners, 0..1.
        blur: standard deviation of the optical blur, as share of the frame's side.
        sharpening: amount of unsharp masking by the camera.
        noise: standard deviation of the sensor noise, in grey levels of 255.
        jpeg_quality: 1..100, or None for no compression.
        resolution: pixels across the frame that the camera resolves; a larger image is interpolated.
        image_size: side of the square image, px.
        cell_share: diameter of a typical neutrophil as share of the frame's side.
        off_centre: standard deviation of the cell's position, as share of the frame's side.
        red_density: share of the free background that red cells would cover, 0..1.
        crowding: probability that a red cell near the white cell touches it or lies a little below it, 0..1.
        pallor: how pale red cells are in their centre, 0..1.
        rim: optical density of the refractive contour around every cell.
        debris: mean number of platelets and specks of precipitate in the frame.
    """

    name: str
    azure: Colour
    eosin: Colour
    red: Colour
    azure_strength: float = 1.0
    eosin_strength: float = 1.0
    stain_spread: float = 0.12
    light: Colour = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    gamma: float = 1.0
    haze: float = 0.0
    unevenness: float = 0.02
    vignetting: float = 0.0
    blur: float = 0.004
    sharpening: float = 0.0
    noise: float = 2.0
    jpeg_quality: int | None = None
    resolution: int = 128
    image_size: int = 128
    cell_share: float = 0.5
    off_centre: float = 0.03
    red_density: float = 0.4
    crowding: float = 0.0
    pallor: float = 0.6
    rim: float = 0.0
    debris: float = 1.0


LABORATORIES: dict[str, Laboratory] = {
    "lab-a": Laboratory(
        "lab-a", azure=(1.02, 0.85, 0.06), eosin=(0.14, 0.78, 0.58), red=(0.20, 0.30, 0.25), light=(1.0, 0.90, 0.80),
        resolution=192, image_size=192, cell_share=0.46, blur=0.002, sharpening=0.5, noise=1.5, red_density=0.5,
        pallor=0.85, debris=0.8, stain_spread=0.09, jpeg_quality=92,
    ),
    "lab-b": Laboratory(
        "lab-b", azure=(0.75, 1.05, 0.30), eosin=(0.10, 0.95, 0.40), red=(0.05, 0.08, 0.10), light=(0.99, 0.96, 0.60),
        resolution=80, image_size=112, cell_share=0.62, blur=0.009, sharpening=0.8, noise=2.5, red_density=0.25,
        pallor=0.9, rim=0.35, debris=0.4, stain_spread=0.22, unevenness=0.03,
    ),
    "lab-c": Laboratory(
        "lab-c", azure=(0.80, 0.85, 0.02), eosin=(0.05, 0.55, 0.22), red=(0.16, 0.50, 0.55), light=(0.80, 0.84, 0.86),
        contrast=0.75, haze=0.08, resolution=128, image_size=160, cell_share=0.56, blur=0.006, noise=3.0,
        red_density=0.5, pallor=0.6, vignetting=0.08, unevenness=0.02, jpeg_quality=70, debris=0.5,
    ),
}  # fmt: skip


def random_laboratory(rng: np.random.Generator) -> Laboratory:
    """A laboratory drawn from ranges wider than any real one, for pre-training that must not depend on the stain."""
    base = np.array([[0.9, 0.9, 0.12], [0.1, 0.8, 0.36], [0.17, 0.33, 0.32]])
    stain = np.clip(base + rng.normal(0.0, 0.18, (3, 3)) * [[1.0], [1.0], [0.5]], 0.0, None)
    azure, eosin, red = (_colour(row) for row in stain)
    tint = rng.uniform(0.0, 0.4) * rng.random(3)
    light = rng.uniform(0.7, 1.12) * (1.0 - tint)
    return Laboratory(
        "random", azure=azure, eosin=eosin, red=red, light=_colour(light),
        azure_strength=rng.uniform(0.65, 1.4), eosin_strength=rng.uniform(0.5, 1.5),
        stain_spread=rng.uniform(0.05, 0.3), contrast=float(np.exp(rng.uniform(-1.1, 0.5))),
        gamma=rng.uniform(0.7, 1.5), haze=_sometimes(rng, 0.5, 0.3),
        unevenness=rng.uniform(0.0, 0.08), vignetting=_sometimes(rng, 0.4, 0.4),
        blur=0.015 * rng.uniform(0.1, 1.0) ** 1.5, sharpening=_sometimes(rng, 0.4, 1.5),
        noise=rng.uniform(0.5, 7.0), resolution=int(rng.integers(60, 191)),
        jpeg_quality=int(rng.integers(40, 96)) if rng.random() < 0.3 else None, cell_share=rng.uniform(0.32, 0.72),
        off_centre=rng.uniform(0.01, 0.06) if rng.random() < 0.9 else rng.uniform(0.1, 0.3),
        crowding=_sometimes(rng, 0.45, 1.0), red_density=rng.uniform(0.0, 0.8), pallor=rng.uniform(0.2, 1.0),
        rim=_sometimes(rng, 0.3, 0.6), debris=rng.uniform(0.0, 2.5),
    )  # fmt: skip


def _sometimes(rng: np.random.Generator, probability: float, most: float) -> float:
    """A value in 0..`most` with the given probability, else 0."""
    value = rng.uniform(0.0, most)
    return value if rng.random() < probability else 0.0


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
