"""What does the runner cost beside the cells themselves? A table in Markdown; Linux; about SECONDS x PAIRS x 3.

    python examples/measure_runner.py [SECONDS] [PAIRS]    a cell takes about SECONDS (10); so many of each (10)

Cells are attacks on `tiny-iqa`. Each is computed in turn by the bare loop (`Worker.run` alone), by the inline runner
(tries, log, progress, a result file that is synced) and by the runner of `--executor local` (the same in a child, which
is watched), so that other work on the machine disturbs all alike. CPU time is of the process and its child.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from robustiqa.bench.display import Display
from robustiqa.bench.executors.cells import InProcess, Runner
from robustiqa.bench.executors.child import Child
from robustiqa.bench.executors.eventlog import EventLog
from robustiqa.bench.executors.job import Job
from robustiqa.bench.executors.supervisor import supervise
from robustiqa.bench.plan import Cell, make_plan
from robustiqa.bench.run import slurm_script
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.bench.worker import Worker

STEPS = 20


def suite_of(steps: int) -> Suite:
    """One image, one attack of so many steps."""
    return Suite.model_validate(
        {
            "name": "overhead",
            "metrics": ["tiny-iqa"],
            "defenses": ["none"],
            "datasets": ["photos[size=128,subset=references]"],
            "attacks": [{"attack": f"pgd[steps={steps}]", "linf": ["4/255"]}],
            "chunk": 1,
        }
    )


def attack_cell(suite: Suite) -> Cell:
    """Its first cell that is an attack."""
    return next(cell for cell in make_plan(suite).cells if cell.kind == "attack")


def steps_for(seconds: float) -> int:
    """Steps of an attack that takes so long here."""
    cell, worker = attack_cell(suite_of(STEPS)), Worker()
    worker.run(cell)
    began = time.perf_counter()
    worker.run(cell)
    return max(1, round(STEPS * seconds / (time.perf_counter() - began)))


def cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[], object], pids: Callable[[], list[int]]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    before, began = sum(map(cpu, pids())), time.perf_counter()
    run()
    return time.perf_counter() - began, sum(map(cpu, pids())) - before


def measure(seconds: float, pairs: int, out: Path) -> dict[str, np.ndarray]:
    """(pairs, 2) wall and CPU seconds of each way."""
    torch.set_num_threads(1)
    suite = suite_of(steps_for(seconds))
    slurm_script(suite, out, threads=1)  # plans into the folder, and computes nothing
    store, job, cell = Store(out), Job.read(out), attack_cell(suite)
    bare = Worker()

    def through(runner: Runner, log: EventLog) -> Callable[[], None]:
        def run() -> None:
            store.forget(cell.id)
            supervise([cell], runner, job, store, log, lambda: False)

        return run

    def pids() -> list[int]:
        return [os.getpid(), *([child.pid] if child.pid else [])]

    with (
        Display(1, [cell], False) as display,
        EventLog(out, job.run, "inline", display) as a,
        EventLog(out, job.run, "local", display) as b,
        Child(out, job, b.path, lambda: False) as child,
    ):
        ways = {
            "bare loop": lambda: bare.run(cell),
            "inline": through(InProcess(job, store), a),
            "local": through(child, b),
        }
        for run in ways.values():
            run()  # the first one loads
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for k in range(pairs):
            for name in np.roll(list(ways), k):
                found[name].append(timed(ways[name], pids))
    return {name: np.array(values) for name, values in found.items()}


def table(found: dict[str, np.ndarray]) -> Iterator[str]:
    """Medians, and the median ratio of pairs."""
    bare = found["bare loop"]
    yield "| | wall, s | CPU, s | wall over bare | CPU over bare |"
    yield "|---|---:|---:|---:|---:|"
    for name, values in found.items():
        wall, busy = np.median(values, axis=0)
        more = np.median(values / bare, axis=0)
        yield f"| {name} | {wall:.3f} | {busy:.2f} | {more[0]:.4f} | {more[1]:.4f} |"


def main(seconds: float, pairs: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        for line in table(measure(seconds, pairs, Path(folder) / "out")):
            print(line)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(float(given.get(0, 10)), int(given.get(1, 10)))
