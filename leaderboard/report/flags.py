"""What the flags of a row mean: raised if, what it means, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...bench.checks.reliability import RULES


class Explanation(NamedTuple):
    """One flag in words."""

    raised_if: str
    meaning: str
    advice: str


BOARD: dict[str, Explanation] = {
    "failed": Explanation(
        "no image of the row has a result", "nothing is known of this defence",
        "read errors.csv, mend what it names, and run again",
    ),
    "incomplete": Explanation(
        "fewer images have a result than were planned", "a failure is not robustness: the row has no rank",
        "read errors.csv, mend what it names, and run again",
    ),
    "not-attacked": Explanation(
        "at the headline threat only random noise was tried, or nothing",
        "what nobody attacked is not known to be robust: the row has no rank", "add an attack that fits, e.g. auto-iqa",
    ),
    "no-op": Explanation(
        "an attack did not beat random noise of the same size at the threat that the flag names",
        "the attack found nothing there: its figure says nothing about the defence",
        "use a stronger attack or a larger budget; JPEG, for one, swallows tiny l2 budgets",
    ),
    "vacuous-at-some-eps": Explanation(
        "at some budget every bound is infinite or as wide as the range of scores",
        "a certificate that allows every score certifies nothing there", "raise the draws, or read smaller budgets",
    ),
    "no-range": Explanation(
        "R, the unit of all gains, is unknown", "no gain or delta can be given",
        "declare `score_range`, or take more images",
    ),
    "range-of-few": Explanation(
        "R was taken from fewer than ten scores, and no range is declared",
        "percentiles of a handful of scores are chance: gains cannot be compared with those of another run",
        "take more images, or declare `score_range`",
    ),
    "reversed": Explanation(
        "scores fall while the ground truth rises (p < .001)",
        "the direction of the metric, or of the human scores, is probably declared wrong; PLCC after a fit hides it",
        "check `lower_better`, and whether the data set's scores are DMOS",
    ),
    "left-out": Explanation(
        "whoever wrote the board left the entrant out", "it has results, which the board does not show",
        "`robustiqa collect OUT` writes the whole board, or says which figure stops it",
    ),
    "unchecked": Explanation(
        "the reliability checks were planned and failed", "whether the figures can be believed is not known",
        "read errors.csv, and run `robustiqa check`",
    ),
}  # fmt: skip
"""Flags that the board itself raises; those of the reliability checks are in `RULES`."""


def name_of_flag(flag: str) -> str:
    """The kind of a flag: `no-op` for `no-op:pgd@linf:0.0157`."""
    return flag.split(":")[0]


def explained(flags: Iterable[str]) -> list[dict[str, str]]:
    """Every kind of flag among these, in the order of their first appearance, with its explanation."""
    found = []
    for name in dict.fromkeys(map(name_of_flag, flags)):
        text = BOARD.get(name) or RULES.get(name)
        entry = {"name": name, "raised_if": "", "meaning": "not one that this program knows", "advice": ""}
        if text is not None:
            entry |= {"raised_if": text.raised_if, "meaning": text.meaning, "advice": text.advice}
        found.append(entry)
    return found
