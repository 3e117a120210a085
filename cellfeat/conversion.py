"""Features from one form to another without a loss: .parquet, .h5ad, and a store, which knows images by digest alone.

What was computed on one machine need not be computed on another: a file of pooled features holds the whole description
of how they were encoded, and in the cache a run with the same encoding finds them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cellfeat import datasets, provenance
from cellfeat.errors import CellfeatError
from cellfeat.feature_files import DIGEST, FORMS, POOLED, FeatureTable, form_of
from cellfeat.known_files import KnownFiles
from cellfeat.store import ABOUT, QUALITY, Store, cache_folder

CACHE = "cache"  # stands for the stores of this machine's cache
STORES = "stores"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Converted:
    """What was written: `cells` of `width` features into `where`; of a store, how many images it did not have yet, and
    what a run must have in common with it to find them."""

    where: Path
    cells: int
    width: int
    added: int | None = None
    encoding: str = ""
    differs: tuple[str, ...] = ()  # versions here that keep runs of this machine from finding them


def convert(source: Path, out: str, data: str | None = None, labels: str | None = None) -> Converted:
    """Write the features in `source` as `out`: a .parquet or .h5ad file, the folder of a store, or `cache`.

    data: a manifest that gives ids, domains, labels and groups to the images of a store; labels: its vocabulary.

    Raises: CellfeatError for what is no feature file and no store, for files that exist, and for features that must
    not enter a store.
    """
    if not source.exists():
        raise CellfeatError(f"{source}: no such file or folder")
    if source.is_dir():
        table = of_store(source, data, labels)
    elif data is not None or labels is not None:
        raise CellfeatError(f"--data and --labels belong to a store; {source} has ids and labels of its own")
    else:
        table = FeatureTable.read(source)
    if out != CACHE and Path(out).suffix.lower() in FORMS:
        if not source.is_dir() and form_of(source) is form_of(Path(out)):
            raise CellfeatError(f"{source} and {out} have the same form: copy the file")
        table.write(Path(out))
        return Converted(Path(out), len(table), table.width)
    return into_store(table, source, out)


def of_store(folder: Path, data: str | None = None, labels: str | None = None) -> FeatureTable:
    """The pooled vectors of a store: of a manifest's images in its order, or of all, with their digests as ids.

    Raises: CellfeatError for a folder that is no store, one without pooled vectors or without an image of the manifest.
    """
    store = Store.at(folder)
    digests = sorted(store.rows(POOLED))
    if not digests:
        raise CellfeatError(f"the store {folder} has no {POOLED} vectors, which are what a feature file holds")
    nothing = np.full(len(digests), "")
    rows = {"id": np.array(digests), "domain": nothing, "label": nothing, "group": np.array(digests)}
    about: dict[str, Any] = {}
    if data is not None:
        dataset = datasets.check_images(
            datasets.read_manifest(data, labels), known=KnownFiles(cache_folder() / "files.sqlite")
        )
        digests = [] if dataset.image_digest is None else dataset.image_digest.tolist()
        rows = {"id": dataset.id, "domain": dataset.domain, "label": dataset.label_names, "group": dataset.group}
        about["dataset"] = dataset.digest
    elif labels is not None:
        raise CellfeatError("--labels belongs to --data: a store has no labels")
    if not store.missing([QUALITY], digests):
        rows["mask_quality"] = store.column(QUALITY, digests).read(np.arange(len(digests)))
    rows[DIGEST] = np.array(digests)
    about = {**_told(store.description), **about, "versions": provenance.versions()}
    return FeatureTable(rows, store.column(POOLED, digests), about).sealed()


def _told(description: dict[str, Any]) -> dict[str, Any]:
    """A store's description as `cellfeat extract` tells it; what the weights have seen is not known to a store."""
    encoding = {key: value for key, value in description.items() if key != "layout"}

    def part(slot: str) -> dict[str, Any] | None:
        found = encoding.get(slot)
        return {"name": found["name"], **found["parameters"]} if isinstance(found, dict) else None

    return {
        "features": POOLED,
        "backbone": part("backbone"),
        "segmenter": part("segmenter"),
        "weights_sha256": encoding.get("weights_sha256"),
        "weights_saw": None,
        "encoding": encoding,
    }


def into_store(table: FeatureTable, source: Path, out: str) -> Converted:
    """Add pooled vectors to the store in the folder `out`, or to that of their encoding in the cache.

    Images that the store has already stay as they are. Stopped, it goes on where it was.

    Raises: CellfeatError for aligned features, for a file that does not say how and of which images it was made or has
    been changed since, and for a store of another encoding or other vectors.
    """
    _check_enters(table, source)
    open_store = _place(out)
    store = open_store(table.provenance["encoding"])
    digests = table.rows[DIGEST].tolist()
    new = set(store.missing([POOLED], digests))
    for rows, vectors in table.chunks():
        values = {POOLED: vectors}
        if "mask_quality" in table.rows:  # first, so that whoever finds the vector finds this too
            values = {QUALITY: table.rows["mask_quality"][rows].astype(np.float32), **values}
        store.append([digests[row] for row in rows], values)
    store.compact()
    conditions, differs = _conditions(store.description), _differences(store.description) if out == CACHE else ()
    return Converted(store.folder, len(set(digests)), table.width, len(new), conditions, differs)


def _conditions(description: dict[str, Any]) -> str:
    """The parts of an encoding that differ from machine to machine."""
    backbone = description.get("backbone")
    named = {"backbone": backbone.get("name") if isinstance(backbone, dict) else backbone}
    named |= {key: value for key, value in description.items() if isinstance(value, (str, int)) and key != "layout"}
    return ", ".join(f"{key} {str(value)[:12]}" for key, value in named.items() if value is not None)


def _differences(description: dict[str, Any]) -> tuple[str, ...]:
    """Packages of which this machine has another version than the one that encoded."""
    found = []
    for name in set(description) & set(provenance.PACKAGES):
        with suppress(PackageNotFoundError):
            if version(name) != description[name]:
                found.append(f"{name} {description[name]}, here {version(name)}")
    return tuple(sorted(found))


def _place(out: str) -> Callable[[dict[str, Any]], Store]:
    """What opens the store that is meant."""
    if out == CACHE:
        return lambda encoding: Store(cache_folder() / STORES, encoding)
    folder = Path(out)
    if folder.suffix and not folder.is_dir():
        raise CellfeatError(
            f"{out}: features are written as {', '.join(FORMS)}, into the folder of a store, or into `{CACHE}`"
        )
    if folder.exists() and not (folder / ABOUT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CellfeatError(f"{out} is there and is no store (it has no {ABOUT}); choose another name")
    return lambda encoding: Store.at(folder, encoding)


def _check_enters(table: FeatureTable, source: Path) -> None:
    """Refuse what a store must not hold."""
    again = "extract the features again with this cellfeat"
    if table.features != POOLED:
        raise CellfeatError(
            f"{source} holds {table.features} features, which a pipeline has changed; a store holds what a backbone "
            "computed: convert the file that `cellfeat extract` wrote"
        )
    if not isinstance(table.provenance.get("encoding"), dict):
        raise CellfeatError(f"{source} does not say how its features were encoded (no `encoding`); {again}")
    if DIGEST not in table.rows:
        raise CellfeatError(f"{source} does not say of which images its features are (no column {DIGEST}); {again}")
    wrong = next((text for text in table.rows[DIGEST].tolist() if not SHA256.fullmatch(text)), None)
    if wrong is not None:
        raise CellfeatError(f"{source}: {DIGEST} {wrong[:80]!r} is no SHA-256; {again}")
    was, now = table.provenance.get("content_sha256"), table.content_sha256()
    if was != now:
        raise CellfeatError(
            f"{source} has been changed since its features were extracted (content_sha256 {was}, now {now}); {again}"
        )
