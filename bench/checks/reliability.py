"""Reliability checks: can the result of an attack on a defended metric be believed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import UnknownName


class Rule(NamedTuple):
    """One check: its number, when it is raised, what that means, what to do."""

    number: int
    raised_if: str
    meaning: str
    advice: str


RULES: dict[str, Rule] = {
    "random-undeclared": Rule(
        1, "a defence that is declared deterministic gives two scores on two streams",
        "attacks without EOT chase noise, and look weak", "set `randomised = True` and draw from `rng` only",
    ),
    "fixed-noise": Rule(
        1, "a randomised or sampled-certificate defence gives the same draws on two streams",
        "who knows the draw attacks a deterministic function: a certificate for fresh noise says nothing of it",
        "draw the noise anew from `rng` in every call",
    ),
    "batch-dependent": Rule(
        2, "a score in a batch differs from the score alone by more than 1e-4 of the scale",
        "an image's result depends on its neighbours: statistics of the batch leak in",
        "keep networks in eval mode, and no state between images",
    ),
    "irreproducible": Rule(
        3, "the same image and the same streams give two scores",
        "gains of that size are chance; at eps 0 the gain is not 0",
        "draw from `rng` only, never from global generators",
    ),
    "gradient-missing": Rule(
        4, "more than half of the gradient's entries are zero, one is not finite, or the defence declares to have none",
        "gradient attacks are blind: what they report is no robustness",
        "declare a surrogate gradient (BPDA), or rely on attacks that need none",
    ),
    "gradient-mismatch": Rule(
        5, "along its own gradient the score rises by less than a third or more than three times what the gradient "
        "says, at all of three radii, for more than half of the images",
        "the gradient points elsewhere than the deployed score: shattered, masked or a poor surrogate",
        "improve the surrogate; judge by the black-box and transfer members of auto-iqa",
    ),
    "optimises-inside": Rule(
        6, "a backward pass runs inside the forward pass",
        "an inner optimisation answers to the attack: a single gradient through it is not an adaptive attack",
        "differentiate through the inner loop, or attack with more queries",
    ),
    "saturated": Rule(
        7, "more than a tenth of the images score at an end of the declared range, with a zero gradient",
        "a clamped score cannot move, and hides what lies behind it", "attack and report the score before the clamp",
    ),
    "order-broken": Rule(
        8, "noise, one step, many steps, twice the steps: one gains less than its weaker neighbour by more than 2 % of "
        "the scale, for more than a fifth of the images", "the attack is not converged, or the gradient misleads it",
        "raise steps and draws; compare with the black-box members",
    ),
    "not-monotone": Rule(
        9, "a larger budget gains less, or the unbounded attack does not use half of the room up to the range's end",
        "the search fails: gains are lower bounds only", "raise steps, restarts and draws",
    ),
    "black-box-wins": Rule(
        10, "an attack without gradients, or one on the undefended metric, gains more than the white-box attack by 5 % "
        "of the scale, for more than a fifth of the images", "the gradient through the defence is masked",
        "improve the surrogate; use auto-iqa, which keeps the better of both",
    ),
    "lost-when-saved": Rule(
        11, "after rounding to 8 bits less than half of the mean gain is left, and that was above 5 % of the scale",
        "the attack lives in the rounding of the file", "report the 8-bit gain; use quantised-pgd",
    ),
    "planted-missed": Rule(
        12, "of a weakness planted in the metric, inside the budget, less than a third is found through the defence",
        "the attack would not find a real weakness either", "improve the surrogate, or raise steps and draws",
    ),
    "certificate-violated": Rule(
        13, "an attack inside the certified radius leaves the certificate, significantly",
        "the certificate is wrong", "find the fault: `robustiqa soundness` tells which part",
    ),
    "inaccurate": Rule(
        14, "the defended scores follow the clean ones with SROCC below 0.3",
        "a defence that says nothing cannot be moved: robustness without accuracy is worthless",
        "read SROCC and PLCC beside every robustness figure",
    ),
    "output-invalid": Rule(
        15, "what the metric sees has another size than the defence declares, or values outside [0,1]",
        "the metric scores something that is no image", "clamp, and declare `output_size`",
    ),
    "surrogate-inexact": Rule(
        16, "of the same draws, the differentiable view and the deployed score differ by more than 1e-4 of the scale",
        "attacks climb another function than the one that is deployed", "exact forward, surrogate backward (BPDA)",
    ),
    "slope-mismatch": Rule(
        17, "the slopes of a transform that is declared smooth differ from finite differences by more than 20 %",
        "its gradient is wrong, or it is not smooth", "mend the gradient, or say `smooth = False`",
    ),
    "cost-misdeclared": Rule(
        18, "a deployed score takes more forward passes than `cost` says",
        "budgets in forwards and queries cannot be compared", "set `cost` to the forwards of one deployed score",
    ),
    "size-misdeclared": Rule(
        19, "the metric gives no finite score for an image of its smallest side or somewhat larger, square or not",
        "images of some sizes become errors, and count as such", "declare a larger `min_size`, or crop the data set",
    ),
    "range-left": Rule(
        20, "a clean score lies outside the declared range by more than a tenth of its width (a score outside a range "
        "that is declared bounded is an error everywhere)",
        "gains and certificates in units of the range mislead", "declare the range of the scores as they are",
    ),
    "input-changed": Rule(
        21, "a call of the metric changes the image that it is handed",
        "the next score is that of another image: attacks and gains are wrong", "work on a copy",
    ),
    "metric-drifts": Rule(
        22, "after a call of `train()` and a backward pass the score, a buffer or a mode of the metric is another",
        "what an attack leaves behind changes every later score",
        "keep the metric in eval mode, and let nothing be updated by a call",
    ),
    "score-slope": Rule(
        23, "the slope of the score along its gradient, and along parts of it, differs from finite differences by more "
        "than 20 % at every step",
        "the metric's gradient is not that of its score: part of it is cut off, or the score moves in steps",
        "read gradient attacks as lower bounds, and set black-box ones beside them",
    ),
}  # fmt: skip
"""All checks by the name of their flag; 1 to 14 as in the literature, 15 to 18 what a defence promises of itself, 19 to
23 what a metric does.

Number 13 is judged by the board, from attacks and certificates of the run.
"""


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: flag, a key of `RULES`.
        value: what was measured.
        threshold: what it was compared with.
        raised: whether the flag is raised.
        skipped: why it could not be checked, or empty.
    """

    name: str
    value: float = float("nan")
    threshold: float = float("nan")
    raised: bool = False
    skipped: str = ""

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise UnknownName("reliability check", self.name, RULES)

    @property
    def rule(self) -> Rule:
        """What the check means."""
        return RULES[self.name]


def above(name: str, value: float, threshold: float) -> Finding:
    """Raised where the value is above the threshold, or is no number."""
    return Finding(name, float(value), threshold, not value <= threshold)


def below(name: str, value: float, threshold: float) -> Finding:
    """Raised where the value is below the threshold, or is no number."""
    return Finding(name, float(value), threshold, not value >= threshold)


def share_above(values: np.ndarray, limit: float) -> float:
    """Share of the values that are above a limit or no number."""
    return float(np.mean(~(np.asarray(values) <= limit)))
