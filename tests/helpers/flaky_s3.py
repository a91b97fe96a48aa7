"""An S3 server on loopback (moto's) that fails on purpose: 503s, broken connections, half bodies, delays, silence."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
KINDS = ("refuse", "reset", "half", "lose answer", "delay")
DELAY_SECONDS = 0.2


class FlakyS3:
    """The server: with `faults` set, each request fails in one of the ways of `KINDS` the first time it is made.

    `down` makes every request fail: "refuse" with a 503, "silence" by never answering.
    """

    def __init__(self) -> None:
        self.faults = False
        self.down: str | None = None
        self.injected: list[str] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._seen: set[tuple[str, ...]] = set()
        self._kinds = itertools.cycle(KINDS)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        kind = self._next_fault(environ)
        if kind == "refuse":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if kind == "reset":
            return self._hang_up(environ)
        if kind == "silence":
            self._closing.wait()
            return self._hang_up(environ)
        if kind == "delay":
            time.sleep(DELAY_SECONDS)
        body = b"".join(self._app(environ, start_response))
        if kind == "lose answer":  # the work is done, and the client does not learn of it
            return self._hang_up(environ)
        if kind == "half" and len(body) > 1:
            return self._half(environ, body)
        return [body]

    def _next_fault(self, environ: dict[str, Any]) -> str | None:
        if self.down is not None:
            return self.down
        request = tuple(environ.get(key, "") for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_RANGE"))
        with self._lock:
            if not self.faults or request in self._seen:
                return None
            self._seen.add(request)
            kind = next(self._kinds)
            self.injected.append(kind)
            return kind

    @staticmethod
    def _hang_up(environ: dict[str, Any]) -> list[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return []

    @staticmethod
    def _half(environ: dict[str, Any], body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


class Quiet(WSGIRequestHandler):
    """A request handler that keeps its log to itself."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Answer one connection; what a broken one raises is meant."""
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True
