"""Saving what was fitted: atomic files and folders, safetensors for arrays, skops for scikit-learn; never a pickle."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import numpy as np

from cellfeat.errors import CellfeatError
from cellfeat.trusted_types import refused

if TYPE_CHECKING:
    import torch

STATE_FILE, TENSOR_FILE = "state.json", "state.safetensors"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write to the path that is yielded; it takes the final name only when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial{path.suffix}")
    partial.touch(exist_ok=False)
    mode = partial.stat().st_mode  # as the umask has it; safetensors puts a file that is its owner's alone in its place
    try:
        yield partial
        partial.chmod(mode)
        with partial.open("rb+") as file:  # after a power cut too, the name has the whole content or none
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, keep: bool = True) -> Iterator[Path]:
    """Fill the folder that is yielded; it takes the final name, which must be free, when the block ends well.

    keep: False throws the content away, for a process that works along with the one that keeps it.
    """
    path = Path(path)
    if path.exists():
        raise CellfeatError(f"{path} exists and is never overwritten; choose another name or move it away")
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if keep:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_state(folder: Path, tensors: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> None:
    """Write arrays or tensors (`state.safetensors`) and JSON values (`state.json`) into a folder."""
    from safetensors.numpy import save_file

    with atomic_file(Path(folder) / TENSOR_FILE) as path:
        save_file({name: _as_array(name, value) for name, value in tensors.items()}, path)
    with atomic_file(Path(folder) / STATE_FILE) as path:
        path.write_text(json.dumps(dict(meta or {}), indent=1, sort_keys=True, default=_as_json))


def _as_array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.array(value, order="C")  # safetensors stores the memory of a contiguous array as it lies
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is an array of {array.dtype}, but numbers alone can be saved; keep it as a list")
    return array


def _as_json(value: Any) -> Any:
    if isinstance(value, np.generic):  # np.float32 or np.int64, which JSON does not know
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved as JSON; keep arrays, numbers, strings, lists of them")


def load_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save_state` wrote: (arrays, meta)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in (TENSOR_FILE, STATE_FILE):
        if not (folder / name).is_file():
            raise CellfeatError(f"{folder} has no {name}: it is not a saved method, or its copy is incomplete")
    try:
        return load_file(folder / TENSOR_FILE), json.loads((folder / STATE_FILE).read_text())
    except (SafetensorError, ValueError) as error:
        raise CellfeatError(f"{folder} is damaged: {' '.join(str(error).split())}") from error


def load_module(folder: Path, module: torch.nn.Module) -> dict[str, Any]:
    """Fill a module with the tensors of a folder, strictly, and return the JSON values beside them."""
    import torch

    arrays, meta = load_state(folder)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return meta


class SavesState:
    """Mixin: save and load for a method that keeps scikit-learn's conventions.

    Constructor arguments are stored under their own names; whatever fit learned ends in an underscore and is an
    array, a JSON value or a dictionary of arrays by string. A tensor is saved too, and comes back as an array.
    """

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if not name.endswith("_") or name.startswith("_"):
                continue
            if _is_array(value):
                arrays[name] = value
            elif isinstance(value, dict) and value and all(_is_array(item) for item in value.values()):
                arrays |= {f"{name}/{key}": item for key, item in value.items()}
            else:
                values[name] = value
        save_state(folder, arrays, {"params": self._params(), "values": values})

    def _params(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "context"]
        absent = [name for name in names if name not in vars(self)]
        if absent:  # a copy built with the default instead would answer differently, and say nothing
            raise TypeError(f"{type(self).__name__} must keep its argument {absent[0]} as self.{absent[0]} to be saved")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, folder: Path) -> Self:
        arrays, meta = load_state(folder)
        method = cls(**meta["params"])
        for name, value in meta["values"].items():
            setattr(method, name, value)
        for name, array in arrays.items():
            attribute, _, key = name.partition("/")
            if key:
                vars(method).setdefault(attribute, {})[key] = array
            else:
                setattr(method, attribute, array)
        return method


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def save_estimator(estimator: Any, path: Path) -> None:
    """A fitted scikit-learn (or XGBoost) object as a skops file."""
    import skops.io

    with atomic_file(path) as partial:
        skops.io.dump(estimator, partial)


def load_estimator(path: Path, trust: Collection[str] = ()) -> Any:
    """Read a skops file; what is not trusted is refused by name, and nothing is built.

    Trusted are basic types, arrays, scikit-learn's public estimators, and what fitted classifiers of scikit-learn and
    XGBoost are made of. trust: more of them by their whole names; or beginnings of names, as in ("my_package.",), by
    which classes that have their home there are trusted, and functions never.

    Raises: CellfeatError for other types, and for a file that is none of skops.
    """
    import skops.io

    try:
        types = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # of a ZIP, of JSON, or of skops, for a file that somebody made up
        raise CellfeatError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None
    foreign = [name if name.isprintable() else ascii(name) for name in refused(types, trust)]
    if foreign:
        raise CellfeatError(f"{path} holds types that are not trusted: {', '.join(foreign)}; it was not loaded")
    return skops.io.load(path, trusted=types)
