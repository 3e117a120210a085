"""Synthetic white blood cells on a smear, as several laboratories would have photographed them.

One biology: forms of `synthetic_types`, drawn by `synthetic_cells` as concentrations of two dyes. A `Laboratory` holds
everything that belongs to stain, slide and camera. Light follows Beer and Lambert: intensity = lamp * exp(-sum of
dye * optical density).
For tests, the built-in demo set and pre-training; no substitute for real images in an evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cellfeat.synthetic_cells import CellLayers, blur, draw_white_cell, fill, smooth_noise
from cellfeat.synthetic_laboratories import LABORATORIES, Laboratory, random_laboratory
from cellfeat.synthetic_types import CELL_TYPES, choose_form, outline

__all__ = ["ALL_TYPES", "CLASSES", "LABORATORIES", "Laboratory", "SyntheticCell", "draw_cell", "random_laboratory"]

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
ALL_TYPES: tuple[str, ...] = (*CLASSES, *(name for name in CELL_TYPES if name not in CLASSES))

SUPERSAMPLING = 1.5
NEUTROPHIL_DIAMETER = 13.5  # µm, of a typical one
RED_CELL_DIAMETER = 7.5 / NEUTROPHIL_DIAMETER  # 7-8 µm in a smear
_DIAMETER_LIMITS = (0.24, 0.84)  # share of the frame; keeps every mask between 3 % and 70 % of the area


class SyntheticCell(NamedTuple):
    """One drawn cell.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, 128 cytoplasm, 255 nucleus; one connected cell.
        label: one of `ALL_TYPES`.
    """

    image: np.ndarray
    mask: np.ndarray
    label: str


def draw_cell(
    label: str, laboratory: Laboratory | str, rng: np.random.Generator, size: int | None = None
) -> SyntheticCell:
    """Draw one white blood cell near the middle of a field of red cells.

    Args:
        label: one of `ALL_TYPES`; the first five, `CLASSES`, are those of the demo set.
        laboratory: a `Laboratory`, or the name of one in `LABORATORIES`.
        rng: the only source of chance; the same state gives the same cell.
        size: side of the image in px instead of the laboratory's own; the scene keeps its proportions.

    Returns:
        Image (size, size, 3) uint8 RGB and mask (size, size) uint8 with 0, 128 and 255; the cell fills 3 to 70 %.

    Raises:
        ValueError: for an unknown class or laboratory, or a size below 32 px.
    """
    laboratory = checked_laboratory(label, laboratory)
    size = laboratory.image_size if size is None else int(size)
    if size < 32:
        raise ValueError(f"size is {size} px; a cell needs at least 32 px.")
    sampled = min(size, laboratory.resolution)
    side = round(SUPERSAMPLING * sampled)
    kind, diameter = choose_form(label, rng)
    relative = diameter / NEUTROPHIL_DIAMETER
    share = float(np.clip(laboratory.cell_share * relative, *_DIAMETER_LIMITS))
    reach = min(max(0.04, laboratory.off_centre), 0.5 - share / 2.0) + 0.02
    centre = side * (0.5 + np.clip(rng.normal(0.0, laboratory.off_centre, 2), -reach, reach))
    radius = side * share / 2.0
    cell = draw_white_cell(kind, radius, rng)
    # the magnification follows where a very small or large cell was brought to the limits
    dyes = _surroundings(side, centre, radius, radius / relative, laboratory, rng)
    covered = paste(dyes, cell, centre)
    image = photograph(dyes, (sampled, sampled), (size, size), sampled, laboratory, rng)
    return SyntheticCell(image, _mask(covered, size), label)


def checked_laboratory(label: str, laboratory: Laboratory | str) -> Laboratory:
    if label not in ALL_TYPES:
        raise ValueError(f"no class named {label!r}. Possible: {', '.join(ALL_TYPES)}.")
    if isinstance(laboratory, Laboratory):
        return laboratory
    if laboratory not in LABORATORIES:
        raise ValueError(
            f"no laboratory named {laboratory!r}. Possible: {', '.join(LABORATORIES)}, or a Laboratory of your own."
        )
    return LABORATORIES[laboratory]


def _surroundings(
    side: int, centre: np.ndarray, radius: float, unit: float, laboratory: Laboratory, rng: np.random.Generator
) -> np.ndarray:
    """Dyes (4, side, side) float32 around the white cell: azure, eosin, red and the refractive contours.

    `radius` is the white cell's and `unit` a typical neutrophil's, both px.
    """
    dyes = np.zeros((4, side, side), np.float32)
    _add_red_cells(dyes, centre, radius, unit * RED_CELL_DIAMETER, laboratory, rng)
    for _ in range(rng.poisson(laboratory.debris)):
        add_platelet(dyes, unit * rng.uniform(0.10, 0.26), rng)
    if rng.random() < 0.05:
        _add_neighbour(dyes, centre, radius, unit, rng)
    return dyes


def _add_red_cells(
    dyes: np.ndarray, centre: np.ndarray, radius: float, usual: float, laboratory: Laboratory, rng: np.random.Generator
) -> None:
    """Scatter red cells, in place; most keep clear of one another and of the white cell, some overlap."""
    side = dyes.shape[1]
    wanted = laboratory.red_density * rng.uniform(0.4, 1.3) * (side + 2.0 * usual) ** 2 / (np.pi * usual**2)
    tries = int(2.5 * wanted)
    spots = rng.uniform(-usual, side + usual, (tries, 2))
    sizes = usual * rng.normal(1.0, 0.07, tries).clip(0.8, 1.2)
    allowed = np.where(rng.random(tries) < 0.15, 0.6, 0.97)
    abuts = crowd(spots, sizes, centre, radius, laboratory.crowding, rng) if laboratory.crowding else [False] * tries
    placed = np.array([[*centre, radius]])
    for spot, size, near, abutting in zip(spots, sizes, allowed, abuts, strict=True):
        if len(placed) > wanted:
            break
        # the first is the white cell
        others = placed[1:] if abutting else placed
        if np.all(np.hypot(*(others[:, :2] - spot).T) > near * (others[:, 2] + size)):
            placed = np.vstack([placed, [*spot, size]])
            # plain numbers: numpy's own would turn the pixels of a red cell into float64
            add_red_cell(dyes, spot.tolist(), float(size), laboratory, rng)


def crowd(
    spots: np.ndarray, sizes: np.ndarray, centre: np.ndarray, radius: float, crowding: float, rng: np.random.Generator
) -> np.ndarray:
    """Move red cells near the white cell against its rim or a little below it, in place; returns which, (N,) bool."""
    away = spots - centre
    distance = np.hypot(*away.T) + 1e-6
    abuts = (rng.random(len(spots)) < crowding) & (distance < radius + 2.8 * sizes)
    # a red cell gives way, so at most half of it is hidden
    touching = radius + sizes * rng.uniform(0.15, 1.05, len(spots))
    spots[abuts] = (centre + away * (touching / distance)[:, None])[abuts]
    return abuts


def add_red_cell(
    dyes: np.ndarray, spot: list[float], size: float, laboratory: Laboratory, rng: np.random.Generator
) -> None:
    """One disc with a pale centre, slightly oval, in place."""
    (top, bottom), (left, right) = (
        (max(0, int(at - 1.2 * size)), min(side, int(at + 1.2 * size) + 2))
        for at, side in zip(spot, dyes.shape[1:], strict=True)
    )
    if top >= bottom or left >= right:
        return
    y = (np.arange(top, bottom, dtype=np.float32) - spot[0])[:, None] / size
    x = (np.arange(left, right, dtype=np.float32) - spot[1])[None] / size
    oval, lean = rng.normal(0.0, 0.06), rng.normal(0.0, 0.08)
    lump, turn = rng.normal(0.0, 0.05), rng.normal(0.0, 0.05)
    away = np.sqrt((1 + oval) * x * x + (1 - oval) * y * y + 2 * lean * x * y + lump * x * x * x + turn * y * y * y)
    disc = np.clip((1.0 - away) * size / 1.5 + 0.5, 0.0, 1.0)
    depth = laboratory.pallor * rng.uniform(0.5, 1.15)
    hollow = 1.0 - depth * np.exp(-((away / rng.uniform(0.4, 0.65)) ** 3))
    thickness, below = disc * hollow * np.float32(rng.uniform(0.8, 1.2)), dyes[2, top:bottom, left:right]
    # cells flatten where they overlap: less than the sum of both
    below[:] = np.maximum(thickness, below) + 0.45 * np.minimum(thickness, below)
    if laboratory.rim:
        dyes[3, top:bottom, left:right] += np.exp(-(((away - 0.97) / 0.07) ** 2))


def add_platelet(dyes: np.ndarray, size: float, rng: np.random.Generator) -> None:
    """One platelet or speck of precipitate, in place: pale blue with purple grains, or small and dark."""
    side = 2 * int(np.ceil(1.5 * size)) + 2
    shape = outline(rng, 0.12, rng.uniform(1.0, 1.25), 24)
    body = blur(fill(np.zeros((side, side), np.float32), [shape], size), 0.15 * size)
    grains = body * np.clip(0.7 + 0.4 * smooth_noise(side, 0.5 * size, rng), 0.35, 1.5)
    azure, eosin = (grains * rng.uniform(0.3, most) for most in (0.9, 0.8))
    paste(dyes, CellLayers(azure, eosin, body, body), rng.uniform(0.0, dyes.shape[1:], 2))


def _add_neighbour(dyes: np.ndarray, centre: np.ndarray, radius: float, unit: float, rng: np.random.Generator) -> None:
    """Part of another white cell, cut by the border, in place; it never touches the one in the middle."""
    kind, diameter = choose_form(ALL_TYPES[rng.integers(len(ALL_TYPES))], rng)
    size = unit * diameter / NEUTROPHIL_DIAMETER
    away = max(1.4 * (radius + size), 0.5 * dyes.shape[1] + 0.3 * size)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    spot = centre + away * np.array([np.sin(angle), np.cos(angle)])
    paste(dyes, draw_white_cell(kind, size, rng), spot)


def paste(dyes: np.ndarray, cell: CellLayers, centre: np.ndarray) -> np.ndarray:
    """Lay a white cell over what is there, in place; returns its body and nucleus (2, H, W) float32 in 0..1."""
    patch = cell.body.shape[0]
    covered = np.zeros((2, *dyes.shape[1:]), np.float32)
    top, left = (round(at - patch / 2.0) for at in centre.tolist())
    rows, columns = slice(max(top, 0), max(top + patch, 0)), slice(max(left, 0), max(left + patch, 0))
    view = dyes[:, rows, columns]
    inner = (slice(max(-top, 0), max(-top, 0) + view.shape[1]), slice(max(-left, 0), max(-left, 0) + view.shape[2]))
    body = cell.body[inner]
    # a red cell is pushed aside rather than covered: little of it shows through
    view *= 1.0 - 0.95 * body
    view[0] += cell.azure[inner]
    view[1] += cell.eosin[inner]
    if cell.red is not None:
        view[2] += cell.red[inner]
    view[3] += 4.0 * body * (1.0 - body)
    covered[0, rows, columns] = body
    covered[1, rows, columns] = cell.nucleus[inner]
    return covered


def _mask(covered: np.ndarray, size: int) -> np.ndarray:
    """(size, size) uint8 mask of 0, 128 and 255 from coverages (2, side, side); keeps the largest component."""
    whole, nucleus = (cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR) for plane in covered)
    body = (whole > 0.5).astype(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=4)
    if count > 2:
        body = (components == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.uint8)
    return body * np.where(nucleus > 0.5, np.uint8(255), np.uint8(128))


def photograph(
    dyes: np.ndarray,
    sampled: tuple[int, int],
    size: tuple[int, int],
    frame: float,
    laboratory: Laboratory,
    rng: np.random.Generator,
) -> np.ndarray:
    """Light through the dyes (4, h, w), optics, camera: (H, W, 3) uint8 RGB.

    sampled: (height, width) that the camera resolves. size: (H, W) of the image. frame: side in sampled px of the frame
    around one cell, which the laboratory's blur is a share of.
    """
    amounts = np.exp(rng.normal(0.0, laboratory.stain_spread, 2)) * [
        laboratory.azure_strength,
        laboratory.eosin_strength,
    ]
    stain = np.array([laboratory.azure, laboratory.eosin, laboratory.red, [laboratory.rim] * 3])
    stain[:2] *= amounts[:, None]
    density = (laboratory.contrast * stain.T).astype(np.float32) @ dyes.reshape(4, -1)
    light: np.ndarray = cv2.merge(list(cv2.exp(-density).reshape(3, *dyes.shape[1:])))
    light = cv2.resize(light, sampled[::-1], interpolation=cv2.INTER_AREA)
    light = blur(light, laboratory.blur * frame) * (1.0 - laboratory.haze) + laboratory.haze
    light *= _illumination(sampled, laboratory, rng)
    if laboratory.sharpening:
        light += laboratory.sharpening * (light - blur(light, 1.0))
    grey: np.ndarray = 255.0 * cv2.pow(np.clip(light, 0.0, 1.0), laboratory.gamma)
    grey += _sensor_noise(sampled, laboratory.noise, rng)
    if size != sampled:
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip(grey + 0.5, 0.0, 255.0).astype(np.uint8)
    return image if laboratory.jpeg_quality is None else _through_jpeg(image, laboratory.jpeg_quality)


def _illumination(shape: tuple[int, int], laboratory: Laboratory, rng: np.random.Generator) -> np.ndarray:
    """Light of the lamp over the frame, (h, w, 3) float32, 1 is white."""
    y, x = (np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in shape)
    corners = (y[:, None] ** 2 + x[None] ** 2) / 2.0
    uneven = laboratory.unevenness * smooth_noise(max(shape), max(shape) / 2.0, rng)[: shape[0], : shape[1]]
    brightness = cv2.exp(-uneven) * (1.0 - laboratory.vignetting * corners)
    return cv2.merge([brightness * channel for channel in laboratory.light])


def _sensor_noise(shape: tuple[int, int], deviation: float, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) float32 noise with about the given standard deviation."""
    shared = rng.standard_normal(shape, dtype=np.float32)
    # a colour mosaic sees each colour at every other pixel, so colour noise is coarser than brightness noise
    colour = rng.standard_normal((shape[0] // 2, shape[1] // 2, 3), dtype=np.float32)
    noise = cv2.resize(colour, shape[::-1], interpolation=cv2.INTER_LINEAR) + cv2.merge([shared] * 3)
    return noise * np.float32(deviation / 1.2)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress; OpenCV wants BGR, and JPEG keeps less of blue and red than of green."""
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
