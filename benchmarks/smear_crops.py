"""White cells hemmed in by neighbours, with true masks: drawn ones, and real ones pasted among other cells.

A real cell is cut out by its true mask with a soft edge of one or two pixels and laid over a field whose red cells, or
another white cell, reach under its rim. The field is put together in transmittance, intensity over the background's,
which is 1 where there is nothing, so that what comes of several images multiplies as light does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from common import Cell

from cellfeat import CellfeatError, synthetic

SIDES = 4
HOSTS, TRIES = 24, 10  # images of the nearest background; fields that are tried for one cell
TOUCHED = 0.25  # least share of the rim that neighbours must reach
DENSITY = 0.06  # optical density above which there is something
DARK, SPECK = 0.8, 0.004  # density of nuclei in green light; the share of the surroundings that a speck may have
EVEN = 0.04  # most density of a frame's typical empty pixel
FEATHER, SOFT = 5.0, 0.8  # px over which a layer fades in; standard deviation of the soft edge of a cell
WHITE_NEIGHBOUR = 0.5  # share of pasted crops with another white cell at the rim


@dataclass(frozen=True)
class Crop:
    """cell: image and masks as in `common.Cell`. touched: share of the cell's rim that neighbours reach."""

    cell: Cell
    touched: float


@dataclass(frozen=True)
class Host:
    """A real image that lends its surroundings. clear (H, W, 3) float transmittance, mask (H, W) bool of its cell."""

    clear: np.ndarray
    mask: np.ndarray
    background: np.ndarray
    cell: Cell


def drawn_crops(count: int, rng: np.random.Generator) -> Iterator[Crop]:
    """Drawn cells in a crowd of red cells, half of them as one of the named laboratories would have seen them."""
    made = 0
    while made < count:
        laboratory = synthetic.random_laboratory(rng)
        if rng.random() < 0.5:
            laboratory = synthetic.LABORATORIES[rng.choice(sorted(synthetic.LABORATORIES))]
        crowded = replace(laboratory, crowding=1.0, red_density=float(rng.uniform(0.6, 1.0)), off_centre=0.05)
        drawn = synthetic.draw_cell(rng.choice(synthetic.CLASSES), crowded, rng)
        cell = Cell(drawn.image, drawn.mask > 0, drawn.mask == 255)
        share = touched(np.maximum(cell.image, 1) / background_of(cell.image, cell.cell), cell.cell)
        if share >= TOUCHED:  # else few red cells came near, or they are as pale as the background
            made += 1
            yield Crop(cell, share)


def pasted_crops(cells: Sequence[Cell], count: int, rng: np.random.Generator) -> Iterator[Crop]:
    """Real cells of one laboratory, each among the surroundings of other images of the same background."""
    all_hosts = [_host(cell) for cell in cells]
    hosts = [host for host in all_hosts if _is_clean(host)]
    if len(hosts) <= HOSTS:
        raise CellfeatError(
            f"{len(hosts)} of {len(cells)} cells with masks have an even background and no second white cell; to "
            f"paste cells among each other, more than {HOSTS} are needed"
        )
    order = [place for _ in range(-(-count // len(cells))) for place in rng.permutation(len(cells))][:count]
    for place in order:
        fields = (_pasted(all_hosts[place], hosts, rng) for _ in range(TRIES))
        best = next(fields)
        while best.touched < TOUCHED and (other := next(fields, None)) is not None:
            best = max(best, other, key=lambda crop: crop.touched)
        yield best


def _host(cell: Cell) -> Host:
    background = background_of(cell.image, cell.cell)
    clear = np.maximum(cell.image, 1) / background
    return Host(clear / slope(clear, cell.cell), cell.cell, background, cell)


def slope(clear: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The plane (H, W, 3) through the empty pixels: light that falls unevenly."""
    empty = ~grown(taken, 3) & (np.abs(np.log(clear)).max(axis=-1) < 0.15)
    y, x = np.indices(taken.shape)
    plane = np.stack([np.ones_like(x), x, y], axis=-1).astype(float)
    if empty.sum() < 100:
        return np.ones_like(clear)
    return plane @ np.linalg.lstsq(plane[empty], clear[empty], rcond=None)[0]


def _is_clean(host: Host) -> bool:
    """Whether the surroundings are evenly lit, and hold no part of another white cell nor a seam of their own."""
    density = -np.log(np.clip(host.clear, 1e-3, None))
    around = density[~grown(host.mask, 4)]
    if not len(around) or np.mean(around[:, 1] > DARK) > SPECK or np.median(np.abs(around).max(axis=1)) > EVEN:
        return False
    something = np.abs(density).max(axis=-1) > DENSITY
    # no red cells fill a whole line of the frame; a strip of another exposure does
    return max(something.mean(axis=0).max(), something.mean(axis=1).max()) < 0.95


def _pasted(own: Host, hosts: Sequence[Host], rng: np.random.Generator) -> Crop:
    others = [host for host in hosts if not np.array_equal(host.cell.image, own.cell.image)]
    near = sorted(others, key=lambda host: float(np.abs(host.background - own.background).max()))[:HOSTS]
    image, whole, nucleus = _framed(own, rng)
    clear = np.ones(image.shape)
    white_side = rng.integers(SIDES) if rng.random() < WHITE_NEIGHBOUR else None
    for side in range(SIDES):
        turned = np.rot90(whole, side)
        layers = [_layer(turned, near[pick], side == white_side, rng) for pick in rng.permutation(len(near))[:3]]
        layer = max(layers, key=lambda one: touched(one, turned))
        clear *= np.rot90(layer, -side)
    return Crop(Cell(lay_over(own.background * clear, image, whole), whole, nucleus), touched(clear, whole))


def _framed(own: Host, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image and masks moved to about the middle of a frame in which the cell is 45 to 62 % wide."""
    rows, columns = np.nonzero(own.mask)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    side = round(extent / rng.uniform(0.45, 0.62))
    shift = side / 2 - np.array([columns.mean(), rows.mean()]) + side * rng.uniform(-0.05, 0.05, 2)
    move = np.array([[1, 0, round(shift[0])], [0, 1, round(shift[1])]], np.float32)
    planes = (own.cell.image, own.mask, own.cell.nucleus)
    image, mask, nucleus = (
        None if plane is None else cv2.warpAffine(plane.astype(np.uint8), move, (side, side)) for plane in planes
    )
    return image, mask > 0, None if nucleus is None else nucleus > 0


def _layer(whole: np.ndarray, host: Host, white: bool, rng: np.random.Generator) -> np.ndarray:
    """Transmittance (S, S, 3) of what lies to the right of the cell `whole` (S, S) bool, 1 elsewhere.

    The left edge of the host's image goes under the cell, so that what it cuts looks covered. Its own white cell is
    faded out or, for `white`, moved until it touches the cell, to the border of the frame.
    """
    turn, flip = int(rng.integers(4)), rng.random() < 0.5
    clear, mask = (np.rot90(plane, turn)[:: -1 if flip else 1] for plane in (host.clear, host.mask))
    free = np.ones(mask.shape, bool) if white else ~grown(mask, 4)
    fade = np.clip((cv2.distanceTransform(np.pad(free, 1).astype(np.uint8), cv2.DIST_L2, 5) - 1) / FEATHER, 0, 1)
    rows, columns = np.nonzero(whole)
    depth = (np.ptp(columns) + 1) * 0.2
    left = round(columns.max() - depth)
    top = round(rows[columns > columns.max() - depth].mean() - len(mask) / 2 + rng.uniform(-0.15, 0.15) * len(mask))
    if white:
        left = _beside(whole, mask, top)
    faded = clear ** fade[1:-1, 1:-1, None]
    return _placed(faded, top, left, np.ones((*whole.shape, 3)))


def _beside(whole: np.ndarray, mask: np.ndarray, top: int) -> int:
    """The column at which the other cell's image begins when both cells touch."""
    for left in range(whole.shape[1], -mask.shape[1], -1):
        if (_placed(mask, top, left, np.zeros(whole.shape, bool)) & whole).any():
            return left
    return whole.shape[1]  # they pass each other by


def _placed(patch: np.ndarray, top: int, left: int, canvas: np.ndarray) -> np.ndarray:
    """The canvas with a patch laid on it, cut at its borders."""
    height, width = canvas.shape[:2]
    rows = slice(max(top, 0), max(min(top + len(patch), height), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], width), 0))
    if rows.start < rows.stop and columns.start < columns.stop:
        inner = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        canvas[rows, columns] = inner
    return canvas


def lay_over(field: np.ndarray, image: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The cell `whole` (S, S) bool of an image over a field (S, S, 3), with a soft edge; (S, S, 3) uint8 RGB."""
    cover = cv2.GaussianBlur(whole.astype(np.float32), (0, 0), SOFT)[..., None]
    return np.clip(field * (1 - cover) + image * cover + 0.5, 0, 255).astype(np.uint8)


def background_of(image: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Colour (3,) of the empty slide: what is bright outside the cell, but for the brightest, which may be glare."""
    free = image[~grown(taken, 3)].astype(float)
    if not len(free):
        raise CellfeatError("a mask covers its whole image; there is no background to paste on")
    low, high = np.quantile(free.sum(axis=1), [0.6, 0.95])
    return np.median(free[(free.sum(axis=1) >= low) & (free.sum(axis=1) <= high)], axis=0).clip(1.0)


def touched(clear: np.ndarray, whole: np.ndarray) -> float:
    """Share of the rim, 1 to 3 px outside the cell, where a field of this transmittance has something."""
    smooth = cv2.GaussianBlur(clear.astype(np.float32), (0, 0), 1.0)
    something = (smooth < np.exp(-DENSITY)).any(axis=-1)
    rim = grown(whole, 3) & ~grown(whole, 1)
    return float(something[rim].mean())


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1,) * 2)) > 0
