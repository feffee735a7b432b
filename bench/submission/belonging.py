"""Whether the records of a run are those of a submission: all of it, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadData, BadParameter, BadSubmission, counted
from ..plan import Cell, Plan, read_run
from ..spec import parse_spec
from ..store import Store
from ..suite import Suite
from .metadata import BreakSubmission, DefenseSubmission, Submission

LONGEST_NAME = 200
"""Characters of a plug-in string, as in a claim."""

_VERIFY = "run `robustiqa submit verify` (again)"


def check_run(submission: Submission, root: Path, files: Mapping[str, str], where: str) -> tuple[Suite, Plan]:
    """Raise `BadSubmission` unless the records in a folder are a whole run of a submission.

    Args:
        submission: what was submitted.
        root: folder of the run.
        files: SHA-256 of what was submitted, by path.
        where: the records in words, for messages.

    Returns:
        what was run, and its plan.
    """
    try:
        record, suite, plan = read_run(Store(root))
        _check_names(plan, where)
        if record.get("failed") or not record.get("finished"):
            raise BadSubmission(f"{where} are of a run that did not end well: {_VERIFY}")
        if isinstance(submission, DefenseSubmission):
            _check_plugin(submission, record, files[submission.plugin], where)
            _check_defense(submission, plan, where)
        else:
            _check_break(submission, plan, files, where)
        _check_results(root, plan, where)
    except BadData as error:
        raise BadSubmission(f"{where}: {error}") from error
    return suite, plan


def attack_of(submission: BreakSubmission, files: Mapping[str, str]) -> str:
    """The plug-in string under which `submit verify` runs the images of a break: it holds a digest of their contents.

    Args:
        submission: the break.
        files: SHA-256 of what was submitted, by path.
    """
    folder = f"{submission.images}/"
    images = {name.removeprefix(folder): digest for name, digest in files.items() if name.startswith(folder)}
    return attack_named(submission.name, images_digest(images))


def images_digest(images: Mapping[str, str]) -> str:
    """SHA-256 of the images of a break: of the SHA-256 of each, by its name in their folder."""
    digest = hashlib.sha256()
    for name, one in sorted(images.items()):
        digest.update(f"{name}\n".encode() + bytes.fromhex(one))
    return digest.hexdigest()


def attack_named(name: str, digest: str) -> str:
    """The plug-in string of a break's images with this digest."""
    return f"break-{name}[digest=x{digest[:16]}]"


def _check_names(plan: Plan, where: str) -> None:
    """Plug-in strings as this program writes them: they head rows, and are compared with those of claims."""
    for name in {text for c in plan.cells for text in (c.metric, c.defense, c.dataset, c.attack) if text is not None}:
        try:
            right = (
                len(name) <= LONGEST_NAME and name.isascii() and name.isprintable() and str(parse_spec(name)) == name
            )
        except BadParameter:
            right = False
        if not right:
            raise BadSubmission(f"{where} have the name {name[:100]!r}, which is no plug-in string: {_VERIFY}")


def _check_plugin(submission: DefenseSubmission, record: Mapping[str, Any], digest: str, where: str) -> None:
    entries = [entry for entry in record.get("plugin_files", ()) if isinstance(entry, Mapping)]
    if not any(entry.get("digest") == digest[:16] for entry in entries):
        raise BadSubmission(f"{where} were not made with the {submission.plugin!r} of this submission, or it was "
                            f"changed since: {_VERIFY}")  # fmt: skip


def _check_defense(submission: DefenseSubmission, plan: Plan, where: str) -> None:
    for cell in plan.cells:
        _check_one_of("defence", cell.defense, ("none", submission.defense), where)
        _check_one_of("metric", cell.metric, submission.metrics, where)
    mine = [cell for cell in plan.cells if cell.defense == submission.defense]
    lacking = set(submission.metrics) - {cell.metric for cell in mine if cell.kind == "attack"}
    if lacking:
        raise BadSubmission(f"{where} have no attack on {submission.defense!r} behind {min(lacking)!r}: {_VERIFY}")


def _check_break(submission: BreakSubmission, plan: Plan, files: Mapping[str, str], where: str) -> None:
    target, attack = submission.target, attack_of(submission, files)
    for cell in plan.cells:
        _check_one_of("defence", cell.defense, ("none", target.defense), where)
        _check_one_of("metric", cell.metric, (target.metric,), where)
        _check_one_of("data set", cell.dataset, (target.dataset,), where)
    if not any(_is_break(cell, submission, attack) for cell in plan.cells):
        raise BadSubmission(f"{where} hold nothing of these images at the threat of the target ({attack!r}): they are "
                            f"others than those that were verified; {_VERIFY}")  # fmt: skip


def _is_break(cell: Cell, submission: BreakSubmission, attack: str) -> bool:
    target = submission.target
    same = (cell.defense, cell.attack, cell.norm, cell.direction) == (
        target.defense, attack, target.norm, target.direction)  # fmt: skip
    return same and cell.kind == "attack" and bool(np.isclose(cell.eps[0], target.eps, rtol=1e-9, atol=0))


def _check_one_of(what: str, given: str, known: tuple[str, ...], where: str) -> None:
    if given not in known:
        raise BadSubmission(f"{where} hold results of the {what} {given!r}, which is none of the submission's "
                            f"({', '.join(map(repr, known))}): {_VERIFY}")  # fmt: skip


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
