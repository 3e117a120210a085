"""Files of the Hugging Face hub, kept in its own cache and compared with the SHA-256 that the hub itself tells."""

from __future__ import annotations

from pathlib import Path

from cellfeat.digests import file_sha256
from cellfeat.errors import CellfeatError
from cellfeat.storage import is_set

SHA256_DIGITS = 64  # under which the hub's cache keeps large files; small ones lie under git's 40


def hub_file(place: str, offline: bool | None = None) -> Path:
    """The file `place`, "owner/name/file", from the hub's cache, or downloaded into it.

    Large files are kept under the SHA-256 that the hub told, and compared with it each time. A cache without links
    (Windows) does not keep that digest: there the download's own check has to do.

    Raises:
        CellfeatError: where it is not in the cache and `offline` (None: `CELLFEAT_OFFLINE`), cannot be downloaded, or
            is damaged.
    """
    import huggingface_hub

    repository, _, name = place.rpartition("/")
    try:
        return _checked(Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=True)))
    except FileNotFoundError:
        if is_offline(offline):
            raise CellfeatError(f"{repository} is not in the hub's cache and downloads are switched off") from None
    return _checked(_downloaded(repository, name))


def hub_cached(place: str) -> Path | None:
    """Where the file is on this machine, unread; None where it is not."""
    import huggingface_hub

    repository, _, name = place.rpartition("/")
    found = huggingface_hub.try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def is_offline(offline: bool | None = None) -> bool:
    """`offline`, or where it is None whether the environment forbids downloads."""
    return is_set("CELLFEAT_OFFLINE") if offline is None else offline


def _downloaded(repository: str, name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its retries would print a line each
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=10)  # fails at once where there is no network
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except Exception as error:  # whatever the client raises means the same here
        reason = (str(error).splitlines() or [""])[0]
        raise CellfeatError(f"{repository} could not be downloaded ({type(error).__name__}: {reason})") from error
    finally:
        logging.set_verbosity(verbosity)


def _checked(path: Path) -> Path:
    blob = path.resolve()
    if len(blob.name) == SHA256_DIGITS and blob.name != file_sha256(blob):
        raise CellfeatError(f"{blob} is damaged: its SHA-256 is not its name. Delete it to have it fetched again")
    return path
