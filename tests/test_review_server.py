"""The server of a review: open to one browser that came with a token, and to nothing else."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from dataclasses import dataclass

import pytest
from PIL import Image
from reviewing import read, smear_folder

from cellfeat import CellfeatError, api, review_requests
from cellfeat.review_requests import MOST_BYTES
from cellfeat.review_server import MOST_CONNECTIONS


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """Requests as a browser would send them, or not."""

    def __init__(self, server) -> None:
        self.server, self.cookie = server, ""
        self.own = f"127.0.0.1:{server.port}"

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Host": self.own, "Cookie": self.cookie, **named}
        if method == "POST":
            sent = {"Origin": f"http://{self.own}", "Content-Type": "application/json", **sent}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path, body, {name: value for name, value in sent.items() if value})
        found = connection.getresponse()
        answer = Answer(found.status, found.headers, found.read())
        connection.close()
        return answer

    def enter(self) -> Answer:
        answer = self("GET", self.server.new_address().partition(self.own)[2])
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def at(self, name: str) -> str:
        return f"{self.server.folder}{name}"

    def decide(self, number: int, *cells: tuple[int, str], **changed) -> Answer:
        asked = {"table": self.server.review.table.digest, "client": "0123456789abcdef", "number": number}
        return self.step({**asked, "cells": cells, **changed})

    def step(self, asked: dict) -> Answer:
        return self("POST", self.at("decisions"), json.dumps(asked).encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with api.review(smear_folder(tmp_path_factory.mktemp("review") / "smear", 8)) as found:
        yield found


@pytest.fixture
def stranger(server):
    return Client(server)


@pytest.fixture
def client(server):
    found = Client(server)
    found.enter()
    return found


def test_the_token_opens_the_page_once_and_leaves_the_address(server, stranger):
    address = server.new_address()
    assert len(address.partition("token=")[2]) == 43, "256 bits in base 64"
    entered = stranger("GET", address.partition(stranger.own)[2])
    assert (entered.status, entered.headers["Location"]) == (303, server.folder)
    cookie = entered.headers["Set-Cookie"]
    assert "; HttpOnly; SameSite=Strict" in cookie
    assert f"; Path={server.folder};" in cookie
    assert "token" not in server.folder
    again = stranger("GET", address.partition(stranger.own)[2])
    assert (again.status, again.headers["Set-Cookie"]) == (403, None)
    assert b"prints a new one" in again.body
    stranger.cookie = cookie.partition(";")[0]
    page = stranger("GET", server.folder)
    assert page.status == 200
    assert address.partition("token=")[2].encode() not in page.body


def test_an_older_address_is_dead_when_there_is_a_newer_one(server, stranger):
    old, new = server.new_address(), server.new_address()
    assert stranger("GET", old.partition(stranger.own)[2]).status == 403
    assert stranger("GET", new.partition(stranger.own)[2]).status == 303


@pytest.mark.parametrize("query", ["", "?", "?token=", "?token=wrong", "?token=%00%ff", "?other=1"])
def test_without_the_token_nothing_opens(stranger, query):
    assert stranger("GET", f"/{query}").status == 403


@pytest.mark.parametrize("name", ["", "state", "pictures/0", "pictures/0/large", "nothing"])
@pytest.mark.parametrize("cookie", ["", "cellfeat-review=wrong", "cellfeat-review=", "a=b; =;", "cellfeat-review=é"])
def test_without_the_cookie_nothing_is_shown(stranger, name, cookie):
    answer = stranger("GET", stranger.at(name), Cookie=cookie)
    assert (answer.status, b"cellfeat review" in answer.body) == (403, True)


def test_without_the_cookie_nothing_is_saved(server, stranger):
    before = server.review.state()
    assert stranger.decide(1, (0, "unsure")).status == 403
    assert stranger("POST", stranger.at("finish"), b"{}").status == 403
    assert (server.review.state(), server.finished.is_set()) == (before, False)


def test_the_cookie_is_no_good_outside_its_folder(client):
    assert [client("GET", path).status for path in ("/", "/state", "/pictures/0", "/x/state")] == [403] * 4


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "localhost:1", "127.0.0.1.example.org", "[::1]:80"])
def test_a_page_that_took_this_machines_address_is_refused(client, host):
    assert client("GET", client.at(""), Host=host).status == 403
    assert client("POST", client.at("finish"), b"{}", Host=host, Origin=f"http://{host}").status == 403
    assert client("PUT", "/", Host=host).status == 403


def test_this_machines_name_is_its_address(server, client):
    name = f"localhost:{server.port}"
    assert client("GET", client.at("state"), Host=name).status == 200


@pytest.mark.parametrize("origin", ["", "null", "http://example.org", "http://127.0.0.1:1", "https://{own}"])
def test_another_origin_saves_nothing(server, client, origin):
    before = server.review.state()
    body = json.dumps({"table": server.review.table.digest, "client": "a" * 16, "number": 9, "cells": [[0, "unsure"]]})
    answer = client("POST", client.at("decisions"), body.encode(), Origin=origin.format(own=client.own))
    assert (answer.status, server.review.state()) == (403, before)


ELSEWHERE = (
    *("../cells.csv", "pictures/../../cells.csv", "pictures/%2e%2e%2fcells.csv", "cells.csv", "//state"),
    *("pictures/-1", "pictures/8", "pictures/1e0", "pictures/0/huge", "pictures//etc/passwd", "pictures/%D9%A3"),
    "pictures/99999999999",
)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_pictures_are_asked_for_by_row_alone(client, name):
    assert client("GET", client.at(name)).status == 404


def test_pictures_are_images_of_the_table(client):
    small, large = client("GET", client.at("pictures/3")), client("GET", client.at("pictures/3/large"))
    assert [answer.headers["Content-Type"] for answer in (small, large)] == ["image/jpeg", "image/png"]
    assert Image.open(io.BytesIO(large.body)).size == (48, 48)


def test_methods_kinds_and_sizes_that_are_not_asked_for_are_refused(client):
    assert [client("GET", client.at(name)).status for name in ("decisions", "finish")] == [405, 405]
    assert [client("POST", client.at(name), b"{}").status for name in ("", "state", "pictures/0")] == [405] * 3
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PATCH"):
        answer = client(method, client.at(""))
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
    assert client("BREW", client.at("")).status == 501
    at = client.at("decisions")
    assert client("POST", at, b"{}", Content_Type="text/plain").status == 415
    assert client("POST", at, b"a=1", Content_Type="application/x-www-form-urlencoded").status == 415
    assert client("POST", at, None, Content_Length=str(MOST_BYTES + 1)).status == 413
    assert client("POST", at, None, Content_Length="-1").status == 411
    assert client("POST", at, None, Transfer_Encoding="chunked").status == 411


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 5000, b"null", b'{"table": 1}'])
def test_a_body_that_is_no_step_is_refused(client, body):
    assert client("POST", client.at("decisions"), body).status in (400, 409)


def test_a_step_must_be_whole(server, client):
    before = server.review.state()
    assert client.decide(1, (0, "unsure"), table="other").status == 409
    good = {"table": server.review.table.digest, "client": "a" * 16, "number": 1, "cells": [[0, "unsure"]]}
    for changed in ({"client": "x"}, {"client": 1}, {"number": 0}, {"number": True}, {"cells": []}, {"cells": [[0]]}):
        answer = client.step(good | changed)
        assert (answer.status, answer.body[:1] in b"'\"") == (400, False), "a sentence"
    assert client.step({"table": good["table"]}).body.startswith(b"no step of a review: a JSON object with `table`")
    twice = [(0, "unsure"), (0, "unsure")]
    for cells in ([(8, "unsure")], [(-1, "unsure")], [(0, "blast")], [(True, "unsure")], twice):
        assert client.decide(1, *cells).status == 400
    assert server.review.state() == before


def test_headers_leave_nothing_behind_and_let_nothing_in(server, client):
    for answer in (client.enter(), client("GET", client.at("")), client("GET", client.at("state")), client("GET", "/")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "Python" not in answer.headers["Server"]
    assert "unsafe" not in server.policy


def test_a_step_is_on_the_disk_before_it_is_confirmed_and_counts_once(server, client):
    journal = server.review.table.journal
    first = json.loads(client.decide(101, (0, "unsure"), (1, "monocyte")).body)
    assert first["changes"] == [[0, "unsure"], [1, "monocyte"]]
    assert json.loads(journal.read_text().splitlines()[-1])["number"] == 101
    length = journal.stat().st_size
    repeated = json.loads(client.decide(101, (0, "unsure"), (1, "monocyte")).body)
    assert (repeated["repeated"], repeated["steps"], journal.stat().st_size) == (True, first["steps"], length)
    back = json.loads(client.decide(102, undo=True).body)
    assert sorted(back["changes"]) == [[0, ""], [1, ""]]


def test_a_full_disk_is_told_and_the_step_can_be_sent_again(server, client, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        answer = client.decide(201, (2, "unsure"))
    assert (answer.status, answer.body) == (507, b"not saved: No space left on device")
    assert json.loads(client.decide(201, (2, "unsure")).body)["changes"] == [[2, "unsure"]]


def patiently(client: Client, name: str) -> int:
    """The status of an answer, within five seconds."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return client("GET", client.at(name)).status
        except (OSError, http.client.HTTPException):  # all connections were still taken
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_slow_and_many_clients_hold_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(review_requests, "SECONDS", 0.4)
    monkeypatch.setattr(review_requests.Handler, "timeout", 0.4)
    with api.review(smear_folder(tmp_path / "smear", 2)) as server:
        client = Client(server)
        client.enter()
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MOST_CONNECTIONS)]
        stop = threading.Event()

        def trickle() -> None:  # a byte now and then, each soon enough for the time of one reading
            try:
                while not stop.wait(0.1):
                    idle[0].sendall(b"G")
            except OSError:
                return

        feeding = threading.Thread(target=trickle)
        feeding.start()
        feeding.join(timeout=5)
        stop.set()
        assert not feeding.is_alive(), "it was hung up on"
        assert patiently(client, "state") == 200
        for one in idle:
            one.close()


def test_silent_connections_make_room(server, client):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MOST_CONNECTIONS + 6)]
    begun = time.monotonic()
    assert [client("GET", client.at("state")).status for _ in range(3)] == [200] * 3
    assert time.monotonic() - begun < 2
    for one in idle:
        one.close()


def test_two_servers_and_a_port_that_is_taken(server, tmp_path):
    with pytest.raises(CellfeatError, match="is being reviewed by another"):
        api.review(server.review.table.path.parent)
    other = smear_folder(tmp_path / "smear", 2)
    with pytest.raises(CellfeatError, match=f"--port {server.port}: .*; name another one"):
        api.review(other, port=server.port)
    api.review(other).close()  # its lock was given back


def test_finish_writes_the_table_and_ends(tmp_path):
    with api.review(smear_folder(tmp_path / "smear", 2)) as server:
        client = Client(server)
        client.enter()
        client.decide(1, (1, "unsure"))
        answer = client("POST", client.at("finish"), b"{}")
        assert json.loads(answer.body) == {"reviewed": str(tmp_path / "smear" / "reviewed.csv")}
        assert server.wait()
        assert [line["reviewed"] for line in read(tmp_path / "smear" / "reviewed.csv")] == ["", "unsure"]


def test_the_table_is_written_while_the_review_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("cellfeat.review_server.WRITE_EVERY", 0.0)
    with api.review(smear_folder(tmp_path / "smear", 2)) as server:
        server.review.decide({0: "unsure"}, "page", 1)
        assert not server.wait(0)
        assert read(tmp_path / "smear" / "reviewed.csv")[0]["reviewed"] == "unsure"


def test_a_picture_that_is_absent_or_none_is_told(tmp_path):
    folder = smear_folder(tmp_path / "smear", 3)
    (folder / "crops/slide/0000.png").unlink()
    (folder / "crops/slide/0001.png").write_text("secret: no picture")
    with api.review(folder) as server:
        client = Client(server)
        client.enter()
        answers = [client("GET", client.at(f"pictures/{row}")) for row in (0, 1, 2)]
        assert [answer.status for answer in answers] == [404, 404, 200]
        assert b"secret" not in answers[1].body
        assert server.missing == 1
