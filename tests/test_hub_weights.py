"""Files of the hub through the hub's real client, from a server on loopback that answers as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from pathlib import Path

import huggingface_hub
import pytest

from cellfeat import CellfeatError, NamedWeights, find_weights
from cellfeat.weights import verify_weights, weights_status

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WEIGHTS = {"far": NamedWeights("far", hub="owner/name/model.bin", size_mb=0.5)}


class Hub(http.server.BaseHTTPRequestHandler):
    """A repository of one large file, whose digest it tells before it sends it."""

    sent = CONTENT
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        known = {"/api/models/owner/name", "/owner/name/resolve/main/model.bin"}
        known.add(f"/owner/name/resolve/{40 * 'c'}/model.bin")
        if self.path.partition("?")[0] not in known:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        is_api = self.path.startswith("/api/")
        content = json.dumps({"id": "owner/name", "sha": 40 * "c"}).encode() if is_api else self.sent
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if not is_api:
            self.send_header("X-Repo-Commit", 40 * "c")
            self.send_header("X-Linked-Etag", f'"{SHA256}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("ETag", f'"{SHA256}"')
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.constants.ENDPOINT"):
            monkeypatch.setattr(name, address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=address))
        monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
        yield Hub
        server.shutdown()


def test_a_file_is_fetched_known_by_its_digest_and_found_again_offline(hub, monkeypatch):
    assert weights_status(WEIGHTS)[0].path is None
    path = find_weights("far", WEIGHTS)
    assert path.read_bytes() == CONTENT
    row = weights_status(WEIGHTS)[0]
    assert (row.path, row.digest) == (path, f"sha256:{SHA256}")
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    assert find_weights("far", WEIGHTS) == verify_weights("far", WEIGHTS) == path


def test_another_file_than_the_digest_says_is_refused(hub, monkeypatch):
    monkeypatch.setattr(Hub, "sent", CONTENT[::-1])
    with pytest.raises(CellfeatError, match=r"'far' are not to be had: "):
        find_weights("far", WEIGHTS)


def test_a_file_that_the_repository_does_not_have_is_one_line(hub):
    absent = {"absent": NamedWeights("absent", hub="owner/name/other.bin")}
    with pytest.raises(CellfeatError, match=r"owner/name could not be downloaded \(") as caught:
        find_weights("absent", absent)
    assert "\n" not in str(caught.value)
