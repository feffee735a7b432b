"""`robustiqa submit verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from ..checks.reliability import RULES
from ..errors import BadParameter, BadPlugin, RobustIQAError, counted
from ..submission.claims import read_table, suggestions
from ..submission.listed import listed_gain
from ..submission.metadata import BreakSubmission, DefenseSubmission, placeholders, read_submission
from ..submission.packing import VERIFIED
from ..submission.verification import FILE
from ..submission.verify import (
    Verified,
    check_folder,
    first_look,
    load_plugin,
    refused,
    verification_suite,
    verify_break,
    verify_defense,
)
from ..suite import load_suite
from ..terminal import echo
from .options import execution, with_plugins
from .single import sentence

_SUMMARY = ("metric", "dataset", "defense", "srocc_clean", "worst_gain_mean", "worst_gain_lo", "worst_gain_hi",
            "certified_delta_mean", "flags")  # fmt: skip


@click.command()
@click.argument("path", type=click.Path(file_okay=False))
@click.option("--suite", default=None, help="Name of a suite, or a YAML file, for a defence.  [default: quick]")
@click.option("--dataset", "datasets", multiple=True, help="Run on this data set instead of the suite's; repeatable.")
@click.option("--out", type=click.Path(file_okay=False), help=f"Folder of the results.  [default: PATH/{VERIFIED}]")
@click.option("--board", type=click.Path(file_okay=False), help="Run, or its tables, whose number a break has to beat.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--json", "as_json", is_flag=True, help=f"Print what {FILE} holds.")
@execution
@with_plugins
def verify(
    path: str, suite: str | None, datasets: tuple[str, ...], out: str | None, board: str | None, device: str,
    as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Verify the submission in the folder PATH: run it on a suite, and compare its claims with what is measured.

    A defence: its plug-in is run; the contract and all reliability checks; the suite with `none` beside it; each claim
    beside the measured value with its 95 % interval. A break: size and budget of its images as saved, their gain on
    fresh draws, and with --board the number that they have to beat. No other program of PATH is run; a break of a
    defence that is not built in needs --plugin FILE.

    OUT is an ordinary run with verification.json: calling this again goes on. The exit code is 1 where the contract is
    broken, a claim is not confirmed, or an image failed.
    """
    root = Path(path)
    submission = read_submission(root)
    target = Path(out) if out else root / VERIFIED
    check_folder(root, target)
    how |= {"device": device}
    if isinstance(submission, BreakSubmission):
        found = _break(root, target, submission, suite, datasets, board, how)
    else:
        if board:
            raise BadParameter("--board is what a break has to beat: this submission is a defence")
        found = _defense(root, target, submission, suite or "quick", datasets, how)
    if as_json:
        click.echo(json.dumps(found.record.model_dump(mode="json", by_alias=True), indent=2))
    else:
        _show(found, submission, target)
    if left := placeholders(submission):
        echo(f"robustiqa: note: still those of the template: {', '.join(left)}", err=True)
    sys.exit(0 if found.record.ok else 1)


def _defense(
    root: Path, out: Path, submission: DefenseSubmission, suite: str, datasets: tuple[str, ...], how: dict[str, Any]
) -> Verified:
    asked = verification_suite(submission, load_suite(suite).override((), (), datasets, ()))
    load_plugin(root, submission)
    try:
        broken = first_look(submission, asked, how["device"])
    except RobustIQAError:
        raise
    except Exception as error:
        raise BadPlugin(f"{submission.defense!r} cannot be checked: {sentence(error)}") from error
    if broken:
        return refused(root, out, submission, asked, broken)
    return verify_defense(root, out, submission, asked, **how)


def _break(
    root: Path, out: Path, submission: BreakSubmission, suite: str | None, datasets: tuple[str, ...],
    board: str | None, how: dict[str, Any],
) -> Verified:  # fmt: skip
    if suite or datasets:
        raise BadParameter("a break is scored on the data set of its target: leave out --suite and --dataset")
    if how.pop("executor") != "inline":
        raise BadParameter("a break is only scored, which takes no workers: leave out --executor")
    listed = listed_gain(Path(board), submission.target) if board else None
    return verify_break(root, out, submission, listed, **how)


def _show(found: Verified, submission: DefenseSubmission | BreakSubmission, out: Path) -> None:
    """What was found, for people."""
    echo(f"{submission.name}: {submission.title}\n")
    if isinstance(submission, DefenseSubmission) and found.run is not None:
        _show_run(found, submission, out)
    rows = [[one.what, one.claimed, one.measured, one.lo, one.hi, one.verdict] for one in found.record.claims]
    if rows:
        headers = ["claim", "claimed", "measured", "from", "to", "verdict"]
        echo(tabulate(rows, headers, "github", floatfmt=".4g", missingval="-") + "\n")
    for one in found.claims:
        if one.note:
            echo(f"{one.claim.what}: {one.note}")
    if found.given is not None:
        echo(f"{found.given[0]} of {found.given[1]} images have a file; the others count as left as they are")
    if found.listed is not None:
        echo(f"listed: {found.listed.gain:.4g} ({found.listed.where})")
    for problem in found.record.problems:
        echo(f"robustiqa: {problem}", err=True)
    unknown = sum(one.verdict == "not measured" for one in found.record.claims)
    but = f" but for {counted(unknown, 'claim')} that this run says nothing of" if unknown else ""
    echo(f"{f'verified{but}' if found.record.ok else 'NOT verified'}: {out / FILE}")


def _show_run(found: Verified, submission: DefenseSubmission, out: Path) -> None:
    """The board's rows, raised checks with what they mean, and what could be claimed."""
    summary = read_table(out / "leaderboard" / "summary.csv")
    shown = summary[list(_SUMMARY)].astype(object).where(summary[list(_SUMMARY)].notna(), None)
    echo(tabulate(shown.to_numpy().tolist(), list(_SUMMARY), "github", floatfmt=".4g", missingval="-") + "\n")
    for metric, name in found.flags:
        rule = RULES[name]
        echo(f"flag {name}, behind {metric}: {rule.raised_if}. It means: {rule.meaning}. What to do: {rule.advice}.\n")
    if not submission.claims:
        lines = "\n".join(f"  {line}" for line in suggestions(submission.defense, out))
        echo(f"Nothing is claimed. Figures of this run, for the key `claims`:\n{lines}\n")
