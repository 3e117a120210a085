"""Files that lie elsewhere: object stores through fsspec, web servers through requests. Errors are one-line `OSError`s.

Which protocols are read is listed here and nowhere else: a manifest that somebody sent must not choose any other.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import time
from pathlib import Path
from typing import Any

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "http": "", "https": "", "memory": ""}
TRIES = 4
PAUSE = 0.5  # s before the second try, doubled for each further one
TIMEOUT = (10.0, 60.0)  # s to connect, and without a byte
BUSY = (429, 500, 502, 503, 504)  # what a web server says when a later try may succeed
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter and a colon is a drive of Windows


class StorageError(OSError):
    """Something elsewhere that cannot be read; the message does not name it."""


def is_url(location: Any) -> bool:
    """Whether this is a string that begins with a protocol; paths are none."""
    return isinstance(location, str) and _URL.match(location) is not None


def located(location: str, folder: Path | str = Path()) -> Path | str:
    """A path, or a URL as a string, as seen from a folder, which may be a URL itself; `file://` is a path.

    Seen from a URL nothing is a path of this machine: what is absolute there is so on the same server.
    """
    if not is_url(location):
        return _below(folder, location) if isinstance(folder, str) else folder / location
    if location.lower().startswith("file://") and not isinstance(folder, str):
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(location).path))
    return location


def parent(url: str) -> str:
    """The folder of a URL, without query and fragment."""
    return re.split(r"[?#]", url, maxsplit=1)[0].rpartition("/")[0]


def _below(folder: str, location: str) -> str:
    protocol, _, rest = folder.partition("://")
    server, _, path = rest.partition("/")
    return f"{protocol}://{server}{posixpath.normpath(posixpath.join('/', path, location))}"


def problem(url: str) -> str | None:
    """Why a URL is not read, by its protocol alone; None when it is."""
    protocol = _protocol(url)
    if protocol == "file":
        return "file:// is a file of this machine, which a manifest from elsewhere may not name"
    if protocol not in PACKAGES:
        return f"{protocol}:// is not read; possible are paths and {', '.join(f'{name}://' for name in PACKAGES)}"
    return None


def read(url: str, limit: int) -> bytes:
    """The bytes of a file elsewhere, at most `limit` and one more, by which the caller sees that it is too large.

    Whatever may pass, a busy server or a lost connection, is tried again a few times.

    Raises: FileNotFoundError; StorageError for a protocol that is not read, a package that is not installed, a lack of
    permission and everything else.
    """
    wrong = problem(url)
    if wrong:
        raise StorageError(wrong)
    if _protocol(url) != "memory" and is_set("CELLFEAT_OFFLINE"):
        raise StorageError("downloads are switched off (--offline or CELLFEAT_OFFLINE)")
    fetch = _fetch_web if _protocol(url) in ("http", "https") else _fetch_object
    for attempt in range(TRIES):
        try:
            return fetch(url, limit)
        except (StorageError, FileNotFoundError):
            raise
        except PermissionError as error:
            raise StorageError(f"no permission ({_one_line(error)}); check the credentials") from None
        except Exception as error:  # each file system has errors of its own
            if attempt == TRIES - 1 or not _may_pass(error):
                raise StorageError(_one_line(error)) from None
        time.sleep(PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def is_set(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no")


def _may_pass(error: Exception) -> bool:
    """Lost connections do; what says that there are no credentials does not."""
    import requests

    return isinstance(error, (OSError, TimeoutError, requests.RequestException)) and not isinstance(error, ValueError)


def _fetch_object(url: str, limit: int) -> bytes:
    protocol = _protocol(url)
    try:
        import fsspec

        system = fsspec.filesystem(protocol)
    except ImportError:
        package = PACKAGES[protocol] or "fsspec"
        raise StorageError(f'{protocol}:// needs the package {package}: pip install "cellfeat[cloud]"') from None
    return system.cat_file(system._strip_protocol(url), start=0, end=limit + 1)


def _fetch_web(url: str, limit: int) -> bytes:
    # fsspec would want aiohttp for it; requests is there, and knows proxies and certificates.
    with _session().get(url, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code in (404, 410):
            raise FileNotFoundError(url)
        if answer.status_code in (401, 403):
            raise PermissionError(f"HTTP {answer.status_code}")
        if answer.status_code in BUSY:
            raise TimeoutError(f"HTTP {answer.status_code} {answer.reason}")
        if answer.status_code != 200:
            raise StorageError(f"HTTP {answer.status_code} {answer.reason}")
        data = bytearray()
        for part in answer.iter_content(1 << 16):
            data += part
            if len(data) > limit:
                break
        return bytes(data[: limit + 1])


@functools.cache
def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for protocol in ("http://", "https://"):
        session.mount(protocol, HTTPAdapter(pool_maxsize=32))
    return session


def _protocol(url: str) -> str:
    found = _URL.match(url)
    return found[1].lower() if found else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
