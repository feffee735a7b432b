"""SLURM through submitit: a job array with a task a bundle; or a script to submit by hand."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Absent, BadData, BadParameter, RunStopped, first_line
from ..files import write_json
from ..plan import Cell
from ..store import Store
from .bundles import Bundle, make_bundles
from .cells import error_record, unsettled
from .eventlog import FOLDER, Follower, Sink
from .job import Job
from .supervisor import run_bundle

try:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
except ImportError:
    submitit = None
    FailedJobError = FailedSubmissionError = RuntimeError

POLL = 1.0
SETTLE = 15.0
"""Seconds that the files of an ended task may need to show on this host."""

ASK = 10.0
"""Seconds between questions to the scheduler."""

MINUTES = 24 * 60
_SHARED = {"cpus_per_task": int, "gpus_per_node": int}


class Slurm:
    """Submits bundles as tasks of a job array, and waits for them.

    Args:
        workers: tasks at once.
        threads: of each task; it asks for as many CPUs.
        device: "cuda" asks for one GPU a task.
        options: of `sbatch` without their dashes, `time` in minutes; `cluster=local` runs the tasks on this machine.
    """

    def __init__(self, workers: int | None, threads: int | None, device: str, options: Mapping[str, str]) -> None:
        if submitit is None and "print" not in options:
            raise Absent("--executor slurm needs the package submitit: pip install 'robustiqa[slurm]'")
        self.options = dict(options)
        self.cluster = self.options.pop("cluster", "slurm")
        if self.cluster not in ("slurm", "local"):
            raise BadParameter(f"--slurm cluster={self.cluster}: expected slurm or local")
        self.prints = self.options.pop("print", None) is not None
        if self.cluster == "slurm" and not self.prints and shutil.which("sbatch") is None:
            raise Absent("--executor slurm: there is no sbatch on this machine; run it where jobs are submitted, or "
                         "print the script with --slurm print")  # fmt: skip
        self.options.setdefault("cpus_per_task", str(threads or 1))
        if device == "cuda":
            self.options.setdefault("gpus_per_node", "1")
        self.workers = workers or 4
        self.threads = threads or self._number("cpus_per_task")

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """As `Executor.execute`; tasks that the cluster ended are submitted again."""
        if self.prints:
            raise BadParameter("--slurm print is for `robustiqa run`, and `slurm_script` in Python: leave it out here")
        follower = Follower(store.root, job.run)
        left = list(cells)
        for attempt in range(job.retries + 1):
            name = f"{job.run}-{attempt}"
            count = write_bundles(store.root, name, make_bundles(left, self.workers))
            jobs = self._submit(store.root, name, count)
            try:
                self._wait(jobs, left, sink, follower)
            finally:
                if not self._ended(jobs):
                    for submitted in jobs:
                        submitted.cancel(check=False)
            left = unsettled(left, store, job)
            if not left:
                return
        for cell in left:
            message = f"the SLURM task of the cell ended without it, {job.retries + 1} times: see {FOLDER}/slurm"
            store.write_error(cell.id, error_record(cell, [{"error": message, "traceback": ""}]))

    def _submit(self, out: Path, name: str, count: int) -> list[Any]:
        """Submit the bundles as an array; on this machine, as one task a worker."""
        assert submitit is not None
        executor = submitit.AutoExecutor(folder=out.resolve() / FOLDER / "slurm", cluster=self.cluster)
        try:
            executor.update_parameters(**self._parameters())
            path = str(out.resolve())
            if self.cluster == "slurm":
                with executor.batch():
                    return [executor.submit(Task(path, name, (k,))) for k in range(count)]
            return [
                executor.submit(Task(path, name, tuple(range(k, count, self.workers))))
                for k in range(min(self.workers, count))
            ]
        except (FailedJobError, FailedSubmissionError) as error:
            raise RunStopped(f"sbatch refused the job ({first_line(error)}): check --slurm") from error

    def _parameters(self) -> dict[str, Any]:
        """What submitit calls the options."""
        minutes = self._number("time") if "time" in self.options else MINUTES
        shared = {k: _number(k, v, kind) for k, v in self.options.items() if (kind := _SHARED.get(k))}
        found = {"name": "robustiqa", "timeout_min": minutes, **shared}
        if self.cluster == "slurm":
            others = {k: v for k, v in self.options.items() if k not in (*_SHARED, "time")}
            found |= {"slurm_array_parallelism": self.workers, "slurm_additional_parameters": others}
        return found

    def _number(self, name: str) -> int:
        return _number(name, self.options[name], int)

    def _wait(self, jobs: Sequence[Any], cells: Sequence[Cell], sink: Sink, follower: Follower) -> None:
        """Show events until all tasks have ended, or seem stuck after their last cell."""
        left, asked = {cell.id for cell in cells}, time.monotonic()
        gone: float | None = None
        emptied: float | None = None
        while True:
            time.sleep(POLL)
            for event in follower.new():
                sink(event)
                if event["event"] in ("done", "failed"):
                    left.discard(event["cell"])
                if event["event"] == "fatal":
                    raise RunStopped(event["error"])
            now = time.monotonic()
            if gone is None and now - asked > (ASK if self.cluster == "slurm" and left else 0):
                asked = now
                gone = now if self._ended(jobs) else None
            # The files of a task may show later than its end; and a task ends a little later than its last cell.
            if not left:
                emptied = emptied or now
            if (emptied and (gone or now - emptied > SETTLE)) or (gone and now - gone > SETTLE):
                return

    def _ended(self, jobs: Sequence[Any]) -> bool:
        """Whether SLURM knows none of the tasks any more; it is asked itself, since many have no accounting."""
        if self.cluster == "local":
            return all(job.done() for job in jobs)
        ids = ",".join(sorted({job.job_id.split("_")[0] for job in jobs}))
        try:
            asked = subprocess.run(
                ["squeue", "--noheader", "--jobs", ids], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return False
        if asked.returncode:
            return "Invalid job id" in asked.stderr
        return not asked.stdout.strip()

    def script(self, job: Job, cells: Sequence[Cell], store: Store) -> str:
        """A script for `sbatch` that computes the cells, to submit by hand; writes what it leans on into the folder."""
        out = store.root.resolve()
        count = write_bundles(store.root, job.run, make_bundles(cells, self.workers))
        (out / FOLDER / "slurm").mkdir(parents=True, exist_ok=True)
        options = {
            "job-name": "robustiqa",
            "array": f"0-{max(0, count - 1)}%{self.workers}",
            "output": str(out / FOLDER / "slurm" / "%A_%a.out"),
            "time": str(MINUTES),
            **{k.replace("_", "-"): v for k, v in self.options.items()},
        }
        command = [sys.executable, "-m", "robustiqa.bench.cli", "work", str(out), "--bundles", job.run, "--bundle"]
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH --{key}={shlex.quote(value)}" for key, value in options.items()),
                f"cd {shlex.quote(job.folder)} || exit 1",
                *([f"export PYTHONPATH={shlex.quote(path)}"] if (path := os.environ.get("PYTHONPATH")) else []),
                f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
                "",
            ]
        )


class Task:
    """What a task of the array runs; picklable, and able to be requeued by submitit before a time limit."""

    def __init__(self, out: str, name: str, bundles: tuple[int, ...]) -> None:
        self.out, self.name, self.bundles = out, name, bundles

    def __call__(self) -> None:
        """Compute the bundles."""
        ids = [i for k in self.bundles for i in read_bundle(Path(self.out), self.name, k)]
        run_bundle(self.out, ids, name=str(self.bundles[0]))

    def checkpoint(self) -> Any:
        """The same again: what is complete is passed over."""
        assert submitit is not None
        return submitit.helpers.DelayedSubmission(self)


def write_bundles(out: Path, name: str, bundles: Sequence[Bundle]) -> int:
    """Write the ids of bundles for the tasks of an array; returns their number."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(out / FOLDER / f"{name}.bundles.json", {"bundles": [[cell.id for cell in b] for b in bundles]})
    return len(bundles)


def read_bundle(out: Path, name: str, k: int) -> list[str]:
    """Ids of the cells of bundle k; raises `BadData` if there is none."""
    path = out / FOLDER / f"{name}.bundles.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["bundles"][k]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BadData(f"{str(path)!r} has no bundle {k} ({type(error).__name__}): print the script again") from error


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise BadParameter(f"--slurm {name}={text}: expected {'an integer' if kind is int else 'a number'}") from None
