"""What binary files of ours are: features, predictions, weights, images. Checkpoints are looked at, never unpickled."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellfeat import artifact_smears, feature_parquet, reference_files
from cellfeat.artifact_texts import Artifact, quoted
from cellfeat.artifacts import STATE_FILE, TENSOR_FILE
from cellfeat.decode import ImageError, read_bytes, read_rgb
from cellfeat.digests import file_sha256
from cellfeat.errors import CellfeatError
from cellfeat.feature_files import FeatureTable
from cellfeat.registry import installed

HEADER = "cellfeat"  # key of our JSON in the header of a safetensors file
PLAIN = ("builtins.", "numpy.")  # what every estimator holds
DETECTOR, DETECTOR_KIND = "cell-detector", "detector"  # what its training writes into the header
FIELD = 700  # px; images of a single cell are seldom as large, so that it may be a photograph of many
PREDICTED = {"source", "target", "id", "label", "seed", "fold"}


def features(path: Path) -> Artifact:
    """A feature file. Raises: CellfeatError where it is none."""
    table = FeatureTable.read(path)
    about = table.provenance
    facts: dict[str, Any] = {"features": table.features, "cells": len(table), "width": table.width}
    facts["laboratories"] = _counted(table.rows.get("domain"))
    facts["labels"] = _counted(table.rows.get("label"))
    for key in ("pipeline", "run", "refit", "weights_sha256", "weights_saw", "dataset"):
        if about.get(key) is not None:
            facts[key] = about[key]
    backbone = about.get("backbone") or about.get("recipe", {}).get("backbone") or {}
    facts["backbone"] = backbone.get("name")
    facts["written by"] = {name: about.get("versions", {}).get(name) for name in ("cellfeat", "torch")}
    other = path.with_suffix(".parquet" if path.suffix.lower() == ".h5ad" else ".h5ad")
    commands = [f"cellfeat convert {quoted(path)} {quoted(other)}"]
    if "content_sha256" in about:  # without it no store takes them
        commands.append(f"cellfeat convert {quoted(path)} cache")
    return Artifact("feature file", facts, tuple(commands))


def _counted(values: np.ndarray | None) -> dict[str, int]:
    return {} if values is None else dict(sorted(Counter(name or "(none)" for name in values.tolist()).items()))


def parquet(path: Path) -> Artifact | None:
    """A .parquet: features, a run's or a suite's predictions, a suite's cells."""
    file = feature_parquet.opened(path)
    names, count = set(file.schema_arrow.names), file.metadata.num_rows
    if feature_parquet.KEY.encode() in (file.schema_arrow.metadata or {}) and "f0" in names:
        return features(path)
    if names >= PREDICTED:
        classes = [name.removeprefix("p_") for name in file.schema_arrow.names if name.startswith("p_")]
        facts = {"rows": count, "classes": classes}
        return Artifact("predictions of a run", facts, (f"cellfeat report {quoted(path.parent)}",))
    if path.parent.name == "predictions" and "id" in names:
        return Artifact("predictions of a row of a suite", {"rows": count, "columns": file.schema_arrow.names})
    if names >= {"id", "domain", "label"}:
        kind = "cells that results or a report are about, without features to use elsewhere"
        return Artifact(kind, {"rows": count, "columns": list(file.schema_arrow.names)[:8]})
    return None


def weights(path: Path) -> Artifact:
    """Weights, by their header, their digest and the names that methods know; or arrays of a pipeline."""
    if path.name == reference_files.ARRAYS and path.with_name(reference_files.ABOUT).is_file():
        return artifact_smears.reference(path)
    if path.name == TENSOR_FILE and path.with_name(STATE_FILE).is_file():
        return Artifact("arrays of a fitted method", _safetensors(path), (f"cellfeat info {quoted(path.parent)}",))
    sha256 = file_sha256(path)
    facts: dict[str, Any] = {"megabytes": round(path.stat().st_size / 1e6, 1), "sha256": sha256}
    facts |= _safetensors(path) if path.suffix.lower() == ".safetensors" else _checkpoint(path)
    known = _known(path, sha256)
    facts["known as"] = list(dict.fromkeys(one.weights for one in known))
    if known:
        return Artifact("named weights", facts, (known[-1].use(),))
    says = facts.get("says")
    if isinstance(says, dict) and says.get("kind") == DETECTOR_KIND:
        return Artifact("weights of a detector", facts, (_Named("segmenter", DETECTOR, quoted(path)).use(),))
    use = f"cellfeat extract cells.csv -o features.parquet --set backbone.weights={quoted(path)}"
    return Artifact("weights", facts, (use, "cellfeat weights import FORMAT FILE -o FOLDER"))


class _Named(NamedTuple):
    """A method of a slot, and weights that it takes by this name."""

    slot: str
    method: str
    weights: str

    def use(self) -> str:
        """A command with them."""
        chosen = f"--{self.slot} {self.method} --set {self.slot}.weights={self.weights}"
        if self.slot == "backbone":
            return f"cellfeat extract cells.csv -o features.parquet {chosen}"
        return f"cellfeat smear IMAGES --run RUN -o counted {chosen}"


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
            said = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CellfeatError(f"{path} cannot be read as safetensors: {error}") from None
    return {"tensors": len(shapes), "numbers": int(sum(np.prod(shape) for shape in shapes)), "says": said}


def _checkpoint(path: Path) -> dict[str, Any]:
    """A PyTorch checkpoint is a ZIP of a pickle and the tensors' bytes; the pickle is left alone."""
    if not zipfile.is_zipfile(path):
        return {"container": "no ZIP: an old checkpoint, or none"}
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return {"container": "PyTorch", "tensors": sum("/data/" in name for name in names)}


def estimator(path: Path) -> Artifact:
    """A fitted scikit-learn object, by the description in its file; it is not built."""
    types: list[str] = []

    def noted(part: dict[str, Any]) -> dict[str, Any]:
        if {"__class__", "__module__"} <= part.keys():
            types.append(f"{part['__module__']}.{part['__class__']}")
        return part

    try:
        with zipfile.ZipFile(path) as archive:
            said = json.loads(archive.read("schema.json"), object_hook=noted)
        facts = {"objects": sorted({name for name in types if not name.startswith(PLAIN)})}
        facts["skops"] = said["_skops_version"]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise CellfeatError(f"{path} cannot be read as a skops file: {' '.join(str(error).split())}") from None
    commands = (f"cellfeat info {quoted(path.parent)}",) if (path.parent / "pipeline.json").is_file() else ()
    return Artifact("fitted classifier", facts, commands)


def _known(path: Path, sha256: str) -> list[_Named]:
    """All named weights of this content, of backbones and of segmenters."""
    import pooch

    found, megabytes = [], path.stat().st_size / 1e6
    offers = [offer for offer in installed().offers if offer.slot in ("backbone", "segmenter")]
    for offer in offers:
        for name, item in getattr(offer.factory, "named_weights", {}).items():
            algorithm, _, wanted = item.digest.rpartition(":")
            if (algorithm or "sha256") == "sha256":
                same = wanted.lower() == sha256
            else:  # another digest of a large file is taken only where its size is right
                near = abs(megabytes - item.size_mb) < 0.02 * item.size_mb
                same = near and pooch.file_hash(str(path), alg=algorithm) == wanted.lower()
            if same:
                found.append(_Named(offer.slot, offer.name, name))
    return sorted(found, key=lambda one: one.slot == "backbone")  # what most commands take, comes last


def image(path: Path) -> Artifact:
    """An image, and how it would be read. Raises: ImageError where no command could read it."""
    import io

    from PIL import Image

    data = read_bytes(path)
    pixels = read_rgb(data, name=str(path))
    with Image.open(io.BytesIO(data)) as header:
        facts: dict[str, Any] = {"format": header.format, "mode": header.mode}
        facts["size, px"] = f"{header.size[0]} x {header.size[1]}"
    facts["read as"] = f"8-bit RGB, {pixels.shape[1]} x {pixels.shape[0]} px, upright"
    facts["mean grey level"] = round(float(pixels.mean()), 1)
    commands = [
        f"cellfeat predict RUN {quoted(path)}",
        "cellfeat data index folders DIR --domain NAME -o cells.csv",
    ]
    if min(pixels.shape[:2]) >= FIELD:
        commands.insert(0, f"cellfeat smear {quoted(path)} --run RUN -o counted")
    return Artifact("image", facts, tuple(commands))


def picture(path: Path) -> Artifact | None:
    """An image by its content, whatever the file is called; None for anything else."""
    try:
        return image(path)
    except ImageError:
        return None
