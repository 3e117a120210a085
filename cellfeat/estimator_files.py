"""A fitted estimator as files: those of a saved pipeline, and what scikit-learn knows of it; no pickle among them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellfeat.errors import CellfeatError
from cellfeat.pipeline import Pipeline, read_about
from cellfeat.recipe import parse
from cellfeat.workplace import Workplace, make_encoder

KEPT = ("n_features_in_", "feature_names_in_", "n_features_out_", "classes_", "notes_")  # beside the pipeline
ELSEWHERE = ("target",)  # parameters that are data, and not kept


def save(estimator: Any, folder: Path) -> None:
    """Write a fitted estimator into a new folder: a saved pipeline, whose facts also hold the parameters.

    Raises: CellfeatError for a folder that exists, or a parameter that JSON cannot hold.
    """
    given = {name: value for name, value in estimator.get_params(deep=False).items() if name not in ELSEWHERE}
    learnt = {name: plain(getattr(estimator, name)) for name in KEPT if hasattr(estimator, name)}
    try:
        params = {name: plain(value) for name, value in given.items()}
        json.dumps([params, learnt])
    except TypeError as error:
        raise CellfeatError(f"{type(estimator).__name__} cannot be saved: {error}; use names, numbers, lists") from None
    pipeline = estimator.pipeline_
    facts = {**pipeline.facts, "params": params, "learnt": learnt}
    before, pipeline.facts = pipeline.facts, facts
    try:
        pipeline.save(Path(folder))
    finally:
        pipeline.facts = before


def load(kinds: dict[str, type], folder: Path, **changes: Any) -> Any:
    """The estimator that a folder holds, of one of `kinds` by name; changes: parameters of another machine."""
    import numpy as np

    facts = read_about(folder)["facts"]
    estimator = kinds[facts["made_by"]](**{**facts["params"], **changes})
    for name, value in facts["learnt"].items():
        is_array = name in ("classes_", "feature_names_in_")
        setattr(
            estimator,
            name,
            np.array(value, dtype=object if name == "feature_names_in_" else None) if is_array else value,
        )
    estimator.pipeline_ = read_pipeline(folder, estimator._workplace(), with_backbone=estimator.backbone is not None)
    return estimator


def read_pipeline(folder: Path, work: Workplace, with_backbone: bool) -> Pipeline:
    """A saved pipeline with its encoder.

    Raises: CellfeatError where the backbone has other weights than those that it was fitted on the features of.
    """
    about = read_about(folder)
    context = work.context(about["facts"]["seed"], "estimator")
    encoder = make_encoder(parse(about["recipe"]), work, context) if with_backbone else None
    now = encoder and encoder.description["weights_sha256"]
    if now != about["facts"]["weights_sha256"]:
        raise CellfeatError(
            f"{folder} was fitted on features of weights with sha256 {about['facts']['weights_sha256']}, but here they "
            f"have {now}; put the old weights back or fit again"
        )
    pipeline = Pipeline.load(folder, work.registry, context, encoder)
    pipeline.facts = {name: value for name, value in pipeline.facts.items() if name not in ("params", "learnt")}
    return pipeline


def packed(pipeline: Pipeline) -> dict[str, bytes]:
    """{path: content} of the files that a pipeline is saved as: what a copy for another process holds of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pipeline"
        pipeline.save(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def unpacked(files: dict[str, bytes], work: Workplace, with_backbone: bool) -> Pipeline:
    """The pipeline again."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for number in range(len(json.loads(files["pipeline.json"])["recipe"]["align"])):
            (Path(place) / f"align-{number}").mkdir(exist_ok=True)  # of a method that keeps nothing
        return read_pipeline(Path(place), work, with_backbone)


def plain(value: Any) -> Any:
    """A parameter without NumPy's numbers and arrays, as those of a grid from `np.arange` are; others as they came."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value
