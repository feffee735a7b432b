"""The command line in a process of its own that is there at once: a copy of this one, which has imported torch.

A new interpreter takes three seconds of CPU to get there. What must start from nothing (a printed command, a worker,
the slow tests of faults) does not use this.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from robustiqa.bench.cli.main import cli


class Copy:
    """A process that runs `robustiqa WORDS`; what it prints is kept, as `said`.

    It can be killed like any other: nothing of it but its files reaches the process that it was copied from.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(list(words), self._said))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end, and return its exit code."""
        self._process.join(seconds)
        assert self.returncode is not None, "it goes on"
        return self.returncode

    @property
    def said(self) -> str:
        """What it has printed, to its output and its error."""
        self._said.seek(0)
        return self._said.read().decode()


def _run(words: list[str], said: IO[bytes]) -> None:
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
    # A test runner ignores what Ctrl-C sends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(words, prog_name="robustiqa")


@contextlib.contextmanager
def copied(words: Sequence[str]) -> Iterator[Copy]:
    """A copy that is killed at the end, if it is still there."""
    copy = Copy(words)
    try:
        yield copy
    finally:
        if copy.returncode is None:
            copy.send(signal.SIGKILL)
            copy.wait()
