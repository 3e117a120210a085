"""Files that a block of other people's code writes where it should not: seen, not stopped.

Python tells of every file that it opens for writing (audit events, PEP 578). Code that is compiled opens files without
telling, `torch.save` and safetensors among it: for its sake the working folder, and folders that the caller names, are
looked through before and after.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# {audit event: which of its arguments are paths, which is the folder (a descriptor) that these are seen from}
EVENTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "open": ((0,), None),
    "os.mkdir": ((0,), 2),
    "os.rename": ((0, 1), 2),
    "os.remove": ((0,), 1),
    "os.rmdir": ((0,), 1),
    "os.link": ((1,), 3),
    "os.symlink": ((1,), 2),
    "os.truncate": ((0,), None),
    "shutil.rmtree": ((0,), None),
}
MUST_EXIST = ("os.remove", "os.rmdir", "shutil.rmtree")  # what is not there cannot be taken away
# Of files that compiled code writes; any other new file may be another program's.
SUFFIXES = frozenset(
    (
        *(".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors", ".onnx", ".h5", ".hdf5", ".model", ".ubj"),
        *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    )
)
SYSTEM = (Path("/dev"), Path("/proc"), Path("/sys"))
# Where libraries are told to keep what they compile, fetch and remember.
CACHE_VARIABLES = (
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "NUMBA_CACHE_DIR"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH", "LOCALAPPDATA"),
)
CACHES = (".cache", ".config", ".matplotlib", ".triton", ".nv", ".keras", "Library/Caches")  # below the home folder
MOST_FILES = 5_000  # looked at in one folder, and no more


@dataclass(eq=False)  # each is itself alone, when it is taken out of the list again
class _Watch:
    """One block that is watched: where it may write, and what it wrote elsewhere."""

    allowed: tuple[Path, ...]
    ignored: tuple[Path, ...]
    work: Path  # the working folder, whose files are nobody's temporary ones even where it lies in a temporary folder
    strangers: frozenset[int]  # threads that ran before
    found: list[Path] = field(default_factory=list)

    def see(self, path: Path) -> None:
        if path not in self.found and self._is_outside(path):
            self.found.append(path)

    def _is_outside(self, path: Path) -> bool:
        if "__pycache__" in path.parts or any(map(path.is_relative_to, self.allowed)):
            return False
        own = path.is_relative_to(self.work)
        return not any(path.is_relative_to(one) and not (own and one in self.work.parents) for one in self.ignored)


_watches: list[_Watch] = []
_lock = threading.Lock()
_listening = False


@contextmanager
def written_outside(allowed: Sequence[Path], beside: Sequence[Path] = ()) -> Iterator[list[Path]]:
    """Yields a list that has, when the block has ended, every path written, made, moved or removed outside `allowed`.

    This thread and threads started in the block are watched; other processes are not. Temporary folders, the caches
    and settings that libraries keep for the user, devices and compiled modules do not count. What Python opens is in
    the list at once; what compiled code wrote follows at the end of the block, and is found in the working folder and
    in the folders `beside` it (and the folders in them), by the usual suffixes of checkpoints and pictures.
    """
    work = Path.cwd().resolve()
    watch = _Watch(
        tuple(folder.resolve() for folder in allowed),
        _libraries(),
        work,
        frozenset(sys._current_frames()) - {threading.get_ident()},
    )
    before = {folder: _listed(folder) for folder in {work, *(folder.resolve() for folder in beside)}}
    _listen()
    with _lock:
        _watches.append(watch)
    try:
        yield watch.found
    finally:
        with _lock:
            _watches.remove(watch)
        for folder, known in before.items():
            for path, state in sorted(_listed(folder).items()):
                if known.get(path) != state:
                    watch.see(path)


def _libraries() -> tuple[Path, ...]:
    """Folders that libraries write to without being asked."""
    named = [Path(os.environ[name]) for name in CACHE_VARIABLES if os.environ.get(name)]
    below: list[Path] = []
    with suppress(RuntimeError):  # a user without a home folder
        below = [Path.home() / name for name in CACHES]
    return tuple({folder.resolve() for folder in (Path(tempfile.gettempdir()), *SYSTEM, *named, *below)})


def _listen() -> None:
    global _listening
    with _lock:  # a hook cannot be taken away again, so there is one, which is idle unless something is watched
        if not _listening:
            sys.addaudithook(_hear)
            _listening = True


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or event not in EVENTS:
        return
    thread = threading.get_ident()
    watches = [watch for watch in tuple(_watches) if thread not in watch.strangers]
    if watches:
        # Whatever goes wrong here would come out of the method's own `open`.
        with suppress(Exception):
            for path in _paths(event, arguments):
                for watch in watches:
                    watch.see(path)


def _paths(event: str, arguments: tuple[Any, ...]) -> Iterator[Path]:
    """The real paths that an event is about to change."""
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
        return
    places, folder = EVENTS[event]
    for place in places:
        given = arguments[place]
        if not isinstance(given, (str, bytes, os.PathLike)):  # a descriptor, opened before
            continue
        path = Path(os.fsdecode(given))
        if not path.is_absolute() and folder is not None and arguments[folder] not in (None, -1):
            continue  # as seen from an open folder; `shutil.rmtree` removes so, and has told the folder itself
        if event == "os.mkdir" and path.is_dir():
            continue  # only made sure to be there
        if event in MUST_EXIST and not os.path.lexists(path):
            continue
        # A link itself is renamed or removed, but what it leads to is opened.
        yield path.resolve() if event in ("open", "os.truncate") else path.parent.resolve() / path.name


def _listed(folder: Path) -> dict[Path, tuple[int, int]]:
    """{file: (time of its last change, size)} of a folder and the folders in it, by SUFFIXES; hidden ones left out."""
    found: dict[Path, tuple[int, int]] = {}
    looked = 0
    for place in [str(folder), *_folders(folder)]:
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                looked += 1
                if looked > MOST_FILES:
                    return found
                path = Path(entry.path)
                if path.suffix.lower() in SUFFIXES and ".partial" not in entry.path:
                    with suppress(OSError):
                        state = entry.stat()
                        found[path] = (state.st_mtime_ns, state.st_size)
    return found


def _folders(folder: Path) -> list[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    return []
