"""The forms of white blood cells, one or more for each type: sizes, dyes and outlines of the nucleus.

Lengths are in cell radii (the unit circle has the cell's area), concentrations in units of one dye: 1 of azure plus 1
of eosin is dense chromatin, because the purple of a Romanowsky stain is both dyes bound together.

Every size and share is a figure of the haematological literature, none was measured on a data set. A ratio of nucleus
to cytoplasm of r:1 is read as areas, so the nucleus has r / (1 + r) of the cell. Sources, named at `CELL_TYPES`:

- [WHO] Manual of basic techniques for a health laboratory, World Health Organization, 2nd ed. 2003, section 9.
- [Bain] B. J. Bain, Blood Cells: A Practical Guide, Wiley.
- [Carr] J. H. Carr, B. F. Rodak, Clinical Hematology Atlas, Elsevier, tables of the maturing red cell and neutrophil.
- [Harmening] D. M. Harmening, Clinical Hematology and Fundamentals of Hemostasis, 5th ed. 2009, table 1-6.
- [WUSTL] Washington University in St. Louis, course Hematology, slides of the granulocytic series.
- [LabCE] American Society for Clinical Laboratory Science, course Normal Peripheral Blood Cells.
- [Virginia] D. J. Innes, University of Virginia, White Cell Basics: Maturation.
- [Outlines] HematologyOutlines atlas, hematologyoutlines.com.
- [Arneth] J. Arneth's count of the lobes of neutrophils, 1904.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Granules:
    """Granules of one kind: radius and spacing in cell radii, dyes as concentration ranges at a granule's centre."""

    radius: float
    spacing: float
    azure: Range
    eosin: Range
    over_nucleus: float = 0.0
    missing: Range = (0.0, 0.3)


@dataclass(frozen=True)
class CellType:
    """What tells one type from the others; ranges are (low, high), drawn uniformly for each cell.

    Attributes:
        diameter: of the cell in a smear, µm.
        nuclear_share: share of the cell's area that is nucleus.
        roughness: size of the irregularities of the outline, in radii.
        elongation: square root of the ratio of the axes.
        chromatin, cytoplasm: (azure, eosin) concentration ranges.
        clumping: contrast of the chromatin texture, as share of the concentration.
        lacy: share of the chromatin texture that is strands rather than clumps.
        nucleus: draws the closed outlines, each (P, 2) in radii, whose union is the nucleus, for a share of the area.
        granules: None for a clear cytoplasm.
        vacuoles: most vacuoles in one cell.
        nucleoli: most nucleoli in one cell.
        hof: how much of the blue the zone next to an eccentric nucleus lacks, 0..1.
        margin: how much deeper the blue is at the cell's margin, 0 for not at all.
        haemoglobin: amount in the cytoplasm, 1 is a full red cell.
        weight: how often, relative to the other forms of the same name.
    """

    diameter: Range
    nuclear_share: Range
    roughness: Range
    elongation: Range
    chromatin: tuple[Range, Range]
    cytoplasm: tuple[Range, Range]
    clumping: Range
    lacy: float
    nucleus: Callable[[np.random.Generator, float], list[np.ndarray]]
    granules: Granules | None = None
    vacuoles: int = 0
    nucleoli: int = 0
    hof: float = 0.0
    margin: float = 0.0
    haemoglobin: Range | None = None
    weight: float = 1.0


def outline(rng: np.random.Generator, roughness: float, elongation: float = 1.0, points: int = 72) -> np.ndarray:
    """Closed organic curve (P, 2) float64 about the origin that encloses the area of the unit disc.

    The radius is a Fourier series of orders 2 to 9 whose amplitudes fall with the order.
    """
    orders = np.arange(2, 10)[:, None]
    angle = np.linspace(0.0, 2.0 * np.pi, points, endpoint=False)
    amplitude = roughness * rng.standard_normal(8) * 2.6 / orders[:, 0] ** 1.4
    phase = rng.uniform(0.0, 2.0 * np.pi, (8, 1))
    radius = np.clip(1.0 + amplitude @ np.cos(orders * angle + phase), 0.7, 1.35)
    radius /= np.sqrt(np.mean(radius**2))
    curve = np.stack([radius * np.cos(angle) * elongation, radius * np.sin(angle) / elongation], axis=1)
    return curve @ _rotation(rng.uniform(0.0, 2.0 * np.pi))


def choose_form(label: str, rng: np.random.Generator) -> tuple[CellType, float]:
    """One form of `label`, a key of `CELL_TYPES`, and the diameter of one such cell in µm."""
    forms = CELL_TYPES[label]
    weights = np.cumsum([form.weight for form in forms])
    kind = forms[int(np.searchsorted(weights, rng.uniform(0.0, weights[-1])))]
    return kind, rng.uniform(*kind.diameter)


def _rotation(angle: float) -> np.ndarray:
    """(2, 2) rotation by `angle` radians, for row vectors."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _tube(curve: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Closed outline (2P, 2) of a tube along `curve` (P, 2) with half-widths `width` (P,)."""
    tangent = np.gradient(curve, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / (np.hypot(*tangent.T)[:, None] + 1e-9)
    side = normal * width[:, None]
    return np.concatenate([curve + side, (curve - side)[::-1]])


def _arc(bend: float, span: float, points: int, rng: np.random.Generator) -> np.ndarray:
    """Points (P, 2) on an arc of radius `bend` over `span` radians, its centroid near the origin, turned at random."""
    angle = np.linspace(-span / 2.0, span / 2.0, points)
    curve = bend * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curve -= 0.7 * curve.mean(axis=0)
    return curve @ _rotation(rng.uniform(0.0, 2.0 * np.pi))


def _lobed(rng: np.random.Generator, lobes: int, area: float, bend: float) -> list[np.ndarray]:
    """`lobes` rounded lobes along an arc, joined by thin bridges; `area` is the share of the cell's area."""
    size = np.sqrt(area / lobes)
    step = 2.0 * size * rng.uniform(1.0, 1.5) / bend
    scatter = rng.normal(0.0, 0.03 * lobes, (lobes, 2))
    centres = _arc(bend, min(step * (lobes - 1), 5.4), lobes, rng) + scatter - scatter.mean(axis=0)
    parts = [c + size * rng.uniform(0.85, 1.15) * outline(rng, 0.09, rng.uniform(1.0, 1.35), 32) for c in centres]
    for first, second in pairwise(centres):
        along = np.linspace(0.0, 1.0, 6)[:, None]
        parts.append(_tube(first + along * (second - first), np.full(6, rng.uniform(0.0, 0.10))))
    return parts


def _band(rng: np.random.Generator, area: float, bend: float, span: float, s_shaped: bool = False) -> list[np.ndarray]:
    """One bent sausage (band, horseshoe, or an S) with rounded ends and an uneven width; `area` as in `_lobed`."""
    along = np.linspace(-1.0, 1.0, 28)
    wave = 1.0 + rng.uniform(0.05, 0.25) * np.cos(along * rng.uniform(2.0, 6.0) + rng.uniform(0.0, 6.28))
    # wider than the bend, the inner side would cross itself
    width = min(1.1 * np.pi * area / (2.0 * bend * span), 0.75 * bend)
    curve = _arc(bend, span, 28, rng)
    if s_shaped:
        wavy = np.stack([0.68 * along, rng.uniform(0.2, 0.34) * np.sin(np.pi * along)], axis=1)
        curve = wavy @ _rotation(rng.uniform(0.0, 2.0 * np.pi))
    return [_tube(curve, width * wave * np.sqrt(np.clip(1.0 - along**6, 0.0, 1.0)))]


def _indented(
    rng: np.random.Generator, area: float, roughness: float, depth: float, longest: float = 1.25
) -> list[np.ndarray]:
    """One kidney: a rounded outline with a notch of `depth` radii of its own; `area` as in `_lobed`."""
    curve = outline(rng, roughness, rng.uniform(1.0, longest))
    around = np.angle(np.exp(1j * (np.arctan2(curve[:, 1], curve[:, 0]) - rng.uniform(0.0, 2.0 * np.pi))))
    curve *= (1.0 - depth * np.exp(-((around / rng.uniform(0.3, 0.7)) ** 2)))[:, None]
    return [(curve - curve.mean(axis=0)) * np.sqrt(area) * (1.0 + 0.15 * depth) + rng.normal(0.0, 0.07, 2)]


def _round(
    rng: np.random.Generator,
    share: float,
    off: Range,
    depth: float = 0.0,
    longest: float = 1.1,
    roughness: float = 0.02,
) -> list[np.ndarray]:
    """A round or oval nucleus with a dent of `depth`, moved off the middle by a share `off` of the room it has."""
    nucleus = _indented(rng, share, rng.uniform(0.5, 1.5) * roughness, depth, longest)[0]
    away, angle = (1.0 - np.sqrt(share)) * rng.uniform(*off), rng.uniform(0.0, 2.0 * np.pi)
    return [nucleus - nucleus.mean(axis=0) + away * np.array([np.cos(angle), np.sin(angle)])]


def _neutrophil_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    lobes = int(rng.choice([2, 3, 4, 5], p=[0.30, 0.45, 0.20, 0.05]))
    return _lobed(rng, lobes, share, rng.uniform(0.42, 0.56))


def _band_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    bend, span = rng.uniform(0.5, 0.62), rng.uniform(3.0, 4.9)
    return _band(rng, share, bend, span, s_shaped=rng.random() < 0.2)


def _eosinophil_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _lobed(rng, 2 if rng.random() < 0.8 else 3, share, rng.uniform(0.40, 0.55))


def _basophil_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _lobed(rng, int(rng.integers(2, 4)), share, rng.uniform(0.25, 0.40))


def _lymphocyte_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _round(rng, share, (0.0, 0.9), max(0.0, rng.uniform(-0.25, 0.2)), 1.08, 0.027)


def _reactive_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _round(rng, share, (0.0, 0.9), max(0.0, rng.uniform(-0.3, 0.35)), 1.25, 0.05)


def _promyelocyte_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _round(rng, share, (0.4, 0.95), 0.0, 1.12)


def _myelocyte_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    # often flattened on the side of the Golgi body
    return _round(rng, share, (0.4, 0.95), max(0.0, rng.uniform(-0.15, 0.15)), 1.2)


def _metamyelocyte_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _round(rng, share, (0.2, 0.8), rng.uniform(0.3, 0.5), 1.3, 0.03)


def _erythroblast_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    return _round(rng, share, (0.0, 0.75), 0.0, 1.06, 0.012)


def _monocyte_nucleus(rng: np.random.Generator, share: float) -> list[np.ndarray]:
    form = rng.random()
    if form < 0.5:
        return _indented(rng, share, 0.05, rng.uniform(0.3, 0.6))
    if form < 0.75:
        return _band(rng, share, rng.uniform(0.48, 0.56), rng.uniform(3.0, 4.4))
    return _lobed(rng, 2, share, 0.4) if form < 0.88 else _indented(rng, share, 0.10, rng.uniform(0.0, 0.3))


_NEUTROPHIL_GRANULES = Granules(0.024, 0.075, azure=(0.02, 0.15), eosin=(0.06, 0.22), over_nucleus=0.05)

# fmt: off
CELL_TYPES: dict[str, tuple[CellType, ...]] = {
    # 11-13 µm [WHO], 10-14 µm [Bain]; two or three lobes under the granules, which lie over the nucleus too
    "basophil": (CellType(
        diameter=(10.0, 14.0), nuclear_share=(0.30, 0.48), roughness=(0.03, 0.07), elongation=(1.0, 1.08),
        clumping=(0.1, 0.25), lacy=0.2,
        chromatin=((0.6, 0.85), (0.55, 0.85)), cytoplasm=((0.2, 0.5), (0.25, 0.5)), nucleus=_basophil_nucleus,
        granules=Granules(0.07, 0.125, azure=(0.7, 1.2), eosin=(0.4, 0.8), over_nucleus=0.7, missing=(0.0, 0.45)),
    ),),
    # 12-15 µm [WHO], 12-17 µm [Bain]; usually two lobes [WHO]
    "eosinophil": (CellType(
        diameter=(12.0, 17.0), nuclear_share=(0.22, 0.34), roughness=(0.01, 0.05), elongation=(1.0, 1.1),
        clumping=(0.15, 0.35), lacy=0.2,
        chromatin=((0.8, 1.05), (0.65, 0.95)), cytoplasm=((0.04, 0.18), (0.3, 0.5)), nucleus=_eosinophil_nucleus,
        granules=Granules(0.06, 0.10, azure=(0.0, 0.08), eosin=(0.4, 0.8), over_nucleus=0.08, missing=(0.0, 0.15)),
    ),),
    # most are small, 7-10 µm [WHO]; nucleus as large as a red cell, 5:1 down to 1:2 as the cell grows [LabCE]
    "lymphocyte": (CellType(
        diameter=(7.0, 10.0), nuclear_share=(0.70, 0.88), roughness=(0.01, 0.05), elongation=(1.0, 1.12),
        clumping=(0.08, 0.22), lacy=0.1,
        chromatin=((0.85, 1.1), (0.65, 0.95)), cytoplasm=((0.3, 0.75), (0.02, 0.12)), nucleus=_lymphocyte_nucleus,
        weight=3.0,
    ), CellType(
        diameter=(10.0, 16.0), nuclear_share=(0.42, 0.68), roughness=(0.01, 0.06), elongation=(1.0, 1.14),
        clumping=(0.08, 0.25), lacy=0.1,
        chromatin=((0.75, 1.0), (0.6, 0.9)), cytoplasm=((0.2, 0.5), (0.02, 0.1)), nucleus=_lymphocyte_nucleus,
        margin=0.4,
    )),
    # 14-20 µm [Bain]; nucleus of half the cell or less, kidney, horseshoe or lobed
    "monocyte": (CellType(
        diameter=(14.0, 20.0), nuclear_share=(0.36, 0.55), roughness=(0.02, 0.10), elongation=(1.0, 1.18),
        clumping=(0.2, 0.4), lacy=0.3,
        chromatin=((0.65, 0.9), (0.55, 0.8)), cytoplasm=((0.25, 0.48), (0.08, 0.2)), nucleus=_monocyte_nucleus,
        granules=Granules(0.022, 0.08, azure=(0.03, 0.12), eosin=(0.03, 0.15), over_nucleus=0.1), vacuoles=9,
    ),),
    # 12-15 µm [Bain]; 2-5 lobes [WHO], mostly three [Arneth]; about 1:3
    "neutrophil": (CellType(
        diameter=(12.0, 15.0), nuclear_share=(0.22, 0.34), roughness=(0.01, 0.05), elongation=(1.0, 1.12),
        clumping=(0.15, 0.35), lacy=0.2,
        chromatin=((0.85, 1.1), (0.7, 1.0)), cytoplasm=((0.04, 0.16), (0.1, 0.25)), nucleus=_neutrophil_nucleus,
        granules=_NEUTROPHIL_GRANULES,
    ),),
    # 10-18 µm like the metamyelocyte, a horseshoe of even width with dense ends [Carr]; about 1:2
    "band_neutrophil": (CellType(
        diameter=(12.0, 16.0), nuclear_share=(0.25, 0.36), roughness=(0.01, 0.05), elongation=(1.0, 1.12),
        clumping=(0.15, 0.35), lacy=0.2,
        chromatin=((0.8, 1.05), (0.68, 0.98)), cytoplasm=((0.04, 0.18), (0.1, 0.25)), nucleus=_band_nucleus,
        granules=_NEUTROPHIL_GRANULES,
    ),),
    # 10-18 µm, kidney, pinkish tan [Carr]; dent of less than half the nucleus [Outlines]
    "metamyelocyte": (CellType(
        diameter=(12.0, 18.0), nuclear_share=(0.38, 0.54), roughness=(0.01, 0.05), elongation=(1.0, 1.15),
        clumping=(0.2, 0.4), lacy=0.2,
        chromatin=((0.75, 1.0), (0.62, 0.92)), cytoplasm=((0.06, 0.22), (0.12, 0.28)), nucleus=_metamyelocyte_nucleus,
        granules=_NEUTROPHIL_GRANULES,
    ),),
    # 12-18 µm, light blue with tan and pink [Carr]; 2:1 to 1:1 [WUSTL]; eccentric, flat on one side [Virginia]
    "myelocyte": (CellType(
        diameter=(12.0, 18.0), nuclear_share=(0.50, 0.67), roughness=(0.01, 0.05), elongation=(1.0, 1.15),
        clumping=(0.15, 0.35), lacy=0.3,
        chromatin=((0.68, 0.92), (0.58, 0.85)), cytoplasm=((0.14, 0.42), (0.12, 0.3)), nucleus=_myelocyte_nucleus,
        granules=Granules(0.027, 0.08, azure=(0.1, 0.35), eosin=(0.15, 0.4), over_nucleus=0.15, missing=(0.2, 0.7)),
        hof=0.4,
    ),),
    # 15-21 µm, deep blue, large reddish purple granules [Carr], some over the nucleus, 4:1 to 2:1 [WUSTL]
    "promyelocyte": (CellType(
        diameter=(15.0, 21.0), nuclear_share=(0.60, 0.78), roughness=(0.01, 0.05), elongation=(1.0, 1.15),
        clumping=(0.1, 0.25), lacy=0.6,
        chromatin=((0.58, 0.82), (0.5, 0.75)), cytoplasm=((0.4, 0.75), (0.08, 0.22)), nucleus=_promyelocyte_nucleus,
        granules=Granules(0.032, 0.085, azure=(0.2, 0.55), eosin=(0.5, 1.0), over_nucleus=0.45, missing=(0.3, 0.8)),
        nucleoli=3, hof=0.55,
    ),),
    # orthochromatic: 8-12 µm, 1:1 to 1:2, pyknotic; polychromatic: 10-15 µm, 4:1 to 2:1, coarse clumps [Harmening]
    "erythroblast": (CellType(
        diameter=(8.0, 12.0), nuclear_share=(0.30, 0.50), roughness=(0.01, 0.05), elongation=(1.0, 1.12),
        clumping=(0.02, 0.12), lacy=0.1,
        chromatin=((1.05, 1.35), (0.8, 1.1)), cytoplasm=((0.03, 0.2), (0.02, 0.1)), nucleus=_erythroblast_nucleus,
        haemoglobin=(0.5, 0.95), weight=2.0,
    ), CellType(
        diameter=(10.0, 14.0), nuclear_share=(0.50, 0.72), roughness=(0.01, 0.05), elongation=(1.0, 1.12),
        clumping=(0.3, 0.5), lacy=0.1,
        chromatin=((0.9, 1.15), (0.7, 0.95)), cytoplasm=((0.2, 0.5), (0.03, 0.1)), nucleus=_erythroblast_nucleus,
        haemoglobin=(0.2, 0.55),
    )),
    # 2-3 times a red cell, much blue cytoplasm [Outlines], deeper at the margin, indented by red cells [Bain]
    "reactive_lymphocyte": (CellType(
        diameter=(13.0, 21.0), nuclear_share=(0.30, 0.56), roughness=(0.04, 0.12), elongation=(1.0, 1.2),
        clumping=(0.12, 0.3), lacy=0.3,
        chromatin=((0.65, 0.98), (0.55, 0.85)), cytoplasm=((0.18, 0.6), (0.02, 0.1)), nucleus=_reactive_nucleus,
        nucleoli=1, margin=0.9, vacuoles=3,
    ),),
}
# fmt: on
