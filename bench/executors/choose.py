"""The executors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..errors import BadParameter, UnknownName
from ..plan import Cell
from ..store import Store
from .eventlog import Sink
from .inline import Inline
from .job import Job
from .local import Local

EXECUTORS = ("inline", "local", "dask", "slurm")


class Executor(Protocol):
    """Where cells are computed.

    Attributes:
        workers: how many cells at once.
        threads: of a worker's torch, or None for what torch takes.
    """

    @property
    def workers(self) -> int: ...  # noqa: D102

    @property
    def threads(self) -> int | None: ...  # noqa: D102

    def execute(self, job: Job, cells: Sequence[Cell], store: Store, sink: Sink) -> None:
        """Compute cells: each has a result or an error file in the store afterwards.

        Only names of folder and cells travel: a worker reads the plan and OUT/job.json, and writes into the store.

        Args:
            job: how, as it stands in the store's folder.
            cells: what is not computed yet.
            store: folder of the run.
            sink: told the events of all workers.

        Raises:
            RunStopped: the run cannot go on. What is complete is kept.
        """
        ...


def choose(
    name: str,
    *,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    slurm: Mapping[str, str] | None = None,
) -> Executor:
    """The executor of that name.

    Args:
        name: one of `EXECUTORS`.
        device: torch device of the cells.
        workers: how many at once; None for as many as the machine or cluster has.
        threads: of each worker.
        scheduler: address of a dask scheduler.
        slurm: options of `sbatch`, and `cluster=local` or `print`.

    Raises:
        BadParameter: a number below 1, or an option that belongs to another executor.
        Absent: the package that it needs is not installed.
    """
    for what, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < 1:
            raise BadParameter(f"{what} {value}: expected at least 1")
    if scheduler and name != "dask":
        raise BadParameter(f"--scheduler belongs to --executor dask, not to {name}")
    if slurm and name != "slurm":
        raise BadParameter(f"--slurm belongs to --executor slurm, not to {name}")

    def dask() -> Executor:
        from .dask import Dask

        return Dask(workers, threads, scheduler)

    def by_slurm() -> Executor:
        from .slurm import Slurm

        return Slurm(workers, threads, device, dict(slurm or {}))

    known: dict[str, Callable[[], Executor]] = {
        "inline": lambda: Inline(workers, threads),
        "local": lambda: Local(workers, threads, device),
        "dask": dask,
        "slurm": by_slurm,
    }
    if name not in known:
        raise UnknownName("executor", name, known)
    return known[name]()
