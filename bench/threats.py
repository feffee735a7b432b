"""What an attacker may do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import BadParameter

Norm = Literal["l2", "linf"]
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Threat:
    """What an attacker may do: |x' - x| <= eps in a norm, pixels in [0,1] over all 3HW values."""

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in ("l2", "linf"):
            raise BadParameter(f"unknown norm {self.norm!r}: expected l2 or linf")
        if not math.isfinite(self.eps) or self.eps < 0:
            raise BadParameter(f"eps {self.eps} is not a budget: expected a finite number >= 0, pixels in [0,1]")
        if self.norm == "linf" and self.eps > 1:
            raise BadParameter(f"linf eps {self.eps:g} is more than the whole range of pixels in [0,1]: "
                               f"did you mean {self.eps:g}/255?")  # fmt: skip

    def __str__(self) -> str:
        return f"{self.norm}({self.eps:g})"


def L2(eps: float) -> Threat:
    """Threat with l2 norm at most `eps`."""
    return Threat("l2", float(eps))


def Linf(eps: float) -> Threat:
    """Threat with every pixel value moved by at most `eps`."""
    return Threat("linf", float(eps))
