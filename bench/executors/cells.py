"""One try of one cell, and how it ended."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import RobustIQAError, RunStopped
from ..faults import fault_of
from ..objective import told
from ..plan import Cell
from ..store import Store
from ..worker import Worker
from .eventlog import Follower
from .job import Job, SameCells

State = Literal["done", "failed", "again", "fatal"]
Tick = Callable[[str], object]
"""Told what of the present cell is done, such as "40% of draws"."""


@dataclass(frozen=True)
class Outcome:
    """How a try ended.

    Attributes:
        state: "done"; "failed": it would fail again; "again": it may pass if tried again; "fatal": the run must stop.
        message: what went wrong, in a sentence.
        traceback: where.
        seconds: wall clock of the try.
        batch: most images at once in a further try, where memory was short; or None.
        fresh: whether the process that computed it must be replaced.
    """

    state: State
    message: str = ""
    traceback: str = ""
    seconds: float = 0.0
    batch: int | None = None
    fresh: bool = False


class Interrupted(Exception):
    """A runner was told to stop in the middle of a cell."""


class Runner(Protocol):
    """What runs cells: in this process, or in a child of it."""

    def run(self, cell: Cell, batch: int | None, tick: Tick) -> Outcome:
        """Try a cell and write its result; `batch` is the most images at once where memory was short before."""
        ...


class InProcess:
    """Runs cells in this process.

    Args:
        job: how.
        store: where results go.
        same: compares each cell's id with what this process would call it; needless in the planner's.
    """

    def __init__(self, job: Job, store: Store, same: SameCells | None = None) -> None:
        self.store = store
        self._tick: Tick = lambda text: None
        self._images, self._forwards = job.save_images, 0
        self._worker = Worker(job.device, store.root / "pools", self._draws, job.batch, job.save_images)
        self._same = same

    def run(self, cell: Cell, batch: int | None, tick: Tick) -> Outcome:
        """As `Runner.run`; every exception becomes an outcome."""
        self._tick, self._forwards = tick, 0
        began = time.perf_counter()
        try:
            if self._same:
                self._same.check(cell, self._worker.dataset(cell.dataset))
            with told(self._passes):
                rows = self._worker.run(cell, batch)
        except RunStopped as error:
            return Outcome("fatal", str(error), traceback.format_exc())
        except Exception as error:
            return _failed(error, time.perf_counter() - began)
        try:
            if self._images and cell.kind == "attack":
                images = {row["image"]: row["adversarial"] for row in rows if "adversarial" in row}
                self.store.write_images(cell.id, images)
            self.store.write_cell(cell.id, rows)
        except RobustIQAError as error:
            again = fault_of(error) == "transient"
            return Outcome("again" if again else "fatal", str(error), traceback.format_exc())
        return Outcome("done", seconds=time.perf_counter() - began)

    def _draws(self, n: int, of: int) -> None:
        self._tick(f"{100 * n // of}% of draws")

    def _passes(self, forwards: int) -> None:
        self._forwards += forwards
        self._tick(f"{self._forwards} passes")


def _failed(error: Exception, seconds: float) -> Outcome:
    fault = fault_of(error)
    message = str(error) if isinstance(error, RobustIQAError) else f"{type(error).__name__}: {error}"
    if fault == "memory":
        message = f"out of memory with one image at a time, on {socket.gethostname()}: {message}"
    states: Mapping[str, State] = {"fatal": "fatal", "transient": "again", "device": "again"}
    return Outcome(states.get(fault, "failed"), message, traceback.format_exc(), seconds, fresh=fault == "device")


def unsettled(cells: Sequence[Cell], store: Store, job: Job) -> list[Cell]:
    """Those of the cells that have neither a result nor an error of this run.

    Results from before are told from new ones by the logs, where a run replaces them; the run has removed old errors.
    """
    if job.redo:
        events = Follower(store.root, job.run).new()
        settled = {event["cell"] for event in events if event["event"] in ("done", "failed")}
    else:
        settled = store.completed(cell.id for cell in cells)
    return [cell for cell in cells if cell.id not in settled and not store.has_error(cell.id)]


def error_record(cell: Cell, tries: list[dict[str, Any]]) -> dict[str, Any]:
    """What OUT/errors keeps of a cell that failed: the last error, and every try."""
    return {
        "cell": vars(cell),
        "error": tries[-1]["error"],
        "traceback": tries[-1]["traceback"],
        "tries": [{k: v for k, v in entry.items() if k != "traceback"} for entry in tries],
    }
