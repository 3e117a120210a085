"""IoU of segmenters on cells that touch others: drawn crops, and real cells pasted among others of their laboratory.

python benchmarks/smears.py cells.csv --segmenter lora-sam --segmenter classical --pictures sheets
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import quality
import smear_crops
import typer

from cellfeat import Workplace, images, pictures

SEEDS = (1234, 1235, 1236)
SHOWN = 112  # px of a crop on a sheet


def main(
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest CSV with true masks for the pasted crops; without it, drawn alone")
    ] = None,
    segmenter: Annotated[list[str] | None, typer.Option(help="A segmenter's name; repeat for several")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Paste cells of this domain only; repeat")] = None,
    crops: Annotated[int, typer.Option(min=1, help="Of each kind under each seed")] = 150,
    seed: Annotated[list[int] | None, typer.Option(help=f"Default: {' '.join(map(str, SEEDS))}; repeat")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of lora-sam: a name or a file")] = None,
    picture_folder: Annotated[
        Path | None, typer.Option("--pictures", help="New folder for a sheet of each kind with the masks' outlines")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per segmenter and kind to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """Whole-cell IoU at 224 px where red cells or another white cell reach the cell's rim; mean and spread by seed."""
    work, seeds = Workplace.on_terminal(device), list(seed or SEEDS)
    methods = {
        name: common.make_segmenter(name, common.lora_sam_params(weights) if name == "lora-sam" else {}, work)
        for name in segmenter or ["lora-sam", "classical", "otsu"]
    }
    if picture_folder:
        picture_folder.mkdir(parents=True)
    records = []
    for kind, sets in kinds(manifest, domain, crops, seeds):
        frames = [[framed(crop.cell) for crop in one] for one in sets]
        rim = float(np.mean([crop.touched for one in sets for crop in one]))
        for name, method in methods.items():
            values = [common.cell_ious(method, cells) for cells in frames]
            guessed = [guess for cells in frames for guess in quality.predicted(method, cells)]
            about = {"kind": kind, "segmenter": name, "weights_sha256": getattr(method, "weights_sha256", None)}
            records.append({**about, "seeds": seeds, "crops": crops, "rim_touched": rim, **figures(values)})
            records[-1]["quality"] = quality.worth(guessed, [value for one in values for value in one])
        if picture_folder:
            sheet(picture_folder / f"{kind.replace(' ', '-')}.png", frames[0][: pictures.MAX_PICTURES], methods, kind)
    common.append_json(json, "smears", records)
    show(records)


def kinds(
    manifest: Path | None, domains: Sequence[str] | None, count: int, seeds: Sequence[int]
) -> Iterator[tuple[str, list[list[smear_crops.Crop]]]]:
    """Each kind's name and its crops under every seed."""
    yield "drawn", [list(smear_crops.drawn_crops(count, np.random.default_rng(seed))) for seed in seeds]
    rows = common.read_rows(manifest, domains) if manifest else []
    for domain in dict.fromkeys(row.domain for row in rows):
        cells = [common.read_cell(row, None) for row in rows if row.domain == domain]
        pasted = [list(smear_crops.pasted_crops(cells, count, np.random.default_rng(seed))) for seed in seeds]
        yield f"pasted {domain}", pasted


def framed(cell: common.Cell) -> common.Cell:
    size = common.SIZE
    return common.Cell(images.resize(cell.image, size), images.resize_mask(cell.cell, size), None)


def figures(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """IoU of every crop by seed -> mean and spread over seeds."""
    means = [float(np.mean(one)) for one in values]
    every = np.concatenate([np.asarray(one) for one in values])
    return {
        "mean": float(np.mean(means)),
        "spread": common.spread(means),
        "by_seed": means,
        "median": float(np.median(every)),
        "below_half": float(np.mean(every < 0.5)),
    }


def sheet(path: Path, cells: Sequence[common.Cell], methods: dict[str, Any], title: str) -> None:
    """The crops as they are, and with the outlines of the true mask and of every segmenter's."""
    small = [images.resize(cell.image, SHOWN, "area") for cell in cells]
    masks = {"true mask": [cell.cell for cell in cells]}
    batch = common.tensor([cell.image for cell in cells])
    masks |= {name: list(method.segment(batch).cpu().numpy()) for name, method in methods.items()}
    rows = {"crop": small}
    for name, found in masks.items():
        shown = [images.resize_mask(mask, SHOWN) for mask in found]
        rows[name] = [pictures.mask_outline(image, mask) for image, mask in zip(small, shown, strict=True)]
    pictures.image_grid(path, rows, title=title)


def show(records: Sequence[dict[str, Any]]) -> None:
    headings = ("crops", "rim touched", "mean IoU ± spread", "median", "below 0.5")
    table = common.new_table("Cells that touch others", "kind", "segmenter", *headings, left=2)
    for one in records:
        row = [f"{one['crops']} × {len(one['seeds'])}", f"{100 * one['rim_touched']:.0f} %"]
        row += [f"{one['mean']:.3f} ± {one['spread']:.3f}", f"{one['median']:.3f}", f"{100 * one['below_half']:.1f} %"]
        table.add_row(one["kind"], one["segmenter"], *row)
    common.show(table)
    quality.show(records, "kind")


if __name__ == "__main__":
    common.start(main)
