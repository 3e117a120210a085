"""IoU of segmenters against the true masks of a manifest, by domain, and what their own quality is worth.

python benchmarks/masks.py cells.csv --segmenter lora-sam --segmenter classical --segmenter otsu
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import quality
import typer

from cellfeat import Workplace, metrics


def main(
    manifest: Annotated[Path, typer.Argument(help="Manifest CSV; rows without mask_path are passed over")],
    segmenter: Annotated[list[str] | None, typer.Option(help="A segmenter's name; repeat for several")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; repeat for several")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cells of each domain, evenly by id")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of lora-sam: a name or a file")] = None,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per segmenter and domain to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
) -> None:
    """IoU of whole cell and nucleus at 224 px; nothing is fitted to the masks."""
    work = Workplace.on_terminal(device)
    rows = common.read_rows(manifest, domain, limit=limit)
    records = []
    for name in segmenter or ["lora-sam", "classical", "otsu"]:
        method = common.make_segmenter(name, common.lora_sam_params(weights) if name == "lora-sam" else {}, work)
        for place in dict.fromkeys(row.domain for row in rows):
            found = judge(method, [row for row in rows if row.domain == place])
            about = {"segmenter": name, "weights_sha256": getattr(method, "weights_sha256", None), "domain": place}
            if name == "lora-sam":
                about |= {"weights": weights, "weights_saw": getattr(method, "weights_saw", None)}
            records.append(about | found)
    common.append_json(json, "masks", records)
    show(records)


def judge(method: Any, rows: list[common.Row]) -> dict[str, Any]:
    """The figures of one segmenter on one domain."""
    whole, nuclei, predicted = [], [], []
    started = time.perf_counter()
    for batch in common.batches(rows):
        cells = [common.read_cell(row) for row in batch]
        mask, nucleus, guessed = answer(method, common.tensor([cell.image for cell in cells]))
        whole += metrics.intersection_over_union(mask, np.stack([cell.cell for cell in cells])).tolist()
        predicted += [] if guessed is None else guessed.tolist()
        if nucleus is not None:
            told = [place for place, cell in enumerate(cells) if cell.nucleus is not None]
            truth = np.array([cells[place].nucleus for place in told], bool).reshape(-1, *nucleus.shape[1:])
            nuclei += metrics.intersection_over_union(nucleus[told], truth).tolist()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "cell": common.figures(whole),
        "nucleus": common.figures(nuclei) if nuclei else None,
        "quality": quality.worth(predicted, whole),
    }


def answer(method: Any, frames: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Masks (B, S, S) bool of cell and, where the method tells them, nucleus, and the predicted IoU (B,)."""
    if hasattr(method, "cells_and_nuclei"):
        cells, nuclei = (masks.cpu().numpy() for masks in method.cells_and_nuclei(frames))
        return cells, nuclei, None
    nuclei = method.nuclei(frames).cpu().numpy() if hasattr(method, "nuclei") else None
    if not hasattr(method, "encode"):
        return method.segment(frames).cpu().numpy(), nuclei, None
    features = method.encode(frames)  # a backbone that segments knows its mask and what it thinks of it at once
    guessed = getattr(features, "quality", None)
    return features.mask.cpu().numpy(), nuclei, None if guessed is None else guessed.float().cpu().numpy()


def show(records: list[dict[str, Any]]) -> None:
    headings = ("cells", "mean IoU", "95 %", "median", "below 0.5", "nucleus IoU", "95 %")
    table = common.new_table("Masks", "segmenter", "domain", *headings, left=2)
    for record in records:
        cell, nucleus = record["cell"], record["nucleus"]
        row = [str(cell["cells"]), *_mean(cell), f"{cell['median']:.3f}", f"{100 * cell['below_half']:.1f} %"]
        table.add_row(record["segmenter"], record["domain"], *row, *(_mean(nucleus) if nucleus else ("–", "–")))
    common.show(table)
    quality.show(records, "domain")


def _mean(found: dict[str, Any]) -> tuple[str, str]:
    return f"{found['mean']:.3f}", f"{found['low']:.3f}–{found['high']:.3f}"


if __name__ == "__main__":
    common.start(main)
