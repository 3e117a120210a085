"""What of an adapter, a pipeline, a run or a method may be shared: all that is loaded, nothing of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfeat import newcomers, private_words, records, results_folder
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError, unknown
from cellfeat.own_files import OWN_FILES, WITHHELD
from cellfeat.pipeline import read_about
from cellfeat.private_arrays import described
from cellfeat.provenance import versions
from cellfeat.recipe import DEMO, DatasetSection, Part, Recipe, parse
from cellfeat.run import PREDICTIONS, RECORDS, read_run, saved_recipe
from cellfeat.shared_folder import ABOUT, CARD, FORMAT, METHOD, SENT, Shared
from cellfeat.testing.pickles import pickles

ADAPTER, PIPELINE, STATE = "adapter.json", "pipeline.json", "state.json"  # by which each kind is known
# Pictures and tables of cells; nothing that is loaded again is among them.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".pdf", ".html")
KEPT_BACK = (*PICTURES, ".csv", ".parquet", ".h5ad", ".lock")
ARRAYS = (".safetensors", ".npy", ".npz", ".skops")
EXAMPLES = "examples/"  # tensors of this name in a method's state are pictures, for whoever looks at the run


@dataclass(frozen=True)
class Wishes:
    """What the user says of a push.

    source: which pipeline of a run. licence: SPDX. datasets: names of data sets that the card may link. base_model: on
    the hub. with_weights: also weights that lie in a file of this machine.
    """

    source: str | None = None
    licence: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    with_weights: bool = False


def prepare(source: Path, folder: Path, wishes: Wishes) -> Shared:
    """Fill the empty `folder` with what may be shared of `source`, an adapter, a pipeline, a run or a saved method.

    Raises:
        CellfeatError: for a folder that is none of them, files that cannot be shared, or anything private that is
            still in them, with file and word.
    """
    origin, kind = _origin(source, wishes.source)
    about: dict[str, Any] = {"format": FORMAT, "kind": kind, "versions": versions()}
    shared = Shared(folder, about)
    words = private_words.of_places([origin, source])
    if kind == "pipeline":
        words |= _prepare_pipeline(origin, shared, wishes)
    else:
        _copy(origin, shared)
        shared.not_searched = f"ids of cells, since a saved {kind} does not say which it was fitted on"
        about |= _about_adapter(origin) if kind == "adapter" else _about_method(origin)
    _clean(folder)
    if pickles(folder):
        raise CellfeatError(f"{origin} holds a pickle, {pickles(folder)[0]}: it could run code and is never shared")
    words -= set(shared.names)
    for name, word in private_words.find(folder, words):
        raise CellfeatError(
            f"{name} of {origin} would tell {word!r}, a path or an id of this machine's data; nothing was sent. Tell "
            "the author of the method that wrote it, or run again with other ids"
        )
    return shared


def _origin(source: Path, chosen: str | None) -> tuple[Path, str]:
    """(folder, kind) of what is to be shared."""
    if not source.is_dir():
        raise CellfeatError(f"no folder at {source}: an adapter, a run, a pipeline or a saved method is shared")
    if (source / "pipelines").is_dir():
        found = read_run(source)
        if chosen is None and len(found) > 1:
            raise CellfeatError(f"{source} has a pipeline per source: {', '.join(found)}; choose one with --source")
        if chosen is not None and chosen not in found:
            raise CellfeatError(unknown("source of this run", chosen, found))
        return (found[chosen] if chosen else next(iter(found.values()))), "pipeline"
    if chosen is not None:
        raise CellfeatError(f"{source} is no run folder, so that --source {chosen} means nothing: leave it out")
    for name, kind in ((PIPELINE, "pipeline"), (ADAPTER, "adapter"), (STATE, "method")):
        if (source / name).is_file():
            return source, kind
    raise CellfeatError(
        f"{source} is neither an adapter ({ADAPTER}), nor a run (pipelines/), a pipeline ({PIPELINE}) or a saved "
        f"method ({STATE})"
    )


def _copy(origin: Path, shared: Shared, below: str = "") -> None:
    """The files that may go out; the others are listed."""
    for path in sorted(origin.rglob("*")):
        name = f"{below}{path.relative_to(origin).as_posix()}"
        if path.is_symlink():
            raise CellfeatError(f"{path} is a link, which could lead to anything: put the file in its place")
        if path.is_dir() or name in (ABOUT, CARD) or path.name.startswith("."):
            continue
        if path.suffix in KEPT_BACK:
            shared.kept_back.append((name, "pictures and tables of cells are not shared"))
        elif path.suffix not in SENT:
            raise CellfeatError(f"{path}: what is in it is not known, so it is not shared; possible: {', '.join(SENT)}")
        else:
            (shared.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, shared.folder / name)


def _clean(folder: Path) -> None:
    """Take paths out of JSON and pictures out of tensors, in the copies, and refuse what else looks like pictures."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        cleaned = private_words.without_paths(content)
        if cleaned != content:
            path.write_text(json.dumps(cleaned, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in sorted(folder.rglob("*.safetensors")):
        _without_examples(path)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in ARRAYS):
        for array in described(path):
            if array.looks_like_pictures:
                raise CellfeatError(
                    f"{path.name} has a tensor {array.name} of {list(array.shape)}, which look like pictures: these "
                    f"are not shared. A method keeps pictures as tensors named {EXAMPLES}…, which are left out"
                )


def _without_examples(path: Path) -> None:
    """Leave the pictures out that a method keeps for whoever looks at the run."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, "np") as file:
        names = list(file.keys())
        if not any(name.startswith(EXAMPLES) for name in names):
            return
        kept = {name: file.get_tensor(name) for name in names if not name.startswith(EXAMPLES)}
        about = file.metadata()
    with atomic_file(path) as partial:
        save_file(kept, partial, about)


def _about_adapter(origin: Path) -> dict[str, Any]:
    said = private_words.without_paths(json.loads((origin / ADAPTER).read_text(encoding="utf-8")))
    needs = {"weights": said.get("base"), "weights_sha256": said.get("base_sha256")}
    return {"needs": needs, "saw": said.get("saw"), "images": said.get("images")}


def _about_method(origin: Path) -> dict[str, Any]:
    name = json.loads((origin / STATE).read_text(encoding="utf-8")).get("method")
    return {"needs": {}, **({"method": [name]} if isinstance(name, str) and METHOD.fullmatch(name) else {})}


def _prepare_pipeline(origin: Path, shared: Shared, wishes: Wishes) -> set[str]:
    """Copy a pipeline with what its backbone needs of this machine; gives the words that must not be in it."""
    about = read_about(origin)
    maker = about["facts"].get("made_by")
    if maker is not None:
        raise CellfeatError(
            f"{origin} was saved by {maker} in Python, whose parameters and messages may tell of this machine, so that "
            "it is not shared; what `cellfeat run` makes with the same methods can be"
        )
    recipe = saved_recipe(origin, parse(about["recipe"], f"the recipe in {origin}"))
    run = origin.resolve().parent.parent
    words = _words(run, recipe, shared)
    _copy(origin, shared)
    public = _public(recipe, shared, wishes)
    facts = about["facts"]
    data = facts["dataset"]
    saved = {
        **about,
        "recipe": public.as_dict(),
        "facts": {**facts, "dataset": {"digest": data["digest"], "cells": data["cells"]}, "shared": True},
    }
    (shared.folder / PIPELINE).write_text(json.dumps(saved, indent=1), encoding="utf-8")
    found = records.read(run / RECORDS) if (run / RECORDS).is_file() else []
    shared.records = [one for one in found if one["source"] == origin.name]
    protocol = public.protocol
    shared.names = sorted(
        {*about["domains"], *facts["source"], *public.dataset.domains, *protocol.source, *protocol.target}
        | {one["target"] for one in shared.records}
        | {left_out.partition("/")[0] for left_out in public.dataset.leave_out}
    ) + list(about["classes"])
    weights = public.backbone.params.get("weights")
    shared.about |= {
        "needs": {"backbone": recipe.backbone.name, "weights": weights, "weights_sha256": facts["weights_sha256"]},
        "method": [part.name for part in recipe.align] + ([recipe.classifier.name] if recipe.classifier else []),
        "classes": list(about["classes"]),
        "laboratories": sorted({*about["domains"], *facts["source"]}),
        **({newcomers.FACT: facts[newcomers.FACT]} if newcomers.FACT in facts else {}),
    }
    return words


def _words(run: Path, recipe: Recipe, shared: Shared) -> set[str]:
    """What must not be in a pipeline of this run; notes where its cells are not known any more."""
    words = private_words.of_places([run])
    ids = private_words.of_predictions(run / PREDICTIONS)
    if recipe.dataset.manifest != DEMO:
        manifest = Path(recipe.dataset.manifest)
        rows = private_words.of_manifest(manifest)
        words |= private_words.of_places([manifest]) | {recipe.dataset.manifest}
        if not rows:
            told = "groups and file names" if ids else "ids, groups and file names of its cells"
            shared.not_searched = f"{told}, since {manifest.name or 'its manifest'} is not where the run had it"
        ids |= rows
    return words | ids


def _public(recipe: Recipe, shared: Shared, wishes: Wishes) -> Recipe:
    """The recipe without paths; files of backbone and segmenter come along, where they may."""
    data = recipe.dataset
    labels = data.labels if data.labels and not Path(data.labels).is_file() else None
    section = DatasetSection(manifest=WITHHELD, labels=labels, domains=data.domains, leave_out=data.leave_out)
    changed: dict[str, Any] = {"dataset": section, "finetune": None}
    for slot, part in (("backbone", recipe.backbone), ("segmenter", recipe.segmenter)):
        if part is not None:
            own = dict(_brought_along(slot, part, shared, wishes.with_weights))
            changed[slot] = Part.of(part.name, {**part.params, **own})
    return results_folder.published(recipe.model_copy(update=changed))


def _brought_along(slot: str, part: Part, shared: Shared, with_weights: bool) -> Iterator[tuple[str, str]]:
    """(parameter, its new value) of each that names a file or folder here, which is copied."""
    for key, value in part.params.items():
        if not isinstance(value, str) or not _is_place(value):
            continue
        place, target = Path(value).expanduser(), f"{OWN_FILES}/{slot}-{key}"
        if not place.exists():
            raise CellfeatError(f"{slot}.{key} is {value}, which is not there; without it the pipeline cannot be used")
        if place.is_dir():
            _copy(place, shared, f"{target}/")
            yield key, target
        elif place.suffix not in SENT:
            raise CellfeatError(
                f"{slot}.{key} is the file {place.name}, which is not shared: reading it could run code. Save its "
                "weights as safetensors and run again"
            )
        elif not with_weights:
            raise CellfeatError(
                f"{slot}.{key} is the file {place.name} of this machine, which nobody else has. If its licence lets "
                "you share it: --with-weights; else run again with weights that are known by name"
            )
        else:
            copied = shared.folder / f"{target}{place.suffix}"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, copied)
            yield key, f"{target}{place.suffix}"


def _is_place(value: str) -> bool:
    """Whether a parameter names a place of this machine: timm/resnet18 is none, unless there is such a file."""
    path = Path(value).expanduser()
    return (
        path.is_absolute()
        or value.startswith(("./", "../", "~"))
        or (("/" in value or path.suffix != "") and path.exists())
    )
