"""What goes in and out of a certified method: draws, a question, bounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Draws:
    """Scores of noisy images (B,n) in the order in which they were drawn, sorted when first asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self._ordered: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Draws an image."""
        return self.values.shape[1]

    @property
    def ordered(self) -> np.ndarray:
        """(B,n) ascending."""
        if self._ordered is None:
            self._ordered = np.sort(self.values, axis=1)
        return self._ordered

    def __getitem__(self, part: slice) -> Draws:
        """Some of the draws."""
        return Draws(self.values[:, part])


class Bounds(NamedTuple):
    """Bounds (B,E), how they hold over the grid of eps, and (B,) where the method gave no answer, if it may."""

    lo: np.ndarray
    hi: np.ndarray
    coverage: str
    abstained: np.ndarray | None = None


class Question(NamedTuple):
    """What is asked of a method: eps (E,), error probability, kind of certificate, coverage over the grid."""

    eps: np.ndarray
    alpha: float
    deployed: bool
    coverage: str
