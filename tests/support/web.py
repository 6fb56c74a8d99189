"""A web server on loopback with a folder behind it, which counts what is asked and misbehaves on request."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler", bytes], None]  # answers in place of the server; the bytes are the file


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append((path, self.headers.get("Range", "")))
        file = self.server.folder / unquote(path).lstrip("/")
        fault = self.server.next_fault(path)
        try:
            if fault is not None:
                fault(self, file.read_bytes() if file.is_file() else b"")
            elif file.is_file():
                self.serve(file.read_bytes())
            else:
                self.refuse(404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        file = self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not file.is_file():
            self.refuse(404)
            return
        self.start(200, file.stat().st_size)

    def serve(self, content: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        if match and start >= len(content):
            self.refuse(416)
            return
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if match else {}
        self.start(206 if match else 200, len(content) - start, headers)
        self.wfile.write(content[start:])

    def start(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def refuse(self, status: int) -> None:
        self.start(status, 0)

    def cut(self) -> None:
        """End the connection with a reset, in the middle of whatever it is."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


class Web(ThreadingHTTPServer):
    """`requests` are (path, Range header) of every GET; `faults` are used up one after the other for a path."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self, end: str = ".tar") -> int:
        """Return how often a file with this end was asked for."""
        return sum(path.endswith(end) for path, _ in self.requests)

    def next_fault(self, path: str) -> Fault | None:
        with self._lock:
            faults = self.faults.get(path, [])
            return faults.pop(0) if faults else None


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    web = Web(folder)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        web.server_close()


def status(code: int, headers: dict[str, str] | None = None) -> Fault:
    return lambda handler, content: handler.start(code, 0, headers)


def cut_in_the_middle(handler: Handler, content: bytes) -> None:
    """Half of what was asked for, then the connection ends."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(match[1]) if match else 0
    headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if match else {}
    handler.start(206 if match else 200, len(content) - start, headers)
    handler.wfile.write(content[start : (start + len(content)) // 2])
    handler.cut()


def truncated(handler: Handler, content: bytes) -> None:
    """A body that ends in good order, yet before the Content-Length."""
    handler.start(200, len(content))
    handler.wfile.write(content[: len(content) // 3])
    handler.close_connection = True


def wrong_bytes(handler: Handler, content: bytes) -> None:
    handler.serve(bytes(reversed(content)))


def without_range(handler: Handler, content: bytes) -> None:
    """The whole file, whatever was asked for."""
    handler.start(200, len(content))
    handler.wfile.write(content)


def beginning_elsewhere(handler: Handler, content: bytes) -> None:
    """206, but from an earlier byte than was asked for."""
    handler.start(206, len(content) - 10, {"Content-Range": f"bytes 10-{len(content) - 1}/{len(content)}"})
    handler.wfile.write(content[10:])


def error_page(handler: Handler, content: bytes) -> None:
    page = b"<html><body>Please log in</body></html>"
    handler.start(200, len(page), {"Content-Type": "text/html"})
    handler.wfile.write(page)


def silent(handler: Handler, content: bytes) -> None:
    """Begins, and then says nothing for longer than the tests wait."""
    handler.start(200, len(content))
    handler.wfile.write(content[:100])
    handler.wfile.flush()
    time.sleep(1.5)


def trickling(handler: Handler, content: bytes) -> None:
    """A few bytes at a time, never silent for long."""
    handler.start(200, len(content))
    for start in range(2000):
        handler.wfile.write(content[start : start + 1])
        handler.wfile.flush()
        time.sleep(0.02)


def slow_but_whole(handler: Handler, content: bytes) -> None:
    handler.start(200, len(content))
    for start in range(0, len(content), 2000):
        handler.wfile.write(content[start : start + 2000])
        handler.wfile.flush()
        time.sleep(0.01)
