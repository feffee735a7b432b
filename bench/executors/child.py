"""The parent's side of a child process that runs cells, so that whatever befalls it costs the try of one cell.

The parent writes a JSON line a try to the child's standard input, and reads the answers from its standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import RunStopped
from ..plan import Cell
from .cells import Interrupted, Outcome, Tick
from .job import Job

POLL = 0.25
STARTING = 600.0
"""Seconds in which a child must have imported what it needs: a cold network file system takes minutes."""

TAIL = 2000
"""Characters of a dead child's last words that are kept."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Child:
    """A `Runner` whose cells run in a child process, which is replaced when it dies or does not answer in time.

    Args:
        out: folder of the run.
        job: how.
        log: path of the worker's log; what the child prints goes beside it.
        stopped: asked whether to give up.
        pinned: environment of the child, such as the device that it may see.
    """

    def __init__(
        self, out: Path, job: Job, log: Path, stopped: Callable[[], bool], pinned: Mapping[str, str] | None = None
    ) -> None:
        self._out, self._job, self._stopped = out, job, stopped
        self._words = log.with_suffix(".stderr")
        threads = dict.fromkeys(_THREADS, str(job.threads)) if job.threads else {}
        path = os.pathsep.join(p for p in sys.path if p)
        self._environment = {**os.environ, **threads, **(pinned or {}), "PYTHONPATH": path}
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._said = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def pid(self) -> int | None:
        """Of the child's process, if there is one now."""
        return self._process.pid if self._process else None

    def run(self, cell: Cell, batch: int | None, tick: Tick) -> Outcome:
        """As `Runner.run`; a death or a silence of the child is an outcome that may be tried again."""
        began = time.monotonic()
        self._said = self._words.stat().st_size if self._words.exists() else 0
        try:
            answer = self._ready(tick)
            if answer is None:
                answer = self._ask({"cell": cell.id, "batch": batch}, self._job.cell_timeout, tick)
        except TimeoutError as error:
            self.kill()
            return Outcome("again", str(error), self._tail(), time.monotonic() - began, fresh=True)
        if answer is None:
            return self._died(batch or self._job.batch or cell.stop - cell.start, time.monotonic() - began)
        outcome = Outcome(**answer)
        if outcome.fresh:
            self.kill()
        return outcome

    def kill(self) -> None:
        """End the child and what it started, at once."""
        if self._process is None:
            return
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it leads its own session
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process = None

    def _ready(self, tick: Tick) -> dict[str, Any] | None:
        """Start the child if there is none; what it answered instead of being ready, or None.

        Raises:
            RunStopped: it cannot start at all, and another one could not either.
        """
        if self._process is not None and self._process.poll() is None:
            return None
        self.kill()
        self._answers = answers = queue.SimpleQueue()
        with self._words.open("ab") as words:
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.inside", str(self._out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
        threading.Thread(target=_listen, args=(process, answers), daemon=True).start()
        answer = self._wait(STARTING, "its process did not start", tick)
        if answer is None and process.wait() > 0:
            words = self._tail() or "it said nothing"
            raise RunStopped(f"a worker process could not start (exit code {process.returncode}): {words}")
        return answer and answer.get("outcome")

    def _ask(self, request: dict[str, Any], limit: float | None, tick: Tick) -> dict[str, Any] | None:
        """What the child answers to a request; None if it died."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        answer = self._wait(limit, "the cell did not end", tick)
        return answer and answer["outcome"]

    def _wait(self, limit: float | None, what: str, tick: Tick) -> dict[str, Any] | None:
        """The next answer; None if the child died. Raises `TimeoutError` after `limit` seconds."""
        until = time.monotonic() + (limit or float("inf"))
        while True:
            if self._stopped():
                self.kill()
                raise Interrupted
            if time.monotonic() > until:
                raise TimeoutError(f"{what} within its time limit of {limit:g} s, and was stopped")
            try:
                answer = self._answers.get(timeout=POLL)
            except queue.Empty:
                tick("")
                continue
            if answer is None or "tick" not in answer:
                return answer
            tick(answer["tick"])

    def _died(self, batch: int, seconds: float) -> Outcome:
        """The outcome of a try that the child did not survive."""
        assert self._process is not None
        code = self._process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        smaller = None
        if -code == getattr(signal, "SIGKILL", None) and batch > 1:
            # What the kernel's out-of-memory killer does; the next try takes fewer images at once.
            smaller = (batch + 1) // 2
        return Outcome("again", f"the process that computed the cell died {how}", self._tail(), seconds, smaller, True)

    def _tail(self) -> str:
        """The end of what the child said during this try."""
        with contextlib.suppress(OSError), self._words.open("rb") as words:
            words.seek(self._said)
            # faulthandler lists a hundred modules after what matters.
            lines = [line for line in words.read().splitlines() if not line.startswith(b"Extension modules:")]
            return b"\n".join(lines)[-TAIL:].decode(errors="replace").strip()
        return ""


def _listen(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass on the child's answers, and None at their end."""
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        for line in process.stdout:
            answers.put(json.loads(line))
    answers.put(None)
