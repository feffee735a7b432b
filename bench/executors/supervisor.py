"""Cells one after the other through a runner: tries, records, signs of life. The same for every executor."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunStopped
from ..plan import Cell, read_plan
from ..store import Store
from .cells import Interrupted, Runner, error_record, unsettled
from .child import Child
from .eventlog import EventLog, Sink, this_process
from .job import Job

PAUSE = 1.0
"""Seconds before a failure that may pass is tried again; doubled each time."""


def supervise(
    cells: Iterable[Cell], runner: Runner, job: Job, store: Store, log: EventLog, stopped: Callable[[], bool]
) -> None:
    """Compute cells, whether or not they have a result; one that fails is recorded and the others go on.

    Raises:
        RunStopped: something that no other cell would survive.
    """
    for cell in cells:
        if stopped():
            return
        _one(cell, runner, job, store, log, stopped)


def _one(cell: Cell, runner: Runner, job: Job, store: Store, log: EventLog, stopped: Callable[[], bool]) -> None:
    tries: list[dict[str, Any]] = []
    batch: int | None = None
    while True:
        log.write("start", cell=cell.id, label=cell.label, attempt=len(tries) + 1)
        shown = time.monotonic()

        def tick(text: str) -> None:
            nonlocal shown
            log.beat()
            if text and time.monotonic() - shown >= 1:
                shown = time.monotonic()
                log.write("progress", cell=cell.id, text=text)

        outcome = runner.run(cell, batch, tick)
        details = {"cell": cell.id, "label": cell.label, "seconds": round(outcome.seconds, 3)}
        if outcome.state == "done":
            log.write("done", **details)
            return
        tries.append({"error": outcome.message, "traceback": outcome.traceback, "seconds": outcome.seconds,
                      "host": socket.gethostname(), "batch": batch})  # fmt: skip
        if outcome.state == "fatal":
            log.write("fatal", **details, error=outcome.message)
            raise RunStopped(outcome.message)
        if outcome.state == "failed" or len(tries) > job.retries:
            store.write_error(cell.id, error_record(cell, tries))
            log.write("failed", **details, error=outcome.message)
            return
        log.write("retry", **details, error=outcome.message)
        batch = outcome.batch or batch
        _pause(0 if outcome.fresh else PAUSE * 2 ** (len(tries) - 1), stopped)


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stopped():
            raise Interrupted
        time.sleep(0.1)


def run_bundle(
    out: str, ids: Sequence[str], stopped: Callable[[], bool] = lambda: False, sink: Sink | None = None, name: str = ""
) -> bool:
    """Compute cells of the run in `out` in a child of this process: what a worker on another host does.

    Args:
        out: folder of the run, on a file system that this host shares.
        ids: of the cells.
        stopped: asked twice a second whether to give up.
        sink: told each event.
        name: distinguishes workers of one process.

    Returns:
        Whether it went to the end; False if it was told to stop.

    Raises:
        RunStopped: see `supervise`.
    """
    root = Path(out)
    job, store = Job.read(root), Store(root)
    planned = {cell.id: cell for cell in read_plan(store).cells}
    worker = f"{socket.gethostname()}-{os.getpid()}{name and '-'}{name}"
    with EventLog(root, job.run, worker, sink) as log, Child(root, job, log.path, stopped) as child:
        log.write("worker", show=False, **this_process())
        try:
            supervise(unsettled([planned[i] for i in ids], store, job), child, job, store, log, stopped)
        except Interrupted:
            return False
        finally:
            log.write("end", show=False)
    return not stopped()
