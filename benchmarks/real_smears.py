"""Smears put together from real cells over real surroundings of one laboratory, so that every white cell is known.

Images of single cells are brought to one scale and light (transmittance, as in `smear_crops.py`). What surrounds the
cells makes the field (`smear_fields.py`), the cells are cut out by their masks and laid on it with a soft edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
import smear_crops
import smear_fields

from cellfeat import CellfeatError, images
from cellfeat.synthetic_smears import SyntheticSmear, known_smear

LIKE = 40  # photographs of the nearest light that lend one smear's surroundings; twice as many its cells
BORDER = 3  # px of a photograph's rim that are not used: some have a line there
AROUND = 0.12  # of a cell's diameter: what is left out around it
OTHER = 0.6  # of the nucleus' density in red light: as dark are other nuclei
SLICE = 0.45  # the same, of what the photograph's border or the cell's surroundings cut
PLATELET = 0.1  # of the diameter: half the width of what is dark and yet no white cell
FULL = 0.95  # share of a line of the frame that red cells never fill
TRIES, PLACES = 60, 6  # for one cell; among so many places the emptiest is taken
EMPTIEST = 0.7  # share of cells for which it is
BEYOND = 0.3  # of a cell's sides that may lie beyond the border
OVERLAP = 2.0  # px by which a cell laid against another may lie on it, at most
BATCH = 64


@dataclass(frozen=True)
class Piece:
    """One photograph. density (h, w, 3) float32; cell, free (h, w) bool: the white cell, what is none; light (3,).

    whole: whether its mask may be trusted and nothing of the cell is cut off.
    """

    id: str
    label: str
    density: np.ndarray
    cell: np.ndarray
    free: np.ndarray
    light: np.ndarray
    whole: bool


@dataclass(frozen=True)
class Pieces:
    """The photographs of one laboratory at one scale. diameter: of its typical white cell there, px. scale: of that."""

    every: tuple[Piece, ...]
    diameter: float
    scale: float


def read_pieces(manifest: Path, domain: str, limit: int | None, diameter: float, masks: Any) -> Pieces:
    """Photographs of a domain, `limit` spaced over it, made smaller so that a typical cell is `diameter` px wide.

    masks: a segmenter with `cells_and_nuclei` and `plausible`, for photographs without a mask of their own.

    Raises: CellfeatError where too few are left to build from.
    """
    rows = common.read_rows(manifest, [domain], limit, masked=False)
    read = [images.read_rgb(row.path) for row in rows]
    known = [images.read_mask(row.mask_path) if row.mask_path else None for row in rows]
    trusted = _with_masks(read, known, masks)
    kept = [place for place, one in enumerate(trusted) if one is not None and not _cut(one)]
    typical = [place for place in kept if "neutrophil" in rows[place].label] or kept
    if not typical:
        raise CellfeatError(f"{domain}: not one of {len(rows)} images shows a whole cell with a mask to trust")
    scale = min(1.0, diameter / float(np.median([_diameter(trusted[place]) for place in typical])))
    pieces = [_piece(rows[place], read[place], mask, scale) for place, mask in enumerate(trusted) if mask is not None]
    pieces = [piece for piece in pieces if piece is not None]
    if sum(piece.whole for piece in pieces) <= LIKE or sum(_lends(piece) for piece in pieces) <= LIKE:
        raise CellfeatError(
            f"{domain}: of {len(rows)} images too few lend a whole cell or clear surroundings; {LIKE + 1} do"
        )
    sizes = [_diameter(one.cell) for one in pieces if one.whole and "neutrophil" in one.label]
    return Pieces(tuple(pieces), float(np.median(sizes or [_diameter(one.cell) for one in pieces if one.whole])), scale)


def smear(
    pieces: Pieces, rng: np.random.Generator, size: tuple[int, int], cells: int, touching: float
) -> SyntheticSmear:
    """One photograph of `size` (width, height) px with so many white cells, fewer where they find no room.

    touching: probability that a cell is laid against another one.
    """
    every = pieces.every
    anchor = every[int(rng.integers(len(every)))]
    order = np.argsort([float(np.abs(one.light - anchor.light).max()) for one in every], kind="stable").tolist()
    hosts = [place for place in order if _lends(every[place])][:LIKE]
    lent = [place for place in order if every[place].whole][: 2 * LIKE]
    field = smear_fields.quilt([every[n].density for n in hosts], [every[n].free for n in hosts], size, rng)
    labels, bodies, taken = [], [], np.zeros(field.shape[:2], np.uint8)
    for place in rng.permutation(lent * (1 + cells // len(lent)))[:cells].tolist():
        density, cell = _turned(every[place], rng)
        against = bool(bodies) and rng.random() < touching
        corner = _beside(taken, cell, rng) if against else _alone(taken, field, cell, rng)
        if corner is not None:
            _lay(field, taken, density, cell, corner)
            labels.append(every[place].label)
            bodies.append((*corner, cell))
    light = np.median([every[n].light for n in hosts], axis=0)
    image = np.clip(light * np.exp(-field) + 0.5, 0, 255).astype(np.uint8)
    return known_smear(image, bodies, labels)


def _with_masks(read: Sequence[np.ndarray], known: Sequence[np.ndarray | None], masks: Any) -> list[np.ndarray | None]:
    """The mask of each photograph, its own or a plausible one; None where there is none to trust."""
    found = list(known)
    bare = [place for place, mask in enumerate(known) if mask is None]
    for batch in common.batches(bare, BATCH):
        frames = common.tensor([images.resize(read[place], common.SIZE, "area") for place in batch])
        cells, nuclei = masks.cells_and_nuclei(frames)
        good = masks.plausible(frames, cells, nuclei).tolist()
        for place, mask, trusted in zip(batch, cells.cpu().numpy(), good, strict=True):
            found[place] = images.resize_mask(mask, read[place].shape[:2]) if trusted else None
    return found


def _piece(row: common.Row, image: np.ndarray, mask: np.ndarray, scale: float) -> Piece | None:
    """A photograph at the scale; None where it shows no empty slide."""
    if scale < 1:
        size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
        image, mask = images.resize(image, size, "area"), images.resize_mask(mask, size)
    if mask.mean() > 0.8 or not mask.any():
        return None
    light = smear_crops.background_of(image, mask)
    clear = np.maximum(image, 1) / light
    density = -np.log(np.clip(clear / smear_crops.slope(clear, mask), 1 / 255, None)).astype(np.float32)
    return Piece(row.id, row.label, density, mask, _free(density, mask), light, not _cut(mask))


def _free(density: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: what of a photograph may surround other cells; no slice of a white cell that its border cuts."""
    seen = ~smear_crops.grown(mask, max(2, round(AROUND * _diameter(mask))))
    inside = np.zeros_like(seen)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    seen &= inside
    dark = density[..., 0] > SLICE * np.percentile(density[..., 0][mask], 80)
    _, bodies = cv2.connectedComponents(dark.astype(np.uint8), connectivity=8)
    slices = np.isin(bodies, np.unique(bodies[dark & ~seen])) & dark
    return seen & ~smear_crops.grown(slices, 4)


def _cut(mask: np.ndarray) -> bool:
    return bool(mask[:2].any() or mask[-2:].any() or mask[:, :2].any() or mask[:, -2:].any())


def _diameter(mask: np.ndarray) -> float:
    """Geometric mean of the sides of the cell's box, px."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(np.sqrt((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))


def _lends(piece: Piece) -> bool:
    """Whether a photograph's surroundings hold no part of another white cell, and are no strips of other exposure."""
    red = piece.density[..., 0]
    dark = (red > OTHER * np.percentile(red[piece.cell], 80)) & piece.free
    by = max(1, round(PLATELET * _diameter(piece.cell)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1,) * 2)
    if cv2.erode(dark.astype(np.uint8), disc, borderValue=1).any():
        return False
    something = np.abs(piece.density).max(axis=-1) > smear_crops.DENSITY
    return max(something.mean(axis=0).max(), something.mean(axis=1).max()) < FULL and piece.free.mean() > 0.2


def _turned(piece: Piece, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Density and mask of a cell, cut out with a margin for its soft edge, turned and mirrored."""
    rows, columns = (np.flatnonzero(piece.cell.any(axis=axis)) for axis in (1, 0))
    window = tuple(slice(max(at[0] - 4, 0), at[-1] + 5) for at in (rows, columns))
    turn, flip = int(rng.integers(4)), 1 if rng.random() < 0.5 else -1
    density, cell = (np.rot90(plane[window], turn)[::flip] for plane in (piece.density, piece.cell))
    return density, cell


def _corner(shape: tuple[int, ...], cell: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A place at random, perhaps partly beyond the border."""
    beyond = BEYOND * np.array(cell.shape)
    y, x = rng.uniform(-beyond, np.array(shape[:2]) + beyond - cell.shape)
    return round(y), round(x)


def _under(plane: np.ndarray, cell: np.ndarray, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What of a plane lies in the cell's window, and what of the cell lies in the picture."""
    begins = [max(at, 0) for at in corner]
    window = plane[begins[0] : max(corner[0] + cell.shape[0], 0), begins[1] : max(corner[1] + cell.shape[1], 0)]
    top, left = (begin - at for begin, at in zip(begins, corner, strict=True))
    return window, cell[top : top + window.shape[0], left : left + window.shape[1]]


def _alone(taken: np.ndarray, field: np.ndarray, cell: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """A place clear of other white cells, for most where few red cells lie: in a smear, they give way."""
    wide, found = smear_crops.grown(np.pad(cell, 4), 4)[4:-4, 4:-4], []
    wanted = PLACES if rng.random() < EMPTIEST else 1
    for _ in range(TRIES):
        corner = _corner(taken.shape, cell, rng)
        window, seen = _under(taken, wide, corner)
        if len(found) < wanted and not (window[seen] > 0).any():
            beneath, own = _under(field[..., 1], cell, corner)
            found.append((float(beneath[own].mean()) if own.any() else 0.0, corner))
    return min(found)[1] if found else None


def _beside(taken: np.ndarray, cell: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """A place against one of the white cells: moved towards it until they touch, and up to 2 px further."""
    ys, xs = np.nonzero(taken)
    for _ in range(TRIES):
        aim, angle = int(rng.integers(len(ys))), rng.uniform(0, 2 * np.pi)
        to, step = np.array([ys[aim], xs[aim]]) - np.array(cell.shape) / 2, np.array([np.sin(angle), np.cos(angle)])
        away = _contact(taken, cell, to, step) - rng.uniform(0, OVERLAP)
        y, x = np.round(to + away * step).astype(int).tolist()
        sides = zip((y, x), cell.shape, taken.shape, strict=True)
        if away > 0 and all(-BEYOND * side <= at <= whole - (1 - BEYOND) * side for at, side, whole in sides):
            return y, x
    return None


def _contact(taken: np.ndarray, cell: np.ndarray, to: np.ndarray, step: np.ndarray) -> float:
    """How far from a place a cell first touches another on its way there, px; 0 where it never was clear of them."""
    far = 2 * max(cell.shape)
    for away in range(far, 0, -1):
        y, x = np.round(to + away * step).astype(int).tolist()
        window, seen = _under(taken, cell, (y, x))
        if seen.size and (window[seen] > 0).any():
            return float(away) if away < far else 0.0
    return 0.0


def _lay(field: np.ndarray, taken: np.ndarray, density: np.ndarray, cell: np.ndarray, corner: tuple[int, int]) -> None:
    """Lay a cell on the field with a soft edge, in place."""
    cover = cv2.GaussianBlur(cell.astype(np.float32), (0, 0), smear_crops.SOFT)
    window, seen = _under(field, cover, corner)
    _, colours = _under(field, density, corner)
    window[:] = window * (1 - seen[..., None]) + colours * seen[..., None]
    below, own = _under(taken, cell, corner)
    below[own] = 1
