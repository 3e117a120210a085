"""Adapters, pipelines and methods on the Hugging Face hub, or a server that speaks like it (`HF_ENDPOINT`).

Tokens are the hub's own: `HF_TOKEN`, or what `hf auth login` left. With `CELLFEAT_OFFLINE=1` or `HF_HUB_OFFLINE=1`
nothing is sent, and only what the hub's cache has is pulled.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat.artifacts import atomic_folder
from cellfeat.errors import CellfeatError
from cellfeat.model_card import write_card
from cellfeat.registry import Registry
from cellfeat.shared_folder import ABOUT, CARD, Shared, check_files, read_shared, write_about
from cellfeat.sharing import Wishes, prepare
from cellfeat.slots import Reporter
from cellfeat.storage import is_set

PUBLIC = "https://huggingface.co"
ALWAYS_THERE = (".gitattributes", CARD)  # in a repository that the hub, or a person on its page, has begun
REPO = re.compile(r"[\w.-]+/[\w.-]+")


class Pushed(NamedTuple):
    """What was sent, or would be.

    files: (path, bytes). kept_back: (path, reason). names: of laboratories and classes that it tells. about: its
    cellfeat.json. url: of the commit; None if nothing was sent. not_searched: for what the files could not be searched.
    """

    files: list[tuple[str, int]]
    kept_back: list[tuple[str, str]]
    names: list[str]
    about: dict[str, Any]
    url: str | None
    not_searched: str = ""


class Pulled(NamedTuple):
    """What came: its cellfeat.json, the commit, and whether the hub was asked or its cache alone."""

    about: dict[str, Any]
    commit: str
    from_cache: bool


def push(
    source: Path,
    repo: str,
    wishes: Wishes,
    registry: Registry,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    out: Path | None = None,
) -> Pushed:
    """Prepare a folder with its card and send it as one commit; out: keep the folder under this name.

    dry_run: send nothing, and ask no server. revision: a branch, which is made where it is absent.

    Raises:
        CellfeatError: for what cannot be shared, a repository with other things in it, one that is public though
            `private` was asked for, and whatever the server refuses, in one line each.
    """
    _check_repo(repo)
    if not dry_run and is_offline():
        raise CellfeatError("pushing needs the network, which CELLFEAT_OFFLINE or HF_HUB_OFFLINE has switched off")
    with atomic_folder(out) if out is not None else tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shared = prepare(source, folder, wishes)
        write_card(shared, repo, wishes, registry)
        write_about(shared)
        url = None if dry_run else _send(shared, repo, private, revision)
        return Pushed(shared.files, shared.kept_back, shared.names, shared.about, url, shared.not_searched)


def pull(repo: str, out: Path, revision: str | None = None, reporter: Reporter | None = None) -> Pulled:
    """Fetch what cellfeat pushed into the new folder `out`, which appears when every file is there and is what it was.

    Raises:
        CellfeatError: for a repository that is not there, may not be read or was not pushed by cellfeat; damaged files;
            pickles; and without network, what the hub's cache does not have.
    """
    _check_repo(repo)
    with atomic_folder(out) as partial, _bars():
        commit, from_cache = _fetched(repo, revision, partial)
        if from_cache and reporter is not None:
            reporter.note(f"{repo} is taken from the hub's cache, commit {commit[:8]}: the hub was not asked")
        about = read_shared(partial / ABOUT, repo)
        try:
            check_files(partial, about, repo)
        except CellfeatError as error:
            again = f"If it is the hub's cache that is damaged: hf cache rm model/{repo}, and pull again"
            raise CellfeatError(f"{error}. {again}") from None
    return Pulled(about, commit, from_cache)


def is_offline() -> bool:
    """Whether the user has switched the network off."""
    return is_set("CELLFEAT_OFFLINE") or is_set("HF_HUB_OFFLINE")


def endpoint() -> str:
    """Where the hub is: `HF_ENDPOINT`, else huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or PUBLIC


def _check_repo(repo: str) -> None:
    if not REPO.fullmatch(repo):
        raise CellfeatError(f"{repo!r} is no repository of the hub: it is written OWNER/NAME, as in my-lab/blood-cells")


def _client() -> Any:
    import huggingface_hub

    return huggingface_hub.HfApi(endpoint=endpoint(), library_name="cellfeat")


def _send(shared: Shared, repo: str, private: bool, revision: str | None) -> str:
    """One commit with all files, and without those that an earlier push had and this one has not; gives its address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    client = _client()
    with _told(repo, revision), _bars():
        client.create_repo(repo, private=private or None, exist_ok=True)
        if revision not in (None, "main"):
            client.create_branch(repo, branch=revision, exist_ok=True)
        info = client.repo_info(repo, revision=revision)
        if private and not info.private:
            raise CellfeatError(
                f"{repo} exists and is public, so that --private would change nothing; nothing was sent. Make it "
                f"private at {endpoint()}/{repo}/settings, or name another"
            )
        there = {one.rfilename for one in info.siblings or ()}
        stale = _stale(client, shared, repo, info.sha, there)
        operations: list[Any] = [CommitOperationAdd(name, str(shared.folder / name)) for name, _ in shared.files]
        operations += [CommitOperationDelete(name) for name in stale]
        message = f"{shared.kind} by cellfeat {shared.about['versions']['cellfeat']}"
        done = client.create_commit(repo, operations, commit_message=message, revision=revision, parent_commit=info.sha)
    return str(done.commit_url)


def _stale(client: Any, shared: Shared, repo: str, commit: str, there: set[str]) -> list[str]:
    """Files of an earlier push that are not in this one. What cellfeat did not push is never touched."""
    if ABOUT not in there:
        foreign = sorted(there - set(ALWAYS_THERE))
        if foreign:
            raise CellfeatError(
                f"{repo} has files that cellfeat did not push ({', '.join(foreign[:3])}) and no {ABOUT}; nothing was "
                "sent. Name another repository"
            )
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = client.hf_hub_download(repo, ABOUT, revision=commit, local_dir=folder)
        old = read_shared(Path(path), repo)
    if old["kind"] != shared.kind:
        raise CellfeatError(
            f"{repo} has a shared {old['kind']}, and this is another kind ({shared.kind}): name another repository"
        )
    return sorted((set(old["files"]) & there) - {name for name, _ in shared.files})


def _fetched(repo: str, revision: str | None, folder: Path) -> tuple[str, bool]:
    """Fill the folder from the hub or its cache; gives (commit, whether only the cache was asked)."""
    client, from_cache = _client(), is_offline()
    with _told(repo, revision):
        if not from_cache:
            try:
                client.repo_info(repo, revision=revision)
            except Exception as error:
                if not _is_unreachable(error):
                    raise
                from_cache = True
        local = {"local_files_only": from_cache}
        place = Path(client.snapshot_download(repo, revision=revision, allow_patterns=[ABOUT, CARD], **local))
        if not (place / ABOUT).is_file():
            raise CellfeatError(f"{repo} has no {ABOUT}: it was not pushed by cellfeat, or to another revision")
        names = [*read_shared(place / ABOUT, repo)["files"], ABOUT, CARD]
        client.snapshot_download(repo, revision=place.name, allow_patterns=names, **local)
    for name in names:
        if (place / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place / name, folder / name)
    return place.name, from_cache


@contextmanager
def _bars() -> Iterator[None]:
    """The client's progress bars on a terminal alone."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from cellfeat.console import messages

    if messages.is_terminal or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether the server could not be reached; the client's transport is another package in another version."""
    while error is not None:
        home = type(error).__module__.partition(".")[0]
        if isinstance(error, (ConnectionError, TimeoutError)):
            return True
        if home in ("httpx", "httpx2", "requests") and not hasattr(error, "response"):
            return True
        error = error.__cause__
    return False


@contextmanager
def _told(repo: str, revision: str | None) -> Iterator[None]:
    """What the client raises, as one line: what was wrong and what helps."""
    from huggingface_hub import errors

    try:
        yield
    except CellfeatError:
        raise
    except errors.HfHubHTTPError as error:
        raise CellfeatError(_refused(repo, revision, error)) from None
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise CellfeatError(_refused(repo, revision, error.__cause__)) from None
        raise CellfeatError(
            f"{repo} is not whole in the hub's cache, and {_why_not()}. Pull it once where there is a network"
        ) from None
    except errors.HFValidationError as error:
        raise CellfeatError(f"{repo!r} is no repository of the hub: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:
        if _is_unreachable(error):
            raise CellfeatError(f"{endpoint()} cannot be reached ({type(error).__name__}); nothing was sent") from None
        if isinstance(error, (ValueError, RuntimeError)):  # the server's answer, or a file that it did not take
            raise CellfeatError(f"{repo}: {' '.join(str(error).split())[:300]}") from None
        raise


def _why_not() -> str:
    if is_offline():
        return "downloads are switched off (CELLFEAT_OFFLINE, HF_HUB_OFFLINE or --offline)"
    return f"{endpoint()} cannot be reached"


def _refused(repo: str, revision: str | None, error: Any) -> str:
    """The server's refusal by its number."""
    from huggingface_hub import errors, get_token

    status = error.response.status_code
    token = "" if get_token() else " No token is set: HF_TOKEN=…, or `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; its page lists them: {endpoint()}/{repo}/tree/main"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: ask for access at {endpoint()}/{repo}.{token}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"no repository {repo} at {endpoint()}, or it is private and may not be read with this token.{token}"
    if status == 401:
        return f"{endpoint()} does not know who asks (401).{token or ' The token is wrong or has expired.'}"
    if status == 403:
        return f"{endpoint()} refuses {repo} (403): the token may not write there, or not in that name.{token}"
    if status == 412:
        return f"{repo} was changed by somebody else at the same time (412); push again"
    return f"{endpoint()} answered {status}: {' '.join(str(error).split())[:200]}"
