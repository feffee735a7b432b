"""The default executor: one cell after the other in this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import torch

from ..errors import BadParameter
from ..plan import Cell
from ..store import Store
from .cells import InProcess
from .eventlog import EventLog, Sink, this_process
from .job import Job
from .supervisor import supervise


class Inline:
    """Runs cells in this process, without children: nothing to start, and nothing between a crash and the run."""

    def __init__(self, workers: int | None, threads: int | None) -> None:
        if workers not in (None, 1):
            raise BadParameter(f"--executor inline has one worker, not {workers}: use --executor local")
        self.workers, self.threads = 1, threads

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """As `Executor.execute`."""
        if job.cell_timeout:
            raise BadParameter("--cell-timeout needs a process that can be stopped: add --executor local")
        before = torch.get_num_threads()
        if job.threads:
            torch.set_num_threads(job.threads)
        try:
            with EventLog(store.root, job.run, f"{socket.gethostname()}-{os.getpid()}", sink) as log:
                log.write("worker", show=False, **this_process())
                supervise(cells, InProcess(job, store), job, store, log, lambda: False)
                log.write("end", show=False)
        finally:
            torch.set_num_threads(before)
