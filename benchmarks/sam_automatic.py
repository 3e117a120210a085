"""Seconds of a CPU that `sam-automatic` takes for one drawn field, with SAM's sizes and random weights.

python benchmarks/sam_automatic.py --build vit_b --image-size 1024

Random weights find no cells; what they cost is what the published ones cost.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import common
import numpy as np
import typer

from cellfeat import Workplace, synthetic_smears

DIAMETER = 48.0  # px of a typical white cell, at which sam-automatic works


def main(
    build: Annotated[str, typer.Option(help="vit_b, vit_l or vit_h")] = "vit_b",
    image_size: Annotated[int, typer.Option(help="Side of the network's frame, px")] = 1024,
    cells: Annotated[int, typer.Option(help="White cells of the field, 1067 x 800 px")] = 12,
    json: Annotated[Path | None, typer.Option(help="Append the figures as a JSON line to this file")] = None,
) -> None:
    """Wall and CPU seconds of one call of `detect`; set OMP_NUM_THREADS for the threads."""
    import torch
    from segment_anything import sam_model_registry

    smear = synthetic_smears.draw_smear("lab-a", np.random.default_rng(0), (1067, 800), cells, DIAMETER)
    image = torch.from_numpy(smear.image.transpose(2, 0, 1).copy())
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        torch.save(sam_model_registry[build]().state_dict(), Path(folder) / "random.pth")
        params = {"weights": f"{folder}/random.pth", "image_size": image_size}
        method = common.make_segmenter("sam-automatic", params, Workplace.on_terminal("cpu"))
        wall, work = time.perf_counter(), time.process_time()
        method.detect(image)
    wall, work = time.perf_counter() - wall, time.process_time() - work
    typer.echo(f"{build}, frame {image_size} px, {torch.get_num_threads()} threads: {wall:.0f} s, {work:.0f} s of CPU")
    figures = {"build": build, "image_size": image_size, "wall": round(wall, 1), "cpu": round(work, 1)}
    common.append_json(json, "sam_automatic", [figures])


if __name__ == "__main__":
    common.start(main)
