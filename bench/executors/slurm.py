"""SLURM through submitit: a job array with a task a bundle; or a script to submit by hand."""

from __future__ import annotations

import contextlib
import json
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
except ImportError:
    submitit = None

POLL = 1.0
SETTLE = 15.0
"""Seconds that the files of an ended task may need to show on this host."""

MINUTES = 24 * 60
_SHARED = {"name": str, "mem_gb": float, "nodes": int, "cpus_per_task": int, "gpus_per_node": int}
_OURS = ("cluster", "time")


class Slurm:
    """Submits bundles as tasks of a job array, and waits for them.

    Args:
        workers: tasks at once.
        threads: of each task; it asks for as many CPUs.
        device: "cuda" asks for one GPU a task.
        options: of `sbatch` without their dashes, `time` in minutes; `cluster=local` runs the tasks on this machine.
    """

    def __init__(self, workers: int | None, threads: int | None, device: str, options: Mapping[str, str]) -> None:
        if submitit is None:
            raise Absent("--executor slurm needs the package submitit: pip install 'robustiqa[slurm]'")
        self.options = dict(options)
        self.cluster = self.options.pop("cluster", "slurm")
        if self.cluster not in ("slurm", "local"):
            raise BadParameter(f"--slurm cluster={self.cluster}: expected slurm or local")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise Absent("--executor slurm: there is no sbatch on this machine; run it where jobs are submitted, or "
                         "print the script with --slurm print")  # fmt: skip
        self.options.setdefault("cpus_per_task", str(threads or 1))
        if device == "cuda":
            self.options.setdefault("gpus_per_node", "1")
        self.workers = workers or 4
        self.threads = threads or self._number("cpus_per_task")

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """As `Executor.execute`; tasks that the cluster ended are submitted again."""
        follower = Follower(store.root, job.run)
        left = list(cells)
        for attempt in range(job.retries + 1):
            jobs = self._submit(write_bundles(store.root, job.run, make_bundles(left, self.workers)), store.root)
            try:
                self._wait(jobs, left, store, sink, follower)
            finally:
                for submitted in jobs:
                    if not submitted.done():
                        submitted.cancel(check=False)
            left = unsettled(left, store)
            if not left:
                return
        for cell in left:
            store.write_error(cell.id, error_record(cell, [{"error": "the SLURM task of the cell ended without it, "
                              f"{job.retries + 1} times: see {FOLDER}/slurm", "traceback": ""}]))  # fmt: skip
