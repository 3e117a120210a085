"""Drawn smears for tests, and a segmenter that knows their boxes: `CELLFEAT_PLUGINS_DIR` may name this file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cellfeat import DetectorRecord, hookimpl
from cellfeat.synthetic_smears import SyntheticSmear, draw_smear


class KnownBoxes:
    """Finds what a JSON file says, by the digest of a photograph's pixels. record: whether it says how well it does."""

    def __init__(self, boxes: str = "", record: bool = False):
        self.boxes = json.loads(Path(boxes).read_text()) if boxes else {}
        if record:
            self.detections = DetectorRecord(200, 180, 6, "drawn smears")

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones((len(images), *images.shape[2:]), dtype=torch.bool)

    def detect(self, image: torch.Tensor) -> torch.Tensor:
        found = self.boxes.get(hashlib.sha256(np.ascontiguousarray(image.numpy()).tobytes()).hexdigest(), [])
        return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)


class OfOneScale(KnownBoxes):
    """As one that works where cells are 64 px wide."""

    cell_diameter = 64.0


@hookimpl
def cellfeat_segmenter():
    return {"known-boxes": KnownBoxes, "of-one-scale": OfOneScale}


def write_smears(folder: Path, smears: Mapping[str, SyntheticSmear]) -> Path:
    """{path below the folder: smear} as PNG files; gives the JSON file of their boxes."""
    boxes = {}
    for name, one in smears.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.image).save(path)
        pixels = np.ascontiguousarray(one.image.transpose(2, 0, 1)).tobytes()
        boxes[hashlib.sha256(pixels).hexdigest()] = one.boxes.tolist()
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder / "boxes.json"


def drawn_smear(seed: int, cells: int = 5, touching: float = 0.0) -> SyntheticSmear:
    """A field of 320 x 240 px, typical cells 48 px wide."""
    rng = np.random.default_rng(seed)
    return draw_smear("lab-a", rng, size=(320, 240), cells=cells, diameter=48, touching=touching)
