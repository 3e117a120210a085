"""What a file or folder of ours is, by what stands in it, and what can be done with it next. No code of it is run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellfeat import artifact_files, artifact_smears, artifact_texts, next_use, observation_files, recipe, records
from cellfeat.artifact_texts import Artifact, quoted
from cellfeat.artifacts import STATE_FILE, TENSOR_FILE
from cellfeat.confidence import Confidence
from cellfeat.decode import IMAGE_SUFFIXES
from cellfeat.errors import CellfeatError
from cellfeat.feature_files import POOLED
from cellfeat.fitted_pipelines import VECTORS
from cellfeat.newcomers import bound_to
from cellfeat.next_use import of_shared
from cellfeat.pipeline import read_about
from cellfeat.reference_files import ABOUT as REFERENCE
from cellfeat.results_folder import CELLS, FAILURES
from cellfeat.run import RECIPE, RECORDS
from cellfeat.shared_folder import ABOUT as SHARED
from cellfeat.shared_folder import check_files, read_shared
from cellfeat.store import ABOUT as STORE
from cellfeat.store import COLUMNS, QUALITY, Store
from cellfeat.weights import WEIGHT_SUFFIXES

PIPELINE, PIPELINES, PARTIAL = "pipeline.json", "pipelines", ".partial-"
ADAPTER = ("adapter.json", "decoder.safetensors", "lora")  # what fine-tuning leaves in its folder
OURS = (
    "manifests, predictions, counts and reviews (.csv, .json), features and predictions (.parquet), features (.h5ad), "
    "recipes, suites and label maps (.yaml), records and journals (.jsonl), weights (.pth, .safetensors), exported "
    "backbones (.onnx), classifiers (.skops), reports and leaderboards (.html), plugins (.py), images; folders of "
    "runs, pipelines, smears, results, adapters, fitted methods, stores, plugins, images, and what `hub push` "
    "and `hub pull` make"
)
SUFFIXES: dict[str, Callable[[Path], Artifact | None]] = {
    ".csv": artifact_smears.table,
    ".yaml": artifact_texts.yaml_file,
    ".yml": artifact_texts.yaml_file,
    ".jsonl": artifact_smears.lines,
    ".json": artifact_smears.json_file,
    ".html": artifact_texts.web_page,
    ".py": artifact_texts.plugin_file,
    ".parquet": artifact_files.parquet,
    ".h5ad": artifact_files.features,
    ".skops": artifact_files.estimator,
    ".onnx": lambda path: _onnx(path),
    **dict.fromkeys(WEIGHT_SUFFIXES, artifact_files.weights),
    **dict.fromkeys(IMAGE_SUFFIXES, artifact_files.image),
}


def describe(path: Path) -> Artifact:
    """What a file or folder is.

    Raises: CellfeatError, in one line, for what is absent, damaged, or nothing of ours.
    """
    if path.is_dir():
        found = next(filter(None, (look(path) for look in FOLDERS)), None)
    elif path.is_file():
        found = SUFFIXES.get(path.suffix.lower(), artifact_files.picture)(path)
    else:
        raise CellfeatError(f"{path}: no such file or folder")
    if found is None:
        what = "folder" if path.is_dir() else "file"
        raise CellfeatError(f"{path}: not a {what} that cellfeat knows. It knows {OURS}")
    return found


def _run(folder: Path) -> Artifact | None:
    """A finished run, or what an interrupted one left."""
    if not (folder / RECIPE).is_file():
        return None
    facts = artifact_texts.of_recipe(recipe.parse(recipe.read(str(folder / RECIPE)), str(folder / RECIPE)))
    found = records.read(folder / RECORDS) if (folder / RECORDS).is_file() else []
    facts |= artifact_texts.of_records(found) if found else {"records": 0}
    pipelines = sorted(path.parent.name for path in (folder / PIPELINES).glob(f"*/{PIPELINE}"))
    facts["pipelines"] = pipelines
    if PARTIAL in folder.name or not pipelines:
        name = folder.name.partition(PARTIAL)[0]
        free = name if PARTIAL in folder.name and not folder.with_name(name).exists() else f"{name}-again"
        again = f"cellfeat run --recipe {quoted(folder / RECIPE)} --out {quoted(folder.with_name(free))}"
        return Artifact("run that was interrupted", facts, (again,))
    return Artifact("run", facts, (f"cellfeat report {quoted(folder)}", next_use.of_run(folder)))


def _part_of_run(folder: Path) -> Artifact | None:
    """Its pipelines, or what it keeps for its report."""
    info = (f"cellfeat info {quoted(folder.parent)}",) if (folder.parent / RECIPE).is_file() else ()
    pipelines = sorted(path.parent for path in folder.glob(f"*/{PIPELINE}"))
    if pipelines:
        facts = {"pipelines": [path.name for path in pipelines]}
        return Artifact("pipelines of a run, one for each source", facts, (next_use.of_pipeline(pipelines[0]), *info))
    if folder.name == observation_files.FOLDER and (folder / observation_files.SUMMARY).is_file():
        files = sorted(path.name for path in folder.iterdir())
        report = tuple(f"cellfeat report {quoted(folder.parent)}" for _ in info)
        return Artifact("what a run keeps for its report", {"files": files}, report)
    return None


def _shared(folder: Path) -> Artifact | None:
    """What `hub push --out` and `hub pull` make. Raises: CellfeatError where a file is not what it was."""
    if not (folder / SHARED).is_file():
        return None
    about = read_shared(folder / SHARED, str(folder))
    check_files(folder, about, str(folder))
    told = ("classes", "laboratories", "method", "needs", "saw", "versions")
    facts = {key: about[key] for key in told if about.get(key)} | {"files": len(about["files"])}
    alone = bound_to(about)
    return Artifact(f"shared {about['kind']}", facts | ({"limit": alone} if alone else {}), (of_shared(about, folder),))


def _onnx(path: Path) -> Artifact | None:
    """A backbone of `cellfeat onnx`, by what it says of itself; its graph is read, not run."""
    from cellfeat.onnx_export import read_metadata

    said = read_metadata(path)
    if "cellfeat_version" not in said:
        return None
    return Artifact("backbone as ONNX, for onnxruntime", dict(said))


def _results(folder: Path) -> Artifact | None:
    if not (folder / RECORDS).is_file() or not (folder / CELLS).is_file():
        return None
    facts = artifact_texts.of_records(records.read(folder / RECORDS))
    failures = folder / FAILURES
    facts["failures"] = sum(1 for _ in records.read_lines(failures)) if failures.is_file() else 0
    commands = (f"cellfeat bench list {quoted(folder)}", f"cellfeat bench leaderboard {quoted(folder)} -o site")
    return Artifact("results of a suite", facts, commands)


def _pipeline(folder: Path) -> Artifact | None:
    if not (folder / PIPELINE).is_file():
        return None
    about = read_about(folder)
    facts = artifact_texts.of_recipe(recipe.parse(about["recipe"], f"the recipe in {folder}"))
    facts |= {"classes": about["classes"], "fitted on": about["domains"]}
    if about["facts"].get("made_by"):
        return _from_python(folder, about["facts"]["made_by"], facts)
    confidence = Confidence.read(folder)
    facts |= {} if confidence is None else {"calibration": confidence.said}
    if (folder / REFERENCE).is_file():
        facts |= {artifact_smears.SHARE: artifact_smears.cell_share(folder)}
    predict = next_use.of_pipeline(folder)
    refit = " --refit" if "--refit" in predict else ""
    return Artifact(
        "pipeline of one source", facts, (predict, f"cellfeat transform {quoted(folder)} cells.csv{refit} -o f.h5ad")
    )


def _from_python(folder: Path, maker: str, facts: dict[str, Any]) -> Artifact:
    """What `CellFeatures.save` and its sibling write: it knows neither where its cells lay nor of any protocol."""
    named = {key: value for key, value in facts.items() if key not in ("data", "protocol")}
    takes_images = named["backbone"] != VECTORS
    if not takes_images:
        named |= {"backbone": "none: it takes features", "use": "cellfeat.load(FOLDER) in Python"}
    predict = (f"cellfeat predict {quoted(folder)} IMAGES",) if maker == "CellClassifier" else ()
    transform = f"cellfeat transform {quoted(folder)} cells.csv -o f.h5ad"
    return Artifact(f"{maker}, fitted in Python", named, (*predict, transform) if takes_images else ())


def _adapter(folder: Path) -> Artifact | None:
    if not all((folder / name).exists() for name in ADAPTER):
        return None
    about = _json(folder / ADAPTER[0])
    facts = {key: value for key, value in about.items() if isinstance(value, (str, int, float, list))}
    use = f"--set backbone.weights={quoted(about.get('base', 'NAME'))} --set backbone.adapter={quoted(folder)}"
    return Artifact("adapter of lora-sam", facts, (f"cellfeat run --data cells.csv {use}",))


def _method(folder: Path) -> Artifact | None:
    """What `SavesState` writes, and whoever else uses `save_state`."""
    if not all((folder / name).is_file() for name in (STATE_FILE, TENSOR_FILE)):
        return None
    from safetensors import SafetensorError, safe_open

    meta = _json(folder / STATE_FILE)
    try:
        with safe_open(folder / TENSOR_FILE, "np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CellfeatError(f"{folder} is damaged: {' '.join(str(error).split())}") from None
    facts = {"parameters": meta.get("params", {}), "arrays": len(shapes), "shapes": dict(list(shapes.items())[:12])}
    home = folder.parent
    commands = (f"cellfeat info {quoted(home)}",) if (home / PIPELINE).is_file() else ()
    return Artifact("fitted method", facts, commands)


def _store(folder: Path) -> Artifact | None:
    if not (folder / STORE).is_file():
        return None
    store = Store.at(folder)
    held = {name: len(store.rows(name)) for name in (*COLUMNS, QUALITY)}
    facts = {"images": {name: count for name, count in held.items() if count}, "encoding": store.description}
    named = f"cellfeat convert {quoted(folder)} features.parquet --data cells.csv"
    return Artifact("store of encoded images", facts, (named,) if held[POOLED] else ())


def _stores(folder: Path) -> Artifact | None:
    """The cache, or the stores in it, each of another way of encoding."""
    found = sorted(path.parent for path in (*folder.glob(f"*/{STORE}"), *folder.glob(f"stores/*/{STORE}")))
    names = {path.name: _json(path / STORE).get("backbone") for path in found}
    backbones = {name: said.get("name") if isinstance(said, dict) else said for name, said in names.items()}
    commands = tuple(f"cellfeat info {quoted(path)}" for path in found[:3])
    return Artifact("cache of encoded images", {"stores": backbones}, commands) if found else None


def _plugin(folder: Path) -> Artifact | None:
    """A repository with an entry point of ours, or a package or folder of files with hooks."""
    project = folder / "pyproject.toml"
    if project.is_file():
        try:
            about = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CellfeatError(f"{project} is not TOML: {error}") from None
        points = about.get("entry-points", {}).get("cellfeat")
        if points:
            facts = {"name": about.get("name"), "version": about.get("version"), "entry points": points}
            return Artifact("repository of a plugin", facts, (f"pip install {quoted(folder)}",))
    files = {path.name: artifact_texts.hooks(path) for path in sorted(folder.glob("*.py"))}
    offers = {name: slots for name, slots in files.items() if slots}
    listing = f"cellfeat plugins list --plugins-dir {quoted(folder)}"
    return Artifact("folder of plugins", {"offers": offers}, (listing,)) if offers else None


def _images(folder: Path) -> Artifact | None:
    """A folder of images, or of folders of them: of one for each class, say, and in each of one for each patient."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    classes = {path.name: _count_images(path, 2) for path in inside if path.is_dir()}
    classes = {name: (here, below) for name, (here, below) in sorted(classes.items()) if here + below}
    here, _ = _count_images(folder, 1)
    if not here and not classes:
        return None
    deep = not any(direct for direct, _ in classes.values())
    index = f"cellfeat data index folders {quoted(folder)} --domain {quoted(folder.resolve().name)}"
    index += f"{' --levels class/patient' * deep} -o cells.csv"
    commands: tuple[str, ...] = (index,) if classes else (f"cellfeat predict RUN {quoted(folder)}",)
    tables = sorted(path for path in inside if path.suffix.lower() == ".csv")
    if tables:  # a manifest, it may be
        commands = tuple(f"cellfeat info {quoted(path)}" for path in tables[:3])
    facts = {"images": here, "images in folders": {name: sum(counts) for name, counts in classes.items()}}
    return Artifact("folder of images", facts, commands)


def _count_images(folder: Path, levels: int) -> tuple[int, int]:
    """(images in a folder, images in its folders), looking so many levels deep."""
    here, below = 0, 0
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            here += 1
        elif levels > 1 and path.is_dir() and not path.name.startswith("."):
            below += sum(_count_images(path, levels - 1))
    return here, below


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CellfeatError(f"{path} is damaged: {error}") from None


FOLDERS = (
    *(_shared, _pipeline, _run, _part_of_run, _results, _adapter, _store, _stores, _method, artifact_smears.folder),
    *(_plugin, _images),
)
