"""`run_suite`: plan, run what is missing, collect."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .display import Display
from .errors import BadData, BadParameter
from .executors.choose import Executor, choose
from .executors.eventlog import EventLog
from .executors.job import Job
from .files import write_json
from .interrupt import terminable
from .plan import Cell, Plan, make_plan
from .provenance import run_record
from .registry import PACKAGE, resolve_target
from .store import DEFAULT_OVERWRITE, Overwrite, Store
from .suite import Suite, load_suite

COLLECT = f"{PACKAGE}.leaderboard.collect:collect"
"""What turns result files into tables; named here, not imported: bench does not depend on the leaderboard."""


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        out: folder of the results.
        tables: paths of the CSV and Markdown tables.
        computed, resumed: cells run now, and found complete.
        failed: cells without a result, with their error.
        bad_images: error rows inside completed cells.
        skipped: what the plan left out, and why.
    """

    out: Path
    tables: dict[str, Path]
    computed: int
    resumed: int
    failed: dict[str, str]
    bad_images: int
    skipped: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether every planned image of every cell has a result."""
        return not self.failed and not self.bad_images


def run_suite(
    suite: Suite | str,
    out: str | Path,
    *,
    device: str = "cpu",
    progress: bool = True,
    executor: str = "inline",
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    slurm: Mapping[str, str] | None = None,
    overwrite: Overwrite = DEFAULT_OVERWRITE,
    cell_timeout: float | None = None,
    retries: int = 2,
    batch: int | None = None,
    save_images: bool = False,
) -> RunResult:
    """Run a suite into a folder, or go on with one that was interrupted, and write its tables.

    Args:
        suite: a suite, the name of one that comes with the package, or the path of a YAML file.
        out: folder of the results; completed cells in it are kept if they are the same in every respect.
        device: torch device of the metric and the defences.
        progress: show a bar on a terminal, a line a cell otherwise.
        executor: "inline" (this process), "local" (processes on this machine), "dask" or "slurm".
        workers: cells at once; None for as many as there are devices, or CPUs for their threads.
        threads: of each worker; None divides the CPU's.
        scheduler: address of a dask scheduler; None starts workers on this machine.
        slurm: options of `sbatch`.
        overwrite: what is computed again, see `Store.todo`.
        cell_timeout: seconds after which a try of a cell is given up; not for "inline".
        retries: further tries of a cell whose failure may pass: its process died, a file server did not answer.
        batch: most images at once; results depend on it up to float rounding.
        save_images: keep attacked images in OUT/images.

    Raises:
        RobustIQAError: the suite cannot be planned, an option is impossible, or the run had to stop (`RunStopped`).
        KeyboardInterrupt: Ctrl-C, or SIGTERM (`Terminated`); what is complete is kept.
    """
    suite = load_suite(suite) if isinstance(suite, str) else suite
    chosen = choose(executor, device=device, workers=workers, threads=threads, scheduler=scheduler, slurm=slurm)
    for what, value, least in (("--batch", batch, 1), ("--retries", retries, 0)):
        if value is not None and value < least:
            raise BadParameter(f"{what} {value}: expected at least {least}")
    if cell_timeout is not None and not 0 < cell_timeout < float("inf"):
        raise BadParameter(f"--cell-timeout {cell_timeout:g}: expected seconds > 0")
    store = Store(out)
    plan = make_plan(suite)
    try:
        with store.locked(), terminable():
            store.create()
            todo = _todo(plan, store, overwrite, save_images)
            job = Job.here(
                run=f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}",
                device=device, threads=chosen.threads, retries=retries, cell_timeout=cell_timeout, batch=batch,
                save_images=save_images, redo=overwrite in ("errors", "all") or save_images, chunk=suite.chunk,
            )  # fmt: skip
            write_json(store.root / "run.json", run_record(suite, plan, device))
            write_json(store.root / "plan.json", plan.to_json())
            job.write(store.root)
            _execute(chosen, job, plan, todo, store, progress)
            tables: dict[str, Path] = resolve_target(COLLECT)(store.root)
            return _result(store, plan, todo, tables)
    except OSError as error:
        raise BadData(
            f"cannot write results to {str(store.root)!r} ({error.strerror}): choose another --out"
        ) from error


def _todo(plan: Plan, store: Store, overwrite: Overwrite, save_images: bool) -> list[Cell]:
    """What has to be computed; errors of earlier tries of it are forgotten."""
    cells = {cell.id: cell for cell in plan.cells}
    images = [cell.id for cell in plan.cells if save_images and cell.kind == "attack"]
    todo = store.todo(cells, overwrite, images)
    for cell in store.snapshot().errors.intersection(todo):
        store.forget_error(cell)
    return [cells[cell] for cell in todo]


def _execute(executor: Executor, job: Job, plan: Plan, todo: list[Cell], store: Store, progress: bool) -> None:
    """Compute the cells and show how it goes."""
    for what, why in plan.skipped if progress else ():
        print(f"left out: {what}: {why}", file=sys.stderr, flush=True)
    with (
        EventLog(store.root, job.run, "run") as log,
        Display(len(plan.cells), todo, progress) as display,
    ):
        log.write("run", executor=type(executor).__name__.lower(), workers=executor.workers, planned=len(plan.cells),
                  todo=len(todo), pid=os.getpid())  # fmt: skip
        how = "failed"
        try:
            if todo:
                executor.execute(job, todo, store, display)
            how = "complete"
        except KeyboardInterrupt:
            how = "interrupted"
            done = len(store.completed(cell.id for cell in plan.cells))
            display.say(f"interrupted: {done} of {len(plan.cells)} cells are complete and kept")
            raise
        finally:
            log.write("finished", how=how)


def _result(store: Store, plan: Plan, todo: list[Cell], tables: dict[str, Path]) -> RunResult:
    ids = [cell.id for cell in plan.cells]
    failed = store.failed(ids) | {cell.id: store.reason(cell.id) or "" for cell in todo if store.has_error(cell.id)}
    rows = store.read_rows(ids)
    return RunResult(
        out=store.root,
        tables=tables,
        computed=len(todo) - sum(cell.id in failed for cell in todo),
        resumed=len(ids) - len(todo),
        failed=failed,
        bad_images=int((rows["status"] != "ok").sum()),
        skipped=plan.skipped,
    )
