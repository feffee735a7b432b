"""The child's side: `python -m robustiqa.bench.executors.inside OUT` runs the cells that its parent names.

When the parent dies, also by `kill -9`, the child's input ends, and so does the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RobustIQAError
from ..plan import read_plan
from ..store import Store
from .cells import InProcess, Outcome
from .job import Job, SameCells

_PDEATHSIG = 1


def main() -> None:
    """Run cells until there is no more input."""
    # What plug-ins print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _die_with_parent()
    faulthandler.enable()
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    out = Path(sys.argv[1])
    try:
        job = Job.read(out)
        job.enter()
        plan = read_plan(Store(out))
        cells = {cell.id: cell for cell in plan.cells}
        runner = InProcess(job, Store(out), SameCells(out, job, dict(plan.datasets)))
    except RobustIQAError as error:
        _say(answers, outcome=asdict(Outcome("fatal", str(error))))
        return
    _say(answers, ready=True)
    told = time.monotonic()

    def tick(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            _say(answers, tick=text)

    while True:
        request = json.loads(requests.get())
        _say(answers, outcome=asdict(runner.run(cells[request["cell"]], request["batch"], tick)))


def _say(answers: BinaryIO, **what: Any) -> None:
    answers.write(json.dumps(what).encode() + b"\n")


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    # Without a buffer, whose lock would be held when a plug-in ends the interpreter.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            requests.put(line)
    os._exit(1)  # the parent is gone


def _die_with_parent() -> None:
    """Be killed with the parent, even while a library holds the interpreter; and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
