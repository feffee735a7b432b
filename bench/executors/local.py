"""Worker processes on this machine: one a device, or the CPU's threads divided between them."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from ..plan import Cell
from ..store import Store
from .bundles import make_bundles
from .cells import Interrupted
from .child import Child
from .eventlog import Event, EventLog, Sink, this_process
from .job import Job
from .supervisor import supervise


class Local:
    """Runs cells in children of this process, each of which is watched by a thread here."""

    def __init__(self, workers: int | None, threads: int | None, device: str) -> None:
        self.devices = visible_devices() if device == "cuda" else []
        cores = torch.get_num_threads()
        self.workers = workers or len(self.devices) or max(1, cores // (threads or 1))
        self.threads = threads or max(1, cores // self.workers)

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """As `Executor.execute`."""
        work, stop, lock = Work(make_bundles(cells, self.workers)), threading.Event(), threading.Lock()
        errors: list[BaseException] = []
        ended = [threading.Event() for _ in range(min(self.workers, len(cells)))]

        def show(event: Event) -> None:
            with lock:
                sink(event)

        def watch(k: int) -> None:
            name = f"{socket.gethostname()}-{os.getpid()}-{k}"
            pinned = {"CUDA_VISIBLE_DEVICES": self.devices[k % len(self.devices)]} if self.devices else {}
            try:
                with (
                    EventLog(store.root, job.run, name, show) as log,
                    Child(store.root, job, log.path, stop.is_set, pinned) as child,
                ):
                    log.write("worker", show=False, **this_process(), **pinned)
                    supervise(work.of(k), child, job, store, log, stop.is_set)
                    log.write("end", show=False)
            except Interrupted:
                pass
            except BaseException as error:
                errors.append(error)
                stop.set()
            finally:
                ended[k].set()

        watchers = [threading.Thread(target=watch, args=(k,)) for k in range(len(ended))]
        try:
            for watcher in watchers:
                watcher.start()
            # Not `join`: where a signal's handler raises in it, Python 3.11 takes the running thread for ended
            # (python/cpython#90882), and this process would go before the children are gone.
            for end in ended:
                while not end.wait(0.2):  # returns to Python, so that a signal is seen
                    pass
        finally:
            stop.set()
            for watcher, end in zip(watchers, ended, strict=True):
                if watcher.ident is not None:
                    end.wait()
        if errors:
            raise errors[0]


class Work:
    """Hands out the cells of bundles; a worker that has none left takes half of what another one has."""

    def __init__(self, bundles: Sequence[Sequence[Cell]]) -> None:
        self._waiting = deque(deque(bundle) for bundle in bundles)
        self._held: dict[int, deque[Cell]] = {}
        self._lock = threading.Lock()

    def of(self, worker: int) -> Iterator[Cell]:
        """The cells of one worker, one after the other."""
        while (cell := self._next(worker)) is not None:
            yield cell

    def _next(self, worker: int) -> Cell | None:
        with self._lock:
            own = self._held.setdefault(worker, deque())
            if not own and self._waiting:
                own = self._held[worker] = self._waiting.popleft()
            if not own:
                longest = max(self._held.values(), key=len)
                for _ in range((len(longest) + 1) // 2):
                    own.appendleft(longest.pop())
            return own.popleft() if own else None


def visible_devices() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [str(k) for k in range(torch.cuda.device_count())]
