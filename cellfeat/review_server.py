"""The server of a review's page: this machine alone, one reviewer, nothing without the session's cookie.

An address with a token of 256 bits opens the page once; the browser that comes with it gets the cookie, and the token
is dead. Whoever else asks, another page in the same browser too (a foreign Host or Origin), is refused. The cookie is
for one folder of a random name, because browsers send cookies to every port of a machine.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
import webbrowser
from contextlib import suppress
from functools import lru_cache, partial
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cellfeat import review_page
from cellfeat.errors import CellfeatError
from cellfeat.review import Review
from cellfeat.review_requests import Handler
from cellfeat.review_table import read_table

LOOPBACK = "127.0.0.1"
COOKIE = "cellfeat-review"
TOKEN_BYTES = 32
WRITE_EVERY = 5.0  # s between two reviewed tables, while there are new decisions
SHARE_OF_TIME = 10  # between two of them there is so many times the time that the last one took, and more
SMALL_KEPT = 5_000  # thumbnails in memory, of some 4 kB each
ROOM_WITHIN = 1.0  # s in which a connection that was hung up on has ended
MOST_CONNECTIONS = 64  # at once; a browser opens six


class ReviewServer(ThreadingHTTPServer):
    """Serves one review on 127.0.0.1, in threads, from the moment it is made until `close`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, review: Review, port: int = 0) -> None:
        """port: 0 is any free one. Raises: CellfeatError for a port that is not free."""
        self.review = review
        self.page, self.policy = review_page.render(review.table)
        self._small = lru_cache(SMALL_KEPT)(partial(review_page.small_picture, review.table))
        self.folder = f"/{secrets.token_urlsafe(16)}/"
        self.missing, self.outside = 0, 0  # cells without a picture; those with one elsewhere on this machine
        self.finished, self._wrote = threading.Event(), time.monotonic()
        self._session, self._token = secrets.token_urlsafe(TOKEN_BYTES), ""
        self._guard, self._free = threading.Lock(), threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._strangers: dict[socket.socket, None] = {}  # connections on which the page has asked nothing, oldest first
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CellfeatError(f"--port {port}: {reason}; name another one, or none for any that is free") from None
        self.port = int(self.server_address[1])
        self.hosts = frozenset(f"{name}:{self.port}" for name in (LOOPBACK, "localhost"))
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def new_address(self) -> str:
        """An address that opens the page once; the one before it does no longer."""
        with self._guard:
            self._token = secrets.token_urlsafe(TOKEN_BYTES)
            return f"http://{LOOPBACK}:{self.port}/?token={self._token}"

    def takes(self, token: str) -> bool:
        """Whether this is the token, which is then used up."""
        with self._guard:
            good = bool(self._token) and compare_digest(token.encode(), self._token.encode())
            if good:
                self._token = ""
            return good

    def knows(self, cookies: str) -> bool:
        """Whether these are the cookies of the browser that came with a token."""
        try:
            found = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        return found is not None and compare_digest(found.value.encode(), self._session.encode())

    def picture(self, row: int, large: bool) -> tuple[bytes, str]:
        """A cell's image and its type. Raises: ImageError."""
        if large:
            return review_page.large_picture(self.review.table, row), "image/png"
        return self._small(row), "image/jpeg"

    @property
    def cookie(self) -> str:
        return f"{COOKIE}={self._session}; Path={self.folder}; HttpOnly; SameSite=Strict"

    def wait(self, seconds: float = 1.0) -> bool:
        """Wait a moment, writing the reviewed table now and then; whether the reviewer has finished on the page."""
        ended = self.finished.wait(seconds)
        if not self.review.is_written and time.monotonic() - self._wrote > WRITE_EVERY:
            begun = time.monotonic()
            with suppress(OSError):  # the journal has it; what still is so at the end is told then
                self.review.write()
            # Thousands of cells take seconds to count again, which the page would feel.
            self._wrote = time.monotonic() + SHARE_OF_TIME * (time.monotonic() - begun)
        return ended

    def close(self) -> Path:
        """Stop serving and write the reviewed table, whose path it gives.

        Raises: CellfeatError where the disk takes none.
        """
        self.shutdown()
        self.server_close()
        self.review.close()
        return self.review.table.reviewed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Of socketserver

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False) and not self._makes_room():
            self.shutdown_request(request)
            return
        with self._guard:
            self._strangers[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.has_asked(request)
            self._free.release()
            raise

    def _makes_room(self) -> bool:
        """Hang up on who has been silent longest, so that whoever opens very many connections shuts nobody out."""
        with self._guard:
            if not self._strangers:
                return False
            silent = next(iter(self._strangers))
            del self._strangers[silent]
        with suppress(OSError):  # it has gone by itself
            silent.shutdown(socket.SHUT_RDWR)
        return self._free.acquire(timeout=ROOM_WITHIN)

    def has_asked(self, request: socket.socket) -> None:
        """The page's own browser asks something on this connection, or it is over."""
        with self._guard:
            self._strangers.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.has_asked(request)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no matter; of anything else the handler told the page."""


def start(given: Path, port: int = 0, browser: bool = False) -> ReviewServer:
    """A server of the review of this table. Raises: CellfeatError as reading, locking and serving do."""
    table = read_table(given)
    missing, outside = table.check_pictures()
    review = Review(table)
    try:
        server = ReviewServer(review, port)
    except BaseException:
        review.close()
        raise
    server.missing, server.outside = missing, outside
    if browser:
        webbrowser.open(server.new_address())
    return server
