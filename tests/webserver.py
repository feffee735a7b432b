"""A web server and a full disk for the tests of downloads: ranges, versions, and everything that goes wrong."""

from __future__ import annotations

import contextlib
import re
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file and how it is served: `codes` are answered first, `cuts` end a connection after so many bytes each, a
    range begins `shift` bytes beside the one that was asked for; `drip` seconds lie between any two bytes of what comes
    after `cuts` (or of the headers, with `drip_headers`), and the connection stays open."""

    content: bytes
    etag: str | None = None
    modified: str | None = None
    ranges: bool = True
    obeys_if_range: bool = True
    codes: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    length: int | None = None
    shift: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    drip: float = 0.0
    drip_headers: bool = False


@dataclass
class Web:
    """What the server gives by path, and the requests it had: path, Range and If-Range."""

    url: str
    files: dict[str, Served] = field(default_factory=dict)
    log: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    def add(self, path: str, content: bytes, **how: object) -> str:
        """Serve a file; returns its address."""
        self.files[path] = Served(content, **how)  # type: ignore[arg-type]
        return self.url + path

    def ranges(self) -> list[str | None]:
        """The ranges that were asked for."""
        return [asked for _, asked, _ in self.log]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
        self.web.log.append((self.path, wanted, version))
        file = self.web.files.get(self.path)
        if file is None or file.codes:
            self.send_response(file.codes.pop(0) if file else 404)
            self._end({"Content-Length": "0", "Connection": "close", **(file.headers if file else {})})
            return
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        stale = file.obeys_if_range and version is not None and version not in (file.etag, file.modified)
        start = int(match[1]) + file.shift if match and file.ranges and not stale else None
        size = len(file.content)
        if start is not None and start >= size:
            self.send_response(416)
            self._end({"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        self.send_response(200 if start is None else 206)
        body = file.content[start or 0 :]
        headers = dict(file.headers)
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        for name, value in (("ETag", file.etag), ("Last-Modified", file.modified)):
            if value:
                headers[name] = value
        cut = file.cuts.pop(0) if file.cuts else None
        if file.drip and file.drip_headers:
            self._drip(b"X-Slow: ".ljust(2000, b"."), file.drip)
        self._end({"Content-Length": str(file.length or len(body)), "Connection": "close", **headers})
        self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if file.drip and cut is not None:
            self._drip(body[cut : cut + 2000], file.drip)
        if file.hold:
            file.hold.wait(20)
        self.close_connection = True

    def _drip(self, content: bytes, seconds: float) -> None:
        """Send byte by byte, until the client hangs up."""
        self.flush_headers()
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(seconds)

    def _end(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: that a client hangs up is part of the tests."""


@contextlib.contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Web]:
    """A server on this machine while the block runs."""
    handler = type("Handler", (_Handler,), {})
    with _Quiet((host, 0), handler) as server:
        web = Web(f"http://{host}:{server.server_port}")
        handler.web = web  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield web
        finally:
            for file in web.files.values():
                if file.hold:
                    file.hold.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes: as on a full disk, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
