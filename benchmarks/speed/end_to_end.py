"""Image files to features on disk: `cellfeat` against the published program's way, on the same files in one run.

python -m benchmarks.speed.end_to_end --images 500

The plain way decodes, resizes and encodes one image at a time and keeps mask, image and token map of all of them in a
dictionary, written as a pickle under gzip, as DoRL's extraction does. cellfeat checks and encodes the files of a
manifest and writes what its recipe reads.
"""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer

from benchmarks import common
from benchmarks.speed import measure
from benchmarks.speed.files import bytes_of, write_drawn
from benchmarks.speed.forward import RANDOM, chosen_weights, drawn, plain_network
from cellfeat import Workplace, encode_cells

PLAIN = "published way: image by image, gzip-pickle"
OURS = {"cellfeat, float32": "fp32", "cellfeat, bf16": "bf16"}
COLUMNS = "image,map,mask,pooled"  # what the plain way keeps, and the pooled vectors


def main(
    count: Annotated[int, typer.Option("--images", min=10, help="Files to draw and encode")] = 500,
    weights: Annotated[str, typer.Option(help=f"Weights of lora-sam: a name, a file, or {RANDOM}")] = RANDOM,
    columns: Annotated[str, typer.Option(help="What cellfeat keeps")] = COLUMNS,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 2,
    parts: Annotated[int, typer.Option(min=1, help="The ways take turns on so many parts of the files")] = 5,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per way to this file")] = None,
) -> None:
    """Decode to store on the CPU. cellfeat's time includes reading the manifest, checking files, building networks."""
    import torch

    torch.set_num_threads(threads)
    each = count // parts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = chosen_weights(weights, folder)
        files = [write_drawn(folder / f"part-{part}", each, part) for part in range(parts + 1)]
        manifests = {way: iter(files) for way in (PLAIN, *OURS)}
        plain = PlainExtraction(params["weights"], folder / "plain")
        ways: dict[str, Callable[[], Any]] = {PLAIN: lambda: plain(next(manifests[PLAIN]))}
        for way, precision in OURS.items():
            ways[way] = lambda way=way, precision=precision: ours(
                next(manifests[way]), params, precision, columns.split(","), folder / way
            )
        seconds = measure.interleaved(ways, parts)
        disk = {PLAIN: bytes_of(folder / "plain"), **{way: bytes_of(folder / way / "stores") for way in OURS}}
    about = {"weights": weights, "images": each * parts, "columns": columns}
    rows = measure.records("end to end", seconds, PLAIN, each, about)
    for row in rows:
        row["bytes_per_image"] = disk[row["way"]] / (each * (parts + 1))
    title = f"{weights}, {each * parts} files, decode to store, {columns}, {threads} threads"
    measure.finish(title, rows, json, "end-to-end")
    for row in rows:
        print(f"{row['way']}: {row['bytes_per_image'] / 1e3:.0f} kB on disk per image")


class PlainExtraction:
    """cv2.imread, bilinear resize, one forward pass; all in a dictionary, then a pickle under gzip."""

    def __init__(self, weights: str, folder: Path) -> None:
        work = Workplace.on_terminal("cpu")
        params = {"weights": weights}
        backbone = work.registry.create("backbone", "lora-sam", params, work.context(common.SEED, "benchmarks"))
        self.network = plain_network(weights, backbone, drawn(2, backbone.image_size))
        self.side, self.folder = backbone.image_size, folder
        folder.mkdir()

    def __call__(self, manifest: Path) -> None:
        import torch

        features = {}
        with torch.inference_mode():
            for path in sorted(manifest.parent.glob("*.jpg")):
                image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
                image = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
                mask, _ = self.network(torch.from_numpy(image.transpose(2, 0, 1).copy()))
                tokens = self.network.tokens[0].numpy()
                features[path.stem] = {"label": 0, "masks": mask.numpy(), "image": image, "feature": tokens}
        with gzip.open(self.folder / f"{manifest.parent.name}.dat.gz", "wb") as file:
            pickle.dump(features, file)


def ours(manifest: Path, params: dict[str, str], precision: str, columns: list[str], cache: Path) -> None:
    """As a program of a user would: from the manifest to columns in the store."""
    before = os.environ.get("CELLFEAT_CACHE")
    os.environ["CELLFEAT_CACHE"] = str(cache)
    try:
        encode_cells(manifest, columns, params=params, work=Workplace.on_terminal("cpu", precision))
    finally:
        os.environ.pop("CELLFEAT_CACHE")
        if before is not None:
            os.environ["CELLFEAT_CACHE"] = before


if __name__ == "__main__":
    common.start(main)
