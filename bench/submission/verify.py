"""`submit verify`: run a submission, and say what of it holds. This, and nothing else here, runs its program."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..build import load_defense
from ..checks.examine import examine
from ..checks.reliability import RULES, Finding
from ..datasets import load_dataset
from ..errors import BadSubmission, RobustIQAError, counted
from ..files import make_folder, write_json
from ..metrics import load_metric
from ..registry import PACKAGE, registry, resolve_target
from ..run import RunResult, run_suite
from ..spec import parse_spec
from ..suite import AttackEntry, ChecksEntry, Headline, Suite
from ..terminal import printable
from .claims import Judged, judge_break, judge_claims, read_table, refutation, same_plugin
from .images import read_given, register_given
from .listed import Listed
from .metadata import BreakSubmission, DefenseSubmission, Submission
from .packing import LEFT_OUT, VERIFIED
from .paths import inside, members
from .verification import FILE, SCHEMA, BrokenImage, Found, Verification

CONTRACT = ("random-undeclared", "fixed-noise", "batch-dependent", "irreproducible", "output-invalid",
            "surrogate-inexact", "slope-mismatch", "cost-misdeclared")  # fmt: skip
"""Reliability checks that a submitted defence has to pass. The others say what its figures are worth."""

FIRST_IMAGES = 2
_RESULTS = f"{PACKAGE}.leaderboard.results:read_results"
"""Records of a run in units of R; named here, not imported."""


@dataclass(frozen=True)
class Verified:
    """What a verification has found, for the file and for people.

    Attributes:
        record: what `verification.json` holds.
        claims: of a defence, with intervals and notes.
        flags: metric and name of the reliability checks that are raised and no breach of the contract.
        run: the run behind it; None where the contract was broken at the first look.
        listed: of a break, what the board lists for its target; None without a board.
        given: of a break, how many images have a file, and how many there are.
    """

    record: Verification
    claims: tuple[Judged, ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    run: RunResult | None = None
    listed: Listed | None = None
    given: tuple[int, int] | None = None


def check_folder(root: Path, out: Path) -> dict[str, str]:
    """SHA-256 of every file of a submission by its path; raises `BadSubmission` for what it may not hold."""
    if out.resolve().is_relative_to(root.resolve()) and out.resolve() != (root / VERIFIED).resolve():
        raise BadSubmission(f"--out {str(out)!r} is inside the submission, of which results are no part: choose "
                            f"one elsewhere, or the default {VERIFIED!r}")  # fmt: skip
    found = {}
    for member in members(root, LEFT_OUT):
        with inside(root, member.name).open("rb") as file:
            found[member.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def load_plugin(root: Path, submission: DefenseSubmission) -> None:
    """Run the submission's plug-in file, which has to register (part of) the submitted defence.

    Raises:
        BadSubmission: the file is a link, or the defence is none of its own.
        BadPlugin: it cannot be run.
    """
    path = inside(root, submission.plugin)
    registry.load_file(path)
    origin = f"file {path.resolve()}"
    words = submission.defense.translate(str.maketrans("[];,=", "     ")).split()
    if not any(_origin(word) == origin for word in words):
        raise BadSubmission(f"{submission.plugin!r} registers no defence that {submission.defense!r} names: write "
                            f'@register_defense("{parse_spec(submission.defense).name}") there')  # fmt: skip


def _origin(name: str) -> str | None:
    try:
        return registry.get("defense", name).origin
    except RobustIQAError:
        return None


def first_look(submission: DefenseSubmission, suite: Suite, device: str) -> list[tuple[str, Finding]]:
    """What breaks the contract on two images, behind each metric: seconds, before a run of minutes.

    Raises whatever the defence raises.
    """
    broken = []
    for name in submission.metrics:
        g = load_defense(submission.defense, load_metric(name, device))
        if g.cost > submission.cost.forwards:
            raise BadSubmission(f"cost.forwards says {submission.cost.forwards}, and the defence declares {g.cost} for "
                                f"one score of {name!r}: correct one of them")  # fmt: skip
        found = examine(g, load_dataset(suite.datasets[0]), FIRST_IMAGES, ladder=False, seed=suite.seed, device=device)
        broken += [(name, finding) for finding in found if finding.raised and finding.name in CONTRACT]
    return broken


def verification_suite(submission: DefenseSubmission, suite: Suite) -> Suite:
    """The suite with the submitted defence beside `none`, behind the submission's metrics, and with all checks."""
    images = max(suite.checks.images if suite.checks else 0, ChecksEntry().images)
    asked = suite.override(submission.metrics, ("none", submission.defense), (), ())
    return asked.model_copy(update={"checks": ChecksEntry(images=images, ladder=True)})


def refused(
    root: Path, out: Path, submission: DefenseSubmission, suite: Suite, broken: Sequence[tuple[str, Finding]]
) -> Verified:
    """The outcome where the contract is broken at the first look; nothing was run."""
    problems = [_breach(metric, finding.name) for metric, finding in broken]
    nothing = math.nan, math.nan, math.nan, "not measured"
    claims = tuple(Judged(claim, *nothing, "nothing was run") for claim in submission.claims)
    record = _record(root, out, submission, suite.name, problems, [_found(one) for one in claims])
    return Verified(_written(record, out), claims)


def verify_defense(
    root: Path, out: Path, submission: DefenseSubmission, suite: Suite, device: str = "cpu", **how: Any
) -> Verified:
    """Run a submitted defence and `none` on a suite, and judge the claims; the plug-in is loaded already.

    Args:
        root: folder of the submission.
        out: folder of the run; one that was interrupted goes on.
        submission: its metadata.
        suite: as `verification_suite` gives it.
        device: torch device.
        how: further arguments of `run_suite`.

    Raises:
        RobustIQAError: as `run_suite`.
    """
    result = run_suite(suite, out, device=device, **how)
    claims = tuple(judge_claims(submission.claims, submission.defense, out))
    problems = _failures(result)
    raised = _raised(read_table(result.tables["checks"]), submission)
    problems += [_breach(metric, name) for metric, name in raised if name in CONTRACT]
    problems += [_refuted(claim) for claim in claims if claim.verdict == "not confirmed"]
    flags = tuple(flag for flag in raised if flag[1] not in CONTRACT)
    record = _record(root, out, submission, suite.name, problems, [_found(one) for one in claims])
    return Verified(_written(record, out), claims, flags, result)


def verify_break(
    root: Path, out: Path, submission: BreakSubmission, listed: Listed | None, device: str = "cpu", **how: Any
) -> Verified:
    """Score the images of a break, and compare their gain with the claim and with what a board lists.

    The images become an attack of an ordinary run in this process: clean and attacked images are scored on the same
    evaluation draws, and an image that has none of its own counts as left as it is. Behind a randomised defence the
    draws follow from the content of the images, so that no image can be optimised on its draws.

    Raises:
        RobustIQAError: an image that breaks a rule (`read_given`), or as `run_suite`.
    """
    target = submission.target
    dataset = load_dataset(target.dataset)
    given = read_given(root, submission, dataset)
    g = load_defense(target.defense, load_metric(target.metric, device))
    seed = int(given.digest[:7], 16) if g.randomised else 0
    attack = register_given(submission.name, given)
    suite = Suite(
        name=f"break-{submission.name}",
        description="Images of a submitted break, scored by the board.",
        metrics=(target.metric,),
        defenses=(target.defense,),
        datasets=(target.dataset,),
        attacks=(
            AttackEntry.model_validate({"attack": attack, target.norm: [target.eps], "directions": [target.direction]}),
        ),
        headline=Headline(norm=target.norm, eps=target.eps),
        seed=seed,
    )
    result = run_suite(suite, out, device=device, **how)
    problems = _failures(result)
    unit, images = _broken_images(out, target.defense)
    if not images:
        raise BadSubmission(
            f"no image of {target.dataset!r} has a gain: {'; '.join(problems) or 'its unit is unknown'}"
        )
    sign = 1.0 if target.direction == "up" else -1.0
    gains, references = np.array([one.gain for one in images]), [one.reference for one in images]
    mean, lo, hi, verdict = judge_break(submission, gains, references)
    what = f"mean gain at {target.threat} {target.direction}: {target.defense}, {target.metric}, {target.dataset}"
    if verdict == "not confirmed":
        problems.append(f"{what}: {refutation(submission.gain, mean, lo, hi, 0.0)}")
    if listed is not None and not sign * mean > listed.gain:
        problems.append(f"{what}: {sign * mean:.4g} does not beat the listed {listed.gain:.4g}")
    found = Found(what=what[:300], claimed=submission.gain, measured=mean, lo=lo, hi=hi, verdict=verdict)
    record = _record(root, out, submission, suite.name, problems, [found], unit=unit, images=images)
    return Verified(_written(record, out), run=result, listed=listed, given=(given.n, len(dataset)))


def _broken_images(out: Path, defense: str) -> tuple[float, tuple[BrokenImage, ...]]:
    """R, and the images of a break's run in the order of the data set, as they are with 8 bits."""
    groups = [group for group in resolve_target(_RESULTS)(out).groups if len(group.attacks())]
    if not groups or not math.isfinite(groups[0].unit):
        return math.nan, ()
    (group,) = groups
    rows = group.attacks().to_dict("records")
    return group.unit, tuple(
        BrokenImage(
            image=row["image"],
            reference=row["reference"],
            clean=row["clean"],
            attacked=row["attacked_8bit"],
            gain=row["gain_8bit"] / group.unit,
            linf=row["linf"],
            l2=row["l2"],
        )
        for row in rows
    )


def _failures(result: RunResult) -> list[str]:
    """What of a run has no result."""
    problems = [f"cell {cell} failed: {why}" for cell, why in result.failed.items()]
    if result.bad_images:
        problems.append(f"{counted(result.bad_images, 'result')} of images are errors: see errors.csv")
    return problems


def _raised(checks: pd.DataFrame, submission: DefenseSubmission) -> list[tuple[str, str]]:
    """Metric and name of every check that is raised for the submitted defence."""
    rows = checks[checks["raised"].astype(bool)].to_dict("records")
    mine = [row for row in rows if same_plugin("defense", row["defense"], submission.defense)]
    return list(dict.fromkeys((str(row["metric"]), str(row["check"])) for row in mine))


def _breach(metric: str, check: str) -> str:
    rule = RULES[check]
    return f"{check}, behind {metric}: {rule.raised_if}; {rule.advice}"


def _refuted(one: Judged) -> str:
    claim = one.claim
    return f"{claim.what}: {refutation(claim.value, one.measured, one.lo, one.hi, claim.tolerance)}"


def _found(one: Judged) -> Found:
    numbers = {
        name: value if math.isfinite(value) else None
        for name, value in (("measured", one.measured), ("lo", one.lo), ("hi", one.hi))
    }
    return Found(what=one.claim.what[:300], claimed=one.claim.value, verdict=one.verdict, **numbers)


def _record(
    root: Path, out: Path, submission: Submission, suite: str, problems: Sequence[str], claims: Sequence[Found],
    **of_a_break: Any,
) -> Verification:  # fmt: skip
    """What `verification.json` holds."""
    return Verification(
        schema=SCHEMA,
        name=submission.name,
        kind=submission.kind,
        robustiqa=importlib.metadata.version(PACKAGE),
        suite=suite,
        files=check_folder(root, out),
        ok=not problems,
        problems=tuple(printable(problem, lines=False)[:2000] for problem in problems),
        claims=tuple(claims),
        **of_a_break,
    )


def _written(record: Verification, out: Path) -> Verification:
    make_folder(out)
    write_json(out / FILE, record.model_dump(mode="json", by_alias=True))
    return record
