"""How far a run is, from its folder alone: any host that sees it can ask, also while it goes on."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import BadData
from .executors.bundles import weight
from .executors.eventlog import FOLDER, KILLED, LOST, Event, events_of, writer_gone
from .executors.job import NAME, Job
from .plan import Cell, read_plan
from .store import Snapshot, Store


@dataclass(frozen=True)
class Group:
    """Cells of a metric behind a defence: how many are where."""

    metric: str
    defense: str
    done: int
    failed: int
    running: int
    left: int


@dataclass(frozen=True)
class WorkerState:
    """A worker of the present run.

    Attributes:
        name: host, process, and number.
        cell, label: the cell that it has, or "".
        progress: what it said of it last.
        seconds: since it started that cell, by this host's clock; 0 where the clocks disagree.
        alive: whether it gave a sign of life in the last minute, and its process is not known to be gone.
    """

    name: str
    cell: str
    label: str
    progress: str
    seconds: float
    alive: bool


@dataclass(frozen=True)
class Status:
    """What `status` finds.

    Attributes:
        out: the folder.
        active: whether a run holds the folder, or a worker is alive.
        groups: by metric and defence, in the order of the plan.
        workers: of the latest run; none where it is known to be over.
        cells_per_hour: of the latest run, or None before its first cell.
        seconds_left: guess from the time that cells of this run took; None where no run is active.
        ended: how the latest run ended: "complete", "failed", "interrupted", `NO_BOARD`, `KILLED` (tasks of a cluster
            may outlive it: it is active then), or None.
    """

    out: str
    active: bool
    groups: tuple[Group, ...]
    workers: tuple[WorkerState, ...]
    cells_per_hour: float | None
    seconds_left: float | None
    ended: str | None

    def total(self, what: str) -> int:
        """Sum over the groups of done, failed, running or left."""
        return sum(getattr(group, what) for group in self.groups)


def status(out: str | Path) -> Status:
    """How far the run in a folder is; raises `BadData` where there is none."""
    store = Store(out)
    cells = read_plan(store).cells
    there = store.snapshot()
    locked = store.is_locked()  # asked first: what has ended by now has said so in its log
    logs = _latest(store.root)
    events = [event for found in logs.values() for event in found]
    try:
        ended = next((str(event["how"]) for event in reversed(events) if event["event"] == "finished"), None)
        workers = () if ended else tuple(state for path, found in logs.items() if (state := _worker(path, found)))
        alive = sum(state.alive for state in workers)
        active = not ended and (locked or alive > 0)
        if not ended and not locked and any(event["event"] == "run" and writer_gone(event) for event in events):
            ended, workers = KILLED, tuple(state for state in workers if state.alive)
        again = _computed_again(events) if active else set[str]()
        known = {cell.id: cell for cell in cells}
        running = {state.cell for state in workers if state.alive}
        groups, left = _groups(cells, there, again, running)
        rate, seconds = _speed(events, known, left, alive)
        seconds = seconds if active else None
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"a log in {str(store.root / FOLDER)!r} is damaged ({type(error).__name__}): delete it, results "
                      "do not depend on it") from error  # fmt: skip
    return Status(str(out), active, groups, workers, rate, seconds, ended)


def _groups(
    cells: Sequence[Cell], there: Snapshot, again: Collection[str], running: Collection[str]
) -> tuple[tuple[Group, ...], float]:
    """Where the cells are, by metric and defence; and the weight of those that have yet to be computed."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    left = 0.0
    for cell in cells:
        group = groups.setdefault((cell.metric, cell.defense), Counter())
        if cell.id in there.errors:
            group["failed"] += 1
        elif cell.id in there.results and cell.id not in again:
            group["done"] += 1
        else:
            group["running" if cell.id in running else "left"] += 1
            left += weight(cell)
    counts = ("done", "failed", "running", "left")
    return tuple(Group(*names, *(group[k] for k in counts)) for names, group in groups.items()), left


def _computed_again(events: Sequence[Event]) -> set[str]:
    """Cells whose result is one of before, which the run has yet to replace (`--overwrite`)."""
    waiting = {cell for event in events if event["event"] == "run" for cell in event.get("again", ())}
    return waiting - {event["cell"] for event in events if event["event"] in ("done", "failed")}


def _latest(root: Path) -> dict[Path, list[Event]]:
    """Events of the latest run, by file; none where nothing ran, as in a folder that others were united in."""
    found: dict[Path, list[Event]] = {}
    if not (root / NAME).exists():
        return found
    for path in sorted((root / FOLDER).glob(f"{Job.read(root).run}-*.jsonl")):
        try:
            found[path] = list(events_of(path.read_bytes()))
        except OSError as error:
            raise BadData(f"cannot read {str(path)!r} ({error.strerror}): check the folder's permissions") from error
    return found


def _worker(path: Path, events: list[Event]) -> WorkerState | None:
    """What a worker's log says of it; None for the log of the run itself, and for a worker that has ended."""
    if not events or events[0]["event"] != "worker" or events[-1]["event"] == "end":
        return None
    try:
        # Of one clock or of two: one that is wrong, or has gone backwards, must not make a live worker a lost one.
        silent = abs(time.time() - path.stat().st_mtime)
    except OSError:
        silent = LOST
    last = events[-1]
    at_work = last["event"] in ("start", "progress", "retry")
    start = next((e for e in reversed(events) if e["event"] == "start"), {}) if at_work else {}
    return WorkerState(
        name=str(last["worker"]),
        cell=str(start.get("cell", "")),
        label=str(start.get("label", "")),
        progress=str(last.get("text", "")),
        seconds=max(0.0, time.time() - _seconds(start["time"])) if start else 0.0,
        alive=silent < LOST and not writer_gone(events[0]),
    )


def _speed(events: list[Event], cells: dict[str, Cell], left: float, workers: int) -> tuple[float | None, float | None]:
    """Cells an hour in this run, and the seconds that what is left would take at its pace."""
    ended = [e for e in events if e["event"] in ("done", "failed") and e["cell"] in cells]
    known = sum(weight(cells[e["cell"]]) for e in ended)
    if not known:
        return None, None
    times = [_seconds(e["time"]) for e in events]
    elapsed = max(times) - min(times)
    pace = sum(e["seconds"] for e in ended) / known
    return (3600 * len(ended) / elapsed if elapsed > 0 else None), left * pace / max(1, workers)


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
