"""Recall, precision and count error of detectors on smears whose white cells are known: drawn ones, and real cells.

python benchmarks/detection.py cells.csv --segmenter classical --smears 8 --pictures sheets
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import common
import cv2
import numpy as np
import real_smears
import typer

from cellfeat import CellfeatError, Workplace, detection, images, synthetic
from cellfeat.synthetic_smears import SyntheticSmear, draw_smear

LIMIT = 300  # images of a laboratory
STRAY = 0.3  # of the logarithm of the typical diameter where laboratories are random
WEIGHTLESS = ("classical", "otsu")
WARM = 256  # px of the picture by which a detector is first woken
RED, GREEN, BLUE = (220, 30, 30), (20, 150, 60), (40, 70, 220)


class Photograph(NamedTuple):
    """diameter: of a typical white cell, px."""

    smear: SyntheticSmear
    diameter: float


class Kind(NamedTuple):
    name: str
    photographs: list[Photograph]
    about: dict[str, Any]


class Wanted(NamedTuple):
    """smears: of each kind. size: (width, height) px. diameter: of a typical white cell, px."""

    smears: int
    size: tuple[int, int]
    cells: int
    touching: float
    diameter: float
    seed: int


def main(
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest CSV of real cells to assemble smears from; without it, drawn alone")
    ] = None,
    segmenter: Annotated[list[str] | None, typer.Option(help="With `detect`; repeat for several")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Assemble smears of this domain only; repeat")] = None,
    smears: Annotated[int, typer.Option(min=1, help="Photographs of each kind")] = 8,
    size: Annotated[str, typer.Option(help="Of a photograph, width x height in px")] = "960x720",
    cells: Annotated[int, typer.Option(min=0, help="White cells in each, fewer where they find no room")] = 14,
    touching: Annotated[float, typer.Option(min=0, max=1, help="Share of cells laid against another one")] = 0.3,
    diameter: Annotated[float, typer.Option(min=16, help="Of a typical white cell, px; real ones at most")] = 80.0,
    told: Annotated[float, typer.Option(min=0.2, max=5, help="Detectors are told so many times the diameter")] = 1.0,
    limit: Annotated[int, typer.Option(min=1, help="Images of each domain that smears are assembled from")] = LIMIT,
    masks: Annotated[
        str, typer.Option(help="Segmenter for images without masks; it must tell plausible ones")
    ] = "classical",
    weights: Annotated[str | None, typer.Option(help="A name or a file, for all segmenters that have weights")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same smears")] = common.SEED,
    picture_folder: Annotated[
        Path | None, typer.Option("--pictures", help="New folder for the smears with what each segmenter found")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per segmenter and kind to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """Find white cells where they are known: in drawn smears, and in real cells laid on real surroundings."""
    wanted = Wanted(smears, _size(size), cells, touching, diameter, seed)
    work = Workplace.on_terminal(device)
    methods = {name: _detector(name, weights, work) for name in segmenter or ["classical"]}
    if picture_folder:
        picture_folder.mkdir(parents=True)
    records = []
    for kind in kinds(manifest, domain, wanted, limit, masks, work):
        for name, method in methods.items():
            boxes, seconds = timed(method, kind.photographs, told)
            about = {"kind": kind.name, "segmenter": name, **wanted._asdict(), "told": told}
            about |= {fact: getattr(method, fact, None) for fact in ("weights_sha256", "weights_saw")}
            figures = detection.summary(boxes, [_known(one.smear) for one in kind.photographs])
            records.append({**about, **kind.about, **figures, "seconds_per_megapixel": seconds})
            if picture_folder:
                draw(picture_folder, kind, name, boxes)
    common.append_json(json, "detection", records)
    show(records)


def kinds(
    manifest: Path | None, domains: Sequence[str] | None, wanted: Wanted, limit: int, masks: str, work: Workplace
) -> Iterator[Kind]:
    """Drawn smears of each named laboratory and of random ones, then assembled ones of each domain."""
    # what is asked wrongly is told before anything is drawn
    rows = common.read_rows(manifest, domains, masked=False) if manifest else []
    trusted = common.make_segmenter(masks, {}, work) if manifest else None
    if manifest and not (hasattr(trusted, "plausible") and hasattr(trusted, "cells_and_nuclei")):
        raise CellfeatError(f"the segmenter {masks!r} does not tell plausible masks, as `classical` does; choose one")
    for number, name in enumerate([*synthetic.LABORATORIES, "random"]):
        yield Kind(f"drawn {name}", [_drawn(name, number, place, wanted) for place in range(wanted.smears)], {})
    for name in dict.fromkeys(row.domain for row in rows):
        pieces = real_smears.read_pieces(Path(manifest or ""), name, limit, wanted.diameter, trusted)
        made = []
        for place in range(wanted.smears):
            rng = np.random.default_rng([wanted.seed, 100, place])
            smear = real_smears.smear(pieces, rng, wanted.size, wanted.cells, wanted.touching)
            made.append(Photograph(smear, pieces.diameter))
        yield Kind(f"assembled {name}", made, {"images": len(pieces.every), "scale": pieces.scale, "masks": masks})


def timed(method: Any, photographs: Sequence[Photograph], told: float) -> tuple[list[np.ndarray], float]:
    """The boxes found in each, and seconds per million px of the photographs as they are."""
    found_in(method, photographs[0].smear.image[:WARM, :WARM], photographs[0].diameter)
    start = time.perf_counter()
    boxes = [found_in(method, one.smear.image, one.diameter * told) for one in photographs]
    pixels = sum(one.smear.image.shape[0] * one.smear.image.shape[1] for one in photographs)
    return boxes, (time.perf_counter() - start) * 1e6 / pixels


def found_in(method: Any, image: np.ndarray, diameter: float) -> np.ndarray:
    """Boxes (K, 4) in px of the photograph, which the detector sees at the scale that it works at, as in the core."""
    works_at, (height, width) = getattr(method, "cell_diameter", None), image.shape[:2]
    if works_at is not None:
        size = (max(1, round(height * works_at / diameter)), max(1, round(width * works_at / diameter)))
        image = images.resize(image, size, "area" if works_at < diameter else "bilinear")
    boxes = np.asarray(method.detect(common.tensor([image])[0]), float).reshape(-1, 4)
    boxes = boxes * np.tile((width / image.shape[1], height / image.shape[0]), 2)
    return boxes.clip(0, (width, height, width, height))


def draw(folder: Path, kind: Kind, name: str, boxes: Sequence[np.ndarray]) -> None:
    """Each smear with its boxes: of a cell green, of none red; missed cells blue."""
    for number, (one, found) in enumerate(zip(kind.photographs, boxes, strict=True)):
        compared, picture = detection.compare(found, one.smear.boxes), one.smear.image.copy()
        colours = [RED if wrong else GREEN for wrong in compared.wrong]
        missed = one.smear.boxes[compared.found < 0]
        for box, colour in zip([*found, *missed], [*colours, *[BLUE] * len(missed)], strict=True):
            corners = np.round(box).astype(int).tolist()
            cv2.rectangle(picture, corners[:2], corners[2:], colour, 2)
        path = folder / f"{kind.name.replace(' ', '-')}-{number + 1}-{name.replace(':', '-')}.png"
        cv2.imwrite(str(path), picture[..., ::-1])


def show(records: Sequence[dict[str, Any]]) -> None:
    headings = ("cells", "recall", "precision", "count error", "absolute", "median IoU", "s per Mpx")
    table = common.new_table("White cells found", "smears", "segmenter", *headings, left=2)
    parts = ("small", "usual", "large", "alone", "touching", "cut")
    apart = common.new_table("Recall by size and crowding, of so many cells", "smears", "segmenter", *parts, left=2)
    for one in records:
        error, iou = one["count_error"], one["median_iou"]
        row = [str(one["cells"]), _share(one["recall"]), _share(one["precision"]), _percent(error["mean"], "+")]
        row += [_percent(error["mean_absolute"]), "" if iou is None else f"{iou:.2f}"]
        table.add_row(one["kind"], one["segmenter"], *row, f"{one['seconds_per_megapixel']:.2f}")
        shares = {**one["by_size"], **one["by_crowding"]}
        cells = [
            f"{_percent(shares[part]['share'])} of {shares[part]['of']}" if shares[part]["of"] else "" for part in parts
        ]
        apart.add_row(one["kind"], one["segmenter"], *cells)
    common.show(table)
    common.show(apart)


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f} %"


def _share(one: dict[str, Any]) -> str:
    if one["share"] is None:
        return ""
    return f"{_percent(one['share'])} ({100 * one['low']:.1f}–{100 * one['high']:.1f})"


def _detector(name: str, weights: str | None, work: Workplace) -> Any:
    params = {} if name in WEIGHTLESS else common.lora_sam_params(weights)
    method = common.make_segmenter(name, params, work)
    if not hasattr(method, "detect"):
        raise CellfeatError(f"the segmenter {name!r} has no `detect`; `cellfeat plugins info {name}` says what it does")
    return method


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or min(int(width), int(height)) < 100:
        raise CellfeatError(f"--size is {text!r}; two numbers of at least 100 px are wanted, as in 960x720")
    return int(width), int(height)


def _drawn(name: str, number: int, place: int, wanted: Wanted) -> Photograph:
    rng, diameter = np.random.default_rng([wanted.seed, number, place]), wanted.diameter
    laboratory = synthetic.LABORATORIES.get(name) or synthetic.random_laboratory(rng)
    if name not in synthetic.LABORATORIES:
        diameter *= float(np.exp(rng.uniform(-STRAY, STRAY)))
    smear = draw_smear(laboratory, rng, wanted.size, wanted.cells, diameter, wanted.touching, synthetic.ALL_TYPES)
    return Photograph(smear, diameter)


def _known(smear: SyntheticSmear) -> detection.Known:
    return detection.Known(smear.boxes, smear.touching, smear.cut)


if __name__ == "__main__":
    common.start(main)
