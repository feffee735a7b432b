"""Whether the records of a run are those of a submitted defence: all of it, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadData, BadSubmission, counted
from ..plan import Plan, read_run
from ..store import Store
from ..suite import Suite
from .metadata import DefenseSubmission

_VERIFY = "run `robustiqa submit verify` (again)"


def check_run(submission: DefenseSubmission, root: Path, plugin: bytes, where: str) -> tuple[Suite, Plan]:
    """Raise `BadSubmission` unless the records in a folder are a whole run of a submission's defence.

    Args:
        submission: what was submitted.
        root: folder of the run.
        plugin: content of the submission's plug-in file.
        where: the records in words, for messages.

    Returns:
        what was run, and its plan.
    """
    try:
        record, suite, plan = read_run(Store(root))
        _check_plugin(submission, record, plugin, where)
        _check_plan(submission, plan, where)
        _check_results(root, plan, where)
    except BadData as error:
        raise BadSubmission(f"{where}: {error}") from error
    return suite, plan


def _check_plugin(submission: DefenseSubmission, record: Mapping[str, Any], plugin: bytes, where: str) -> None:
    digest = hashlib.sha256(plugin).hexdigest()[:16]
    files = [entry for entry in record.get("plugin_files", ()) if isinstance(entry, Mapping)]
    if not any(entry.get("digest") == digest for entry in files):
        raise BadSubmission(f"{where} were not made with the {submission.plugin!r} of this submission, or it was "
                            f"changed since: {_VERIFY}")  # fmt: skip
    if record.get("failed") or not record.get("finished"):
        raise BadSubmission(f"{where} are of a run that did not end well: {_VERIFY}")


def _check_plan(submission: DefenseSubmission, plan: Plan, where: str) -> None:
    wanted = {"none", submission.defense}
    for cell in plan.cells:
        if cell.defense not in wanted:
            raise BadSubmission(f"{where} hold results of the defence {cell.defense!r}, which is not the submission's "
                                f"({submission.defense!r}): {_VERIFY}")  # fmt: skip
        if cell.metric not in submission.metrics:
            raise BadSubmission(f"{where} hold results of the metric {cell.metric!r}, which is not among the "
                                f"submission's: {_VERIFY}, or name it under metrics")  # fmt: skip
    lacking = set(submission.metrics) - {cell.metric for cell in plan.cells if cell.defense == submission.defense}
    if lacking:
        raise BadSubmission(f"{where} have nothing of {submission.defense!r} behind {min(lacking)!r}: {_VERIFY}")


def _check_results(root: Path, plan: Plan, where: str) -> None:
    """A whole result for every cell, none that was not planned, and no image that failed."""
    store = Store(root)
    there, planned = set(store.snapshot().results), {cell.id for cell in plan.cells}
    if there != planned:
        wrong = sorted(there ^ planned)[0]
        what = "was not planned" if wrong in there else "has no result"
        raise BadSubmission(f"{where}: cell {wrong!r} {what}: {_VERIFY}")
    if bad := store.bad_rows(planned):
        raise BadSubmission(f"{where}: {counted(bad, 'image')} failed, and a failure is no robustness: {_VERIFY}")
