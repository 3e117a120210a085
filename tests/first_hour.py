"""A ward's own folders, made of a few real images: its words, its patients, and what else lies in such folders."""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from pathlib import Path

# Of the laboratory that each folder is copied from: its label, the ward's word and how many cells.
STATION = {"neutrophil": "Neutrophile segm.", "lymphocyte": "Lymphos", "monocyte": "Monozytn", "eosinophil": "Eos"}
LABORATORY = {
    "neutrophil_segmented": "parçalı nötrofil",
    "neutrophil_banded": "çomak",
    "lymphocyte_typical": "lenfosit",
    "monocyte": "monosit",
    "eosinophil": "eozinofil",
}
PATIENTS = ("Müller K", "Öztürk A", "Groß B", "Ça 4", "Pat 5")


def write_ward(folder: Path, real_data: Path) -> dict[str, str]:
    """`Station 7`, `Labor B` and `Neue Bilder` in a folder; gives {id of a new image: its label}."""
    images = _images(real_data)
    for label, word in STATION.items():
        _copy(images["tecom", label][:11], folder / "Station 7" / word)
    for label, word in LABORATORY.items():
        _copy(images["acevedo20", label][: 6 if "neutrophil" in label else 11], folder / "Labor B" / word)
    truth = {}
    for label in STATION:
        for number, path in enumerate(images["bccd", label][:8]):
            copy = folder / "Neue Bilder" / f"{label[0]}{number:02d}{path.suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            truth[copy.name] = label
    _disorder(folder / "Station 7")
    return truth


def _images(real_data: Path) -> dict[tuple[str, str], list[Path]]:
    """{(domain, label): its images}, sorted by path."""
    found = defaultdict(list)
    with (real_data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["domain"], row["label"]].append(real_data / row["path"])
    return {key: sorted(paths) for key, paths in found.items()}


def _copy(paths: list[Path], folder: Path) -> None:
    """One patient after the other; endings in capitals for every third, as cameras write them."""
    for number, path in enumerate(paths):
        suffix = path.suffix.upper() if number % 3 == 0 else path.suffix
        copy = folder / PATIENTS[number % len(PATIENTS)] / f"Bild {number + 1}{suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def _disorder(station: Path) -> None:
    """What a shared drive holds besides: systems' files, notes, an empty class, a broken copy, a cell put twice."""
    (station / "Thumbs.db").write_bytes(b"\0")
    (station / "Lymphos" / ".DS_Store").write_bytes(b"\0")
    (station / "Zählung 2024.txt").write_text("Neutrophile 58 %", encoding="utf-8")
    (station / "Baso").mkdir()
    whole = sorted((station / "Eos" / "Müller K").iterdir())[0]
    (station / "Eos" / "Müller K" / "abgebrochen.PNG").write_bytes(whole.read_bytes()[:900])
    (station / "unklar" / "Groß B").mkdir(parents=True)
    shutil.copy(whole, station / "unklar" / "Groß B" / "Kopie.PNG")
