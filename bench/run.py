"""`run_suite`: plan, run what is missing, collect."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .errors import BadData, RobustIQAError
from .files import write_json
from .plan import Cell, Plan, make_plan
from .registry import PACKAGE, resolve_target, version_of
from .store import SCHEMA_VERSION, Store
from .suite import Suite, load_suite
from .worker import Worker

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
) -> RunResult:
    """Run a suite into a folder, or go on with one that was interrupted, and write its tables.

    Args:
        suite: a suite, the name of one that comes with the package, or the path of a YAML file.
        out: folder of the results; completed cells in it are kept if they are the same in every respect.
        device: torch device of the metric and the defences.
        progress: show a bar on a terminal, a line a cell otherwise.

    Raises:
        RobustIQAError: the suite cannot be planned, or the folder cannot be written.
    """
    suite = load_suite(suite) if isinstance(suite, str) else suite
    store = Store(out)
    plan = make_plan(suite)
    try:
        with store.locked():
            return _run(suite, plan, store, device, progress)
    except OSError as error:
        raise BadData(
            f"cannot write results to {str(store.root)!r} ({error.strerror}): choose another --out"
        ) from error


def _run(suite: Suite, plan: Plan, store: Store, device: str, progress: bool) -> RunResult:
    """`run_suite` with the folder locked."""
    store.create()
    write_json(store.root / "run.json", _record(suite, plan, device))
    write_json(store.root / "plan.json", plan.to_json())
    for kind, lines in (("left out", plan.skipped), ("will fail", plan.foreseen)) if progress else ():
        for what, why in lines:
            print(f"{kind}: {what}: {why}", file=sys.stderr, flush=True)
    todo = [cell for cell in plan.cells if not store.done(cell.id)]
    _execute(todo, len(plan.cells), store, device, progress)
    tables: dict[str, Path] = resolve_target(COLLECT)(store.root)
    return _result(store, plan, len(todo), tables)


def _execute(todo: list[Cell], planned: int, store: Store, device: str, progress: bool) -> None:
    """Run cells one by one; a failed one is recorded and the others go on."""
    terminal = progress and sys.stderr.isatty()
    done = planned - len(todo)
    bar = tqdm(total=planned, initial=done, unit="cell", disable=not terminal, dynamic_ncols=True)
    say: Callable[[str], object] = bar.write if terminal else (lambda text: print(text, file=sys.stderr, flush=True))
    if progress and done:
        say(f"resuming: {done} of {planned} cells are complete")
    worker = Worker(device, store.root / "pools", lambda n, of: bar.set_postfix_str(f"{100 * n // of}% of draws"))
    with bar:
        for k, cell in enumerate(todo, start=done + 1):
            bar.set_description(cell.label)
            bar.set_postfix_str("")
            began = time.perf_counter()
            try:
                rows = worker.run(cell)
                store.write_cell(cell.id, rows)
            except BadData:
                raise  # the folder itself cannot be written, or the data set is gone: no other cell would fare better
            except Exception as error:
                message = str(error) if isinstance(error, RobustIQAError) else f"{type(error).__name__}: {error}"
                store.write_error(cell.id, {"cell": vars(cell), "error": message, "traceback": traceback.format_exc()})
                say(f"FAILED {cell.label}: {message}")
            bar.update()
            if progress and not terminal:
                say(f"[{k}/{planned}] {cell.label} ({time.perf_counter() - began:.1f} s)")


def _result(store: Store, plan: Plan, computed: int, tables: dict[str, Path]) -> RunResult:
    ids = [cell.id for cell in plan.cells]
    failed = {cell: str(store.read_json(f"errors/{cell}.json")["error"]) for cell in store.failed(ids)}
    rows = store.read_rows(ids, ["status"])
    return RunResult(
        out=store.root,
        tables=tables,
        computed=computed - len(failed),
        resumed=len(ids) - computed,
        failed=failed,
        bad_images=int((rows["status"] != "ok").sum()),
        skipped=plan.skipped,
    )


def _record(suite: Suite, plan: Plan, device: str) -> dict[str, Any]:
    """The run record: what was asked and left out, with which versions, on what."""
    packages = ("robustiqa", "torch", "numpy", "scipy", "pandas", "pillow", "scikit-image", "kornia", "torchattacks",
                "torchvision", "pyiqa")  # fmt: skip
    return {
        "schema": SCHEMA_VERSION,
        "suite": suite.model_dump(mode="json", by_alias=True),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": sys.argv[1:],
        "left_out": [{"what": what, "why": why} for what, why in plan.skipped],
        "foreseen": [{"what": what, "why": why} for what, why in plan.foreseen],
        "packages": {name: version_of(name) for name in packages},
        "git": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _git_revision() -> str | None:
    """Revision of this source tree with `-dirty` where it has changes; None for an installed package."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
