"""A small Hugging Face hub on the loopback interface: what `huggingface_hub` calls to push and pull models.

Files of weights go by Git LFS, as on the hub, others in the commit itself. All that arrives is kept in `received`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".skops")
TOKENS = {"hf_owner": "me", "hf_stranger": "you"}


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        digests = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
        sha = hashlib.sha1(repr((branch, len(self.commits), digests)).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def sha(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[bytes] = []  # contents of files and bodies, unpacked
        self.asked: list[str] = []  # "METHOD /path"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repositories[repo]
        return found.commits[found.branches[branch]]

    def change(self, repo: str, name: str, content: bytes | None) -> None:
        """Change a file behind everybody's back, as a new commit; None takes it away."""
        files = dict(self.files(repo))
        files.pop(name, None)
        self.repositories[repo].commit("main", files if content is None else {**files, name: content})


@contextmanager
def running() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "refused") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_) -> None:
        pass

    def _do(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                try:
                    return self._send(*answer(self, body, **match.groupdict()))
                except _Refusal as refusal:
                    headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
                    return self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)
        return self._send(404, b"{}", {})

    do_GET = do_HEAD = do_POST = do_PUT = _do

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def readable(self, repo: str) -> Repository:
        found, user = self.server.repositories.get(repo), self.user
        if found is None or (found.private and user != repo.partition("/")[0]):
            raise _Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        return found

    def writable(self, repo: str) -> Repository:
        found = self.readable(repo)
        self.may_write(repo.partition("/")[0])
        return found

    def may_write(self, owner: str | None) -> None:
        if self.user is None:
            raise _Refusal(401, message="Invalid username or password.")
        if owner not in (None, self.user):
            raise _Refusal(403, message=f"You don't have the rights to create a model under the namespace {owner}")

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self.readable(repo)
        sha = found.sha(revision)
        if sha is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, found.commits[sha]


def _json(content, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(content).encode(), {"Content-Type": "application/json"}


def create(handler: _Handler, body: bytes):
    asked = json.loads(body)
    handler.may_write(asked["organization"])
    repo = f"{asked['organization']}/{asked['name']}"
    if repo in handler.server.repositories:
        return _json({"error": "You already created this model repo", "url": f"{handler.server.url}/{repo}"}, 409)
    found = handler.server.repositories[repo] = Repository(asked.get("visibility") == "private")
    found.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return _json({"url": f"{handler.server.url}/{repo}"})


def branch(handler: _Handler, body: bytes, repo: str, name: str):
    found = handler.writable(repo)
    if name in found.branches:
        return _json({"error": "Reference already exists"}, 409)
    found.branches[name] = found.branches["main"]
    return _json({})


def info(handler: _Handler, body: bytes, repo: str, revision: str | None = None):
    sha, files = handler.at(repo, revision or "main")
    about = {"id": repo, "modelId": repo, "sha": sha, "private": handler.server.repositories[repo].private}
    return _json({**about, "tags": [], "siblings": [{"rfilename": name} for name in sorted(files)]})


def validate(handler: _Handler, body: bytes):
    is_card = json.loads(body)["content"].startswith("---\n")
    return _json({"errors": [], "warnings": []}, 200 if is_card else 400)


def preupload(handler: _Handler, body: bytes, repo: str, revision: str):
    handler.writable(repo)
    handler.at(repo, revision)
    handler.server.received += [base64.b64decode(one["sample"]) for one in json.loads(body)["files"]]
    answers = [
        {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular", "shouldIgnore": False}
        for one in json.loads(body)["files"]
    ]
    return _json({"files": answers})


def batch(handler: _Handler, body: bytes, repo: str):
    handler.writable(repo)
    objects = []
    for one in json.loads(body)["objects"]:
        upload = {"upload": {"href": f"{handler.server.url}/storage/{one['oid']}"}}
        objects.append(one if one["oid"] in handler.server.objects else {**one, "actions": upload})
    return _json({"transfer": "basic", "objects": objects})


def store(handler: _Handler, body: bytes, oid: str):
    if hashlib.sha256(body).hexdigest() != oid:
        raise _Refusal(422, message="not the object that was announced")
    handler.server.objects[oid] = body
    handler.server.received.append(body)
    return 200, b"", {}


def commit(handler: _Handler, body: bytes, repo: str, revision: str):
    found = handler.writable(repo)
    sha, files = handler.at(repo, revision)
    files = dict(files)
    handler.server.received.append(body)
    for line in body.splitlines():
        entry = json.loads(line)
        key, value = entry["key"], entry["value"]
        if key == "header" and value.get("parentCommit") not in (None, sha):
            raise _Refusal(412, message="A commit has happened since")
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
            handler.server.received.append(files[value["path"]])
        elif key == "lfsFile":
            files[value["path"]] = handler.server.objects[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]
    new = found.commit(revision, files)
    url = f"{handler.server.url}/{repo}/commit/{new}"
    return _json({"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})


def tree(handler: _Handler, body: bytes, repo: str, revision: str):
    _, files = handler.at(repo, revision)
    return _json([_entry(name, content) for name, content in sorted(files.items())])


def _entry(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
    if name.endswith(LFS):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def resolve(handler: _Handler, body: bytes, repo: str, revision: str, name: str):
    sha, files = handler.at(repo, revision)
    if name not in files:
        raise _Refusal(404, "EntryNotFound", "Entry not found")
    etag = hashlib.sha256(files[name]).hexdigest() if name.endswith(LFS) else _blob(files[name])
    size = str(len(files[name]))
    return 200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "X-Linked-Size": size}


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [
    (("POST",), r"/api/repos/create", create),
    (("POST",), r"/api/validate-yaml", validate),
    (("POST",), rf"/api/models/{REPO}/branch/(?P<name>.+)", branch),
    (("POST",), rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", preupload),
    (("POST",), rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", commit),
    (("GET",), rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)/?", tree),
    (("GET",), rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", info),
    (("GET",), rf"/api/models/{REPO}", info),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", batch),
    (("PUT",), r"/storage/(?P<oid>[0-9a-f]{64})", store),
    (("GET", "HEAD"), rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", resolve),
]
