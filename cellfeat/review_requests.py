"""The requests of a review's page: what is asked, who may ask it, and what is answered."""

from __future__ import annotations

import json
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cellfeat.decode import ImageError
from cellfeat.errors import CellfeatError

if TYPE_CHECKING:
    from cellfeat.review_server import ReviewServer

SECONDS = 20.0  # that a request may take altogether, and its answer
MOST_BYTES = 1 << 20  # of a request's body
PICTURE = re.compile(r"pictures/([0-9]{1,9})(/large)?")
CLIENT = re.compile(r"[0-9a-f-]{8,64}")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
NO_STEP = "no step of a review: a JSON object with `table`, `client`, `number` and `cells`, or `undo`"
NO_SESSION = (
    "Not open to this browser. `cellfeat review` prints an address that opens the page once; Enter in its terminal "
    "prints a new one."
)


class Refused(Exception):
    """An answer other than what was asked for."""

    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class Handler(BaseHTTPRequestHandler):
    """One request to a connection: nothing waits on a browser that has no more to say."""

    server: ReviewServer
    server_version, sys_version = "cellfeat", ""
    timeout = SECONDS

    def setup(self) -> None:
        super().setup()
        # The time above is for one reading; a client that sends a byte now and then would never be through.
        self._end = threading.Timer(SECONDS, self._hang_up)
        self._end.daemon = True
        self._end.start()

    def finish(self) -> None:
        self._end.cancel()
        super().finish()

    def _hang_up(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has gone by itself
            return

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _not_allowed(self) -> None:
        def refuse() -> None:
            self._check_host()
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST", Allow="GET, POST")

        self._answered(refuse)

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _not_allowed

    def _answered(self, answer: Any) -> None:
        try:
            answer()
        except Refused as refusal:
            self._send(refusal.status, refusal.text, "text/plain; charset=utf-8", **refusal.headers)
        except CellfeatError as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error), "text/plain; charset=utf-8")
        except (ValueError, LookupError, TypeError, RecursionError):
            self._send(HTTPStatus.BAD_REQUEST, NO_STEP, "text/plain; charset=utf-8")
        except TimeoutError:
            self.close_connection = True
        except ConnectionError:
            raise
        except OSError as error:  # the disk is full, or gone
            text = f"not saved: {error.strerror or error}"
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, text, "text/plain; charset=utf-8")

    def _get(self) -> None:
        self._check_host()
        address = urlsplit(self.path)
        if address.path == "/" and address.query:
            self._open(parse_qs(address.query).get("token", [""])[0])
            return
        what = self._below_folder(address.path)
        found = PICTURE.fullmatch(what)
        if what == "":
            page = self.server.page
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8", Content_Security_Policy=self.server.policy)
        elif what == "state":
            self._send_json(self.server.review.state())
        elif found:
            self._send_picture(int(found[1]), large=bool(found[2]))
        elif what in ("decisions", "finish"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only POST", Allow="POST")
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing of this name")

    def _open(self, token: str) -> None:
        if not self.server.takes(token):
            raise Refused(HTTPStatus.FORBIDDEN, NO_SESSION)
        if self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            raise Refused(HTTPStatus.SEE_OTHER, "", Location=self.server.folder, Set_Cookie=self.server.cookie)
        # A link in another page, such as a terminal's, was followed: a redirection would come without the cookie.
        page = f'<!doctype html><meta http-equiv="refresh" content="0;url={self.server.folder}">'
        self._send(HTTPStatus.OK, page, "text/html; charset=utf-8", Set_Cookie=self.server.cookie)

    def _post(self) -> None:
        self._check_host()
        what = self._below_folder(self.path)
        if self.headers.get_all("Origin") != [f"http://{self.headers['Host']}"]:
            raise Refused(HTTPStatus.FORBIDDEN, "from a page of another origin")
        if what not in ("decisions", "finish"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", Allow="GET")
        asked = self._body()
        if what == "finish":
            self._send_json({"reviewed": str(self.server.review.write())})
            self.server.finished.set()
            return
        self._send_json(self._decided(asked))

    def _decided(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take a step that the page asks for: {"table", "client", "number", "cells": [[row, answer], …]} or "undo"."""
        review, client, number = self.server.review, asked["client"], asked["number"]
        if asked["table"] != review.table.digest:
            raise Refused(HTTPStatus.CONFLICT, "this is the page of another table; load it again")
        if not isinstance(client, str) or not CLIENT.fullmatch(client) or type(number) is not int or number < 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "`client` must be a page's own name, `number` a whole number from 1")
        if asked.get("undo") is True:
            return review.undo(client, number)
        cells = {row: answer for row, answer in asked["cells"] if type(row) is int}
        if not cells or len(cells) != len(asked["cells"]):
            raise Refused(HTTPStatus.BAD_REQUEST, "`cells` must be pairs [row, answer] of different rows")
        return review.decide(cells, client, number)

    def _body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,15}", length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "its length must be told")
        if int(length) > MOST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MOST_BYTES} bytes")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, "the request ended too early")
        found = json.loads(data)
        if not isinstance(found, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, NO_STEP)
        return found

    def _check_host(self) -> None:
        """A page elsewhere may give its own name this machine's address; its requests then come with that name."""
        named = self.headers.get_all("Host") or []
        if len(named) != 1 or named[0] not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "of another host")

    def _below_folder(self, path: str) -> str:
        """The rest of a path that belongs to the page, asked for by the browser that has it."""
        if not path.startswith(self.server.folder) or not self.server.knows(self.headers.get("Cookie", "")):
            raise Refused(HTTPStatus.FORBIDDEN, NO_SESSION)
        self.server.has_asked(self.connection)
        return path.removeprefix(self.server.folder)

    def _send_picture(self, row: int, large: bool) -> None:
        if row >= (count := len(self.server.review.table.cells)):
            raise Refused(HTTPStatus.NOT_FOUND, f"the table has {count} rows")
        try:
            self._send(HTTPStatus.OK, *self.server.picture(row, large))
        except ImageError:  # its message quotes the file, which may be any
            raise Refused(HTTPStatus.NOT_FOUND, "no picture of this cell can be read") from None

    def _send_json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value), "application/json")

    def _send(self, status: HTTPStatus, body: str | bytes, kind: str, **headers: str) -> None:
        data = body.encode("utf-8", "replace") if isinstance(body, str) else body
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {**HEADERS, "Content-Security-Policy": NOTHING, **named}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses, as of a line that is no HTTP: without a page that repeats it."""
        self._send(HTTPStatus(code), HTTPStatus(code).phrase, "text/plain; charset=utf-8")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold tokens."""
