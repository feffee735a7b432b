"""Connections that end when they are too slow: a timeout alone never ends a server that sends a byte now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from requests.adapters import HTTPAdapter

from .places import human
from .ranges import Cut, Refused


class Pace(HTTPAdapter):
    """What carries the requests of a session, and knows the sockets, so that another thread can end what they wait for.

    Args:
        least: bytes that have to arrive in every
        span: seconds.
    """

    def __init__(self, least: int, span: float) -> None:
        self._least, self._span = least, span
        self._arrived = 0
        self._sockets: list[Any] = []
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, but the sockets of its connections are remembered."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind, sockets = pool.ConnectionCls, self._sockets
        if not getattr(kind, "remembered", False):

            class Remembered(kind):
                remembered = True

                def connect(self) -> None:
                    super().connect()
                    sockets.append(self.sock)

            pool.ConnectionCls = Remembered
        return pool

    def arrived(self, count: int) -> None:
        """So many bytes are here."""
        self._arrived += count

    def answered(self) -> None:
        """The body begins: what it sends counts from now on."""
        self.arrived(self._least)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """While the block runs, end all connections once too little arrives; raises `Cut` if that has happened."""
        over, slow = threading.Event(), threading.Event()

        def watch() -> None:
            before = self._arrived
            while not over.wait(self._span):
                if self._arrived - before < self._least:
                    slow.set()
                    self._end()
                before = self._arrived

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        except (Cut, Refused) as error:
            if slow.is_set():  # then an end that looks like one of the server's is ours
                raise Cut(self._reason) from error
            raise
        finally:
            over.set()
            thread.join()
        if slow.is_set():
            raise Cut(self._reason)

    @property
    def _reason(self) -> str:
        return f"was too slow (less than {human(self._least)} in {self._span:g} s)"

    def _end(self) -> None:
        for held in self._sockets:
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which says goodbye first: another thread is reading from it.
                socket.socket.shutdown(getattr(held, "socket", held), socket.SHUT_RDWR)
