"""The log of a run: OUT/log/RUN-WORKER.jsonl, one file a worker, one JSON object a line.

Nobody else writes to a worker's file, and a line is one write at its end, so several processes and hosts never mix
lines, and a killed worker leaves at most its last line cut short, which readers pass over.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..files import is_gone, place

Event = dict[str, Any]
Sink = Callable[[Event], object]

FOLDER = "log"
BEAT = 10.0
"""Seconds between signs of life of a worker: the time of its file is set."""

NO_BOARD = "no board"
"""How a run ended whose cells were computed, and whose figures cannot be right."""

KILLED = "killed"
"""How a run ended whose process is gone, and whose log does not say how."""

LOST = 60.0
"""Seconds without one after which a worker counts as lost."""


def this_process() -> dict[str, Any]:
    """What the first event of a log says of the process that writes it; see `writer_gone`."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "place": place()}


def writer_gone(first: Event) -> bool:
    """Whether the process that began a log with this event has ended, as far as this host knows."""
    pid = first.get("pid")
    return isinstance(pid, int) and is_gone(first.get("place"), pid)


class EventLog:
    """Writes the events of one worker; what cannot be written is left out, the results matter more.

    Args:
        out: folder of the run.
        run: its name.
        worker: the worker's name, unique in the run.
        sink: also told each event.
    """

    def __init__(self, out: Path, run: str, worker: str, sink: Sink | None = None) -> None:
        self.path = out / FOLDER / f"{run}-{worker}.jsonl"
        self._worker, self._sink = worker, sink
        self._file: int | None = None
        self._beaten = time.monotonic()
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, event: str, *, show: bool = True, **details: Any) -> None:
        """Add a line; `show` tells the sink, too."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "event": event, "worker": self._worker, **details}
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.write(self._file, (json.dumps(entry, ensure_ascii=False) + "\n").encode())
        if show and self._sink:
            self._sink(entry)

    def beat(self) -> None:
        """Show that the worker is alive, every `BEAT` seconds at most."""
        if time.monotonic() - self._beaten >= BEAT:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)


class Follower:
    """Reads the events that workers have added to the logs of a run since the last look."""

    def __init__(self, out: Path, run: str) -> None:
        self._folder, self._run = out / FOLDER, run
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Event]:
        """The new events, whole lines only."""
        for path in sorted(self._folder.glob(f"{self._run}-*.jsonl")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
                whole = content[: content.rfind(b"\n") + 1]
                self._read[path] = self._read.get(path, 0) + len(whole)
                yield from events_of(whole)


def events_of(content: bytes) -> Iterator[Event]:
    """The events in the bytes of a log; lines that are no JSON object are passed over."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "event" in entry:
                yield entry
