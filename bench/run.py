"""`run_suite`: plan, run what is missing, collect."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from .display import Display
from .errors import BadData, BrokenInvariant, counted
from .executors.choose import Executor, choose
from .executors.eventlog import NO_BOARD, EventLog, this_process
from .executors.inline import Inline
from .executors.job import Job, check_job, check_reachable
from .executors.slurm import Slurm
from .interrupt import terminable
from .plan import Cell, Plan, make_plan, write_plan
from .provenance import amend_record, run_record, write_record
from .registry import PACKAGE, resolve_target
from .store import DEFAULT_OVERWRITE, Overwrite, Store
from .suite import Suite, load_suite
from .terminal import echo

COLLECT = f"{PACKAGE}.leaderboard.collect:collect"
"""What turns result files into tables; named here, not imported: bench does not depend on the leaderboard."""


_SHOWN = 10
"""Lines that a notebook shows of what failed or was left out."""


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

    @property
    def failures(self) -> list[str]:
        """What has no result, and why: a sentence a cell, and one for the images."""
        found = [f"cell {cell} failed: {message} (see {self.out / 'errors'})" for cell, message in self.failed.items()]
        if self.bad_images:
            where = f": see {self.tables['errors']}" if "errors" in self.tables else ""
            found.append(f"{self.bad_images} results are errors, not scores{where}")
        return found

    def _repr_html_(self) -> str:
        """What a notebook shows: how much there is, what is missing and why."""
        said = f"{counted(self.computed, 'cell')} computed, {self.resumed} found complete"
        said += f", <b>{len(self.failed)} failed</b>" if self.failed else ""
        said += f", <b>{counted(self.bad_images, 'image')} failed</b>" if self.bad_images else ""
        lines = [f"failed: {why}" for why in dict.fromkeys(self.failed.values())]
        lines += [f"left out: {what}: {why}" for what, why in self.skipped]
        shown = "".join(f"<li>{escape(line)}</li>" for line in lines[:_SHOWN])
        more = f"<li>and {len(lines) - _SHOWN} more</li>" if len(lines) > _SHOWN else ""
        return (
            f"<p>Run in <code>{escape(str(self.out))}</code>: {said}.</p>{f'<ul>{shown}{more}</ul>' if lines else ''}"
        )


def run_suite(
    suite: Suite | str | Mapping[str, Any],
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
        suite: a suite, the name of one that comes with the package, the path of a YAML file, or a dict with the keys
            of such a file.
        out: folder of the results; completed cells in it are kept if they are the same in every respect.
        device: torch device of the metric and the defences.
        progress: show a bar on a terminal and in a notebook, a line a cell otherwise.
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
        BrokenInvariant: a figure would be wrong, and no board was written; its notes say what else has no result.
        KeyboardInterrupt: Ctrl-C, or SIGTERM (`Terminated`); what is complete is kept.
    """
    chosen = choose(executor, device=device, workers=workers, threads=threads, scheduler=scheduler, slurm=slurm)
    how = {"cell_timeout": cell_timeout, "retries": retries, "batch": batch, "save_images": save_images}
    with _prepared(suite, out, chosen, device, overwrite, how) as run, _logged(run, chosen.workers):
        _execute(chosen, run, progress)
        try:
            return _finished(run, resolve_target(COLLECT)(run.store.root))
        except BrokenInvariant as error:
            for sentence in _finished(run, {}).failures:
                error.add_note(sentence)
            raise


def slurm_script(
    suite: Suite | str | Mapping[str, Any], out: str | Path, *, device: str = "cpu", workers: int | None = None,
    threads: int | None = None, slurm: Mapping[str, str] | None = None, overwrite: Overwrite = DEFAULT_OVERWRITE,
    **how: Any,
) -> str:  # fmt: skip
    """Plan a run into a folder, and give the script with which `sbatch` computes it; arguments as for `run_suite`.

    `run_suite` writes the tables when its cells are there, and computes those that are not.
    """
    chosen = Slurm(workers, threads, device, {**(slurm or {}), "print": ""})
    with _prepared(suite, out, chosen, device, overwrite, how) as run:
        return chosen.script(run.job, run.todo, run.store)


class _Run(NamedTuple):
    """A run that is about to begin; `record` is the path of its record."""

    store: Store
    plan: Plan
    job: Job
    todo: list[Cell]
    record: Path


@contextlib.contextmanager
def _prepared(
    suite: Suite | str | Mapping[str, Any],
    out: str | Path,
    executor: Executor,
    device: str,
    overwrite: Overwrite,
    how: Mapping[str, Any],
) -> Iterator[_Run]:
    """Hold the folder, with everything in it that workers need."""
    how = check_job(**how)
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    store, plan = Store(out), make_plan(suite)
    if not isinstance(executor, Inline):
        check_reachable(plan.cells)
    try:
        with store.locked(), terminable():
            store.create()
            todo = _todo(plan, store, overwrite, how["save_images"])
            job = Job.here(
                # Two runs of one process may begin in one second, and each reads what its own workers have said.
                run=f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(3)}",
                device=device,
                threads=executor.threads,
                chunk=suite.chunk,
                redo=overwrite in ("errors", "all") or how["save_images"],
                **how,
            )
            chosen = {"executor": type(executor).__name__.lower(), "workers": executor.workers}
            record = run_record(suite, plan, device, store.root)
            record["execution"] = {**chosen, "threads": executor.threads, **how}
            kept = write_record(store.root, record)
            write_plan(store.root, plan)
            job.write(store.root)
            yield _Run(store, plan, job, todo, kept)
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


@contextlib.contextmanager
def _logged(run: _Run, workers: int) -> Iterator[None]:
    """The log of the run itself: what it begins with, and how it ends."""
    store, plan, job, todo, _ = run
    with EventLog(store.root, job.run, "run") as log:
        old = store.snapshot().results if job.redo else {}
        again = [cell.id for cell in todo if cell.id in old]
        counts = {"workers": workers, "planned": len(plan.cells), "todo": len(todo)}
        log.write("run", **counts, **this_process(), again=again)
        how = "failed"
        try:
            yield
            how = "complete"
        except KeyboardInterrupt:
            how = "interrupted"
            raise
        except BrokenInvariant:
            how = NO_BOARD
            raise
        finally:
            log.write("finished", how=how)


def _execute(executor: Executor, run: _Run, progress: bool) -> None:
    """Compute the cells and show how it goes."""
    store, plan, job, todo, _ = run
    for kind, lines in (("left out", plan.skipped), ("will fail", plan.foreseen)) if progress else ():
        for what, why in lines:
            echo(f"{kind}: {what}: {why}", err=True)
    for sentence in plan.warnings if progress else ():
        echo(f"warning: {sentence}", err=True)
    with Display(len(plan.cells), todo, progress) as display:
        try:
            if todo:
                executor.execute(job, todo, store, display)
        except KeyboardInterrupt:
            done = len(store.completed(cell.id for cell in plan.cells))
            display.say(f"interrupted: {done} of {len(plan.cells)} cells are complete and kept")
            raise


def _finished(run: _Run, tables: dict[str, Path]) -> RunResult:
    """What the run has left, which its record says from now on, too."""
    store, plan, _, todo, record = run
    ids = [cell.id for cell in plan.cells]
    failed = store.failed(ids) | {cell.id: store.reason(cell.id) or "" for cell in todo if store.has_error(cell.id)}
    there = store.snapshot().results
    lost = "it has neither a result nor an error; see the logs, and run again"
    failed = {cell.id: lost for cell in plan.cells if cell.id not in there} | failed
    result = RunResult(
        out=store.root,
        tables=tables,
        computed=len(todo) - sum(cell.id in failed for cell in todo),
        resumed=len(ids) - len(todo),
        failed=failed,
        bad_images=store.bad_rows(ids),
        skipped=plan.skipped,
    )
    amend_record(store.root, record, result.computed, len(result.failed))
    return result
