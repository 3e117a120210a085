"""Downloads that go on where they broke off, from the first mirror that works; pooch checks and names the file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cellfeat.digests import WrongDigestError, check_digest
from cellfeat.errors import CellfeatError

ATTEMPTS = 3  # per mirror, each going on from what has arrived
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 1 << 16  # bytes; what is lost at most when a connection breaks

ProgressBar = Callable[[int | None, str], AbstractContextManager[Any]]


def download(urls: tuple[str, ...], digest: str, path: Path, name: str, progress: ProgressBar | None = None) -> Path:
    """Fetch a file to `path` unless it is there with the right digest.

    Args:
        urls: mirrors, tried in order. digest: "algorithm:hexadecimal". name: for messages.

    Raises:
        CellfeatError: when no mirror gives the file; says what went wrong with each.
    """
    import pooch
    import requests
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    with FileLock(f"{path}.lock"), _quiet_pooch():  # two processes that append to one part would spoil it
        for url in urls:
            fetch = ResumingDownloader(path.with_name(f"{path.name}.part"), digest, name, progress)
            try:
                found = pooch.retrieve(url, digest, fname=path.name, path=path.parent, downloader=fetch)
                return Path(found)
            except (requests.RequestException, OSError, CellfeatError) as error:
                failures.append(f"{url}: {_reason(error)}")
    raise CellfeatError(
        f"the weights {name!r} could not be downloaded. {'; '.join(failures) or 'No address is known'}. "
        f"A file fetched by other means can be put at {path}"
    )


def _reason(error: Exception) -> str:
    """One short line: without a connection, requests tells of pools and retries before it says what was wrong."""
    import requests

    if not isinstance(error, requests.ConnectionError):
        return str(error)
    inner = error.args[0] if error.args else error
    return f"no connection ({str(getattr(inner, 'reason', inner)).rpartition(': ')[2]})"


class ResumingDownloader:
    """For pooch: collects into `part`, asks for the rest only, and checks the digest before handing the file over."""

    def __init__(self, part: Path, digest: str, name: str, progress: ProgressBar | None = None) -> None:
        self.part, self.digest, self.name = part, digest, name
        self.progress = progress or (lambda total, text: nullcontext(_Silent()))

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        resumed = self.part.is_file() and self.part.stat().st_size > 0
        self._collect(url)
        try:
            self._verify()
        except CellfeatError:
            if not resumed:
                raise
            self._collect(url)  # the old part was of another file: once more from the start
            self._verify()
        self.part.replace(output_file)

    def _verify(self) -> None:
        """Put a wrong file aside, so that it is neither used nor continued, and say what it was."""
        try:
            check_digest(self.part, self.digest)
        except WrongDigestError as error:
            aside = self.part.with_suffix(".wrong")
            self.part.replace(aside)
            raise WrongDigestError(f"{error} (kept as {aside})".replace(str(self.part), "what arrived")) from None

    def _collect(self, url: str) -> None:
        """Fill the part, picking up after a broken connection."""
        import requests

        for attempt in range(ATTEMPTS):
            try:
                return self._append(url)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if attempt == ATTEMPTS - 1:
                    raise

    def _append(self, url: str) -> None:
        import requests

        have = self.part.stat().st_size if self.part.is_file() else 0
        asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is left to send: the digest decides
            answer.raise_for_status()
            continues = answer.status_code == requests.codes.partial_content
            if not continues:
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            with (
                self.part.open("ab" if continues else "wb") as file,
                self.progress(total, f"fetching {self.name}") as bar,
            ):
                bar.advance(have)
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.advance(len(chunk))


class _Silent:
    def advance(self, n: int = 1) -> None:
        pass


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """pooch reports every download at level INFO; the progress bar says it better."""
    import pooch

    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
