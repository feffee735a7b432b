"""`dask.distributed`: any cluster with a scheduler, or worker processes on this machine."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..errors import Absent, RunStopped, first_line
from ..plan import Cell
from ..store import Store
from .bundles import Bundle, make_bundles
from .cells import error_record, unsettled
from .eventlog import Follower, Sink
from .job import Job
from .supervisor import run_bundle

try:
    import distributed
except ImportError:
    distributed = None

POLL = 0.5
WAIT = 60.0
"""Seconds that a scheduler, or its first worker, is waited for."""

FRUITLESS = 3
"""Rounds without a single new result or error after which the cluster is given up."""


class Dask:
    """Submits bundles as tasks; each runs in a child of a dask worker, one for each of the worker's threads."""

    def __init__(self, workers: int | None, threads: int | None, scheduler: str | None) -> None:
        if distributed is None:
            raise Absent("--executor dask needs the package distributed: pip install 'robustiqa[dask]'")
        self.scheduler = scheduler
        cores = 1 if scheduler else torch.get_num_threads()
        self.workers = workers or max(1, cores // (threads or 1))
        self.threads = threads or max(1, cores // self.workers)
        self._given = workers

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """As `Executor.execute`; a scheduler that is lost is looked for again, for a minute."""
        follower, deaths = Follower(store.root, job.run), Counter[str]()
        left, fruitless = list(cells), 0
        with _quiet():
            while left:
                if fruitless == FRUITLESS:
                    raise RunStopped(f"the dask workers gave no result for {len(left)} cells: see their logs, and run "
                                     "again; what is complete is kept")  # fmt: skip
                with self._client() as client:
                    self._round(client, job, left, store, sink, follower, deaths)
                rest = unsettled(left, store, job)
                fruitless = fruitless + 1 if len(rest) == len(left) and not deaths else 0
                left = rest
        for event in follower.new():
            sink(event)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """A client with at least one worker; its tasks end with it."""
        assert distributed is not None
        with contextlib.ExitStack() as stack:
            where: Any = self.scheduler
            if where is None:
                quiet: Any = {"memory_limit": 0, "dashboard_address": None}
                cluster = distributed.LocalCluster(n_workers=self.workers, threads_per_worker=1, **quiet)
                where = stack.enter_context(cluster)
            try:
                client = distributed.Client(where, timeout=WAIT, set_as_default=False)
                stack.callback(client.close, timeout=5)
                client.wait_for_workers(1, timeout=WAIT)
            except (OSError, TimeoutError, ValueError) as error:
                raise RunStopped(
                    f"no dask scheduler with workers at {self.scheduler} ({first_line(error)}): start it, and run the "
                    "same command again; what is complete is kept"
                ) from error
            yield client

    def _round(
        self,
        client: Any,
        job: Job,
        cells: list[Cell],
        store: Store,
        sink: Sink,
        follower: Follower,
        deaths: Counter[str],
    ) -> None:
        """Submit all cells; ends when no task is left, or the scheduler is lost."""
        bundles = make_bundles(cells, self._given or sum(client.nthreads().values()))
        out = str(store.root.resolve())
        futures = {client.submit(_task, out, [c.id for c in b], pure=False): b for b in bundles}
        try:
            while futures:
                time.sleep(POLL)
                for event in follower.new():
                    sink(event)
                if client.status != "running" or any(f.status in ("cancelled", "lost") for f in futures):
                    return
                for future in [f for f in futures if f.status in ("finished", "error")]:
                    bundle = futures.pop(future)
                    if future.status == "error":
                        _failed(future.exception(), bundle, job, store, deaths)
        finally:
            if futures and client.status == "running":
                with contextlib.suppress(Exception):  # the scheduler may be gone all the same
                    client.cancel(list(futures), asynchronous=False)


def _failed(error: BaseException | None, bundle: Bundle, job: Job, store: Store, deaths: Counter[str]) -> None:
    """Blame the death of several workers on the first cell that is not settled; other errors end the run."""
    assert distributed is not None
    if isinstance(error, RunStopped):
        raise error
    if not isinstance(error, distributed.KilledWorker):
        raise RunStopped(
            f"a dask worker cannot run cells ({type(error).__name__}: {first_line(error or Exception())}): install the "
            "same robustiqa and distributed there as here"
        )
    for cell in unsettled(bundle, store, job)[:1]:
        deaths[cell.id] += 1
        if deaths[cell.id] > job.retries:
            message = "the dask workers that computed the cell died, each time"
            store.write_error(cell.id, error_record(cell, [{"error": message, "traceback": str(error)}]))


def _task(out: str, ids: Sequence[str]) -> None:
    """What a dask worker runs; it ends early when the task is cancelled or the worker closes."""
    assert distributed is not None
    worker = distributed.get_worker()
    key = worker.get_current_task()
    working = (distributed.Status.running, distributed.Status.paused)

    def stopped() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status not in working

    if not run_bundle(out, ids, stopped, name=f"{abs(hash(key)) % 10**6:06d}"):
        raise distributed.Reschedule


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave lost connections to the one sentence that the run says about them."""
    loud = ("distributed", "asyncio", "tornado")
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in loud]
    loggers = [logger for name in names if not (logger := logging.getLogger(name)).disabled]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        gc.collect()  # asyncio reports what nobody waited for when it is thrown away
        for logger in loggers:
            logger.disabled = False
