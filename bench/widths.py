"""What a certified defence answers when it is asked for intervals of a width, and the question itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from .certificates import Certificate, CertifyRequest


class Allotted(NamedTuple):
    """Images (b,), by their place in the batch, that got the same number of draws, and their certificate."""

    images: np.ndarray
    certificate: Certificate


@dataclass(frozen=True)
class CertifiedToWidth:
    """Certificates of B images, each with the number of draws that it was foreseen to need; arrays are per image.

    A certificate states one n, so those of images with different n are different certificates. Numbers of draws lie on
    a grid of eight an octave, which makes the groups few.

    Attributes:
        kind: whose width is meant, "population" or "deployed"; the certificates have both.
        eps: the E budgets; the width is that at the largest one.
        width: the width hi - lo that was asked for, in the metric's units.
        aim: the width that was aimed at: the one asked for, or where `total` does not pay for that, the smallest common
            one that it pays for.
        total: the most draws that were allowed, of all images and with the pilot.
        groups: the certificates; every image that is not out of reach is in one of them.
        n: (B,) certification draws, 0 for images out of reach.
        pilot: (B,) pilot draws, which are in no certificate.
        foreseen: (B,) width that was expected of n draws; NaN where there are none.
        wanted: (B,) certification draws that are foreseen to reach `width` with the assurance asked for; infinite where
            no number up to 100,000 is.
        least: (B,) the smallest width that is foreseen, with 100,000 draws; NaN where `width` is reached with fewer.
        out_of_reach: (B,) `least` is above `width`, so no certification draws were made.
        extrapolated: (B,) what was foreseen rests by more than 1 % on a Gaussian tail, which the pilot does not show.
    """

    kind: str
    eps: tuple[float, ...]
    width: float
    aim: float
    total: int
    groups: tuple[Allotted, ...]
    n: np.ndarray
    pilot: np.ndarray
    foreseen: np.ndarray
    wanted: np.ndarray
    least: np.ndarray
    out_of_reach: np.ndarray
    extrapolated: np.ndarray

    @property
    def draws(self) -> np.ndarray:
        """(B,) draws that were spent, pilot included."""
        return self.pilot + self.n

    @property
    def lo(self) -> np.ndarray:
        """(B,E) lower bounds of `kind`; -infinity without draws."""
        return self._stacked("lo", -np.inf)

    @property
    def hi(self) -> np.ndarray:
        """(B,E) upper bounds of `kind`; infinity without draws."""
        return self._stacked("hi", np.inf)

    @property
    def reached(self) -> np.ndarray:
        """(B,) the certificate is no wider than `width` at the largest eps."""
        return (self.hi - self.lo)[:, int(np.argmax(self.eps))] <= self.width

    @property
    def notes(self) -> tuple[str, ...]:
        """Which images are out of reach, and what those would need for which the draws do not suffice."""
        at = f"at eps {max(self.eps):g}"
        lost = [
            f"image {i}: a {self.kind} width of {self.width:g} {at} is out of reach, {self.least[i]:.3g} is the "
            "smallest one foreseen with any number of draws; no certification draws were made"
            for i in np.flatnonzero(self.out_of_reach)
        ]
        short = np.flatnonzero(~self.out_of_reach & (self.wanted > self.n))
        return (*lost, *(
            f"image {i}: {self.n[i]:,} draws were allowed, and {self.foreseen[i]:.3g} is foreseen for them; "
            + (f"about {int(self.wanted[i]):,} would reach a {self.kind} width of {self.width:g} {at}"
               if np.isfinite(self.wanted[i]) else f"a width of {self.width:g} {at} is too near to the smallest one")
            for i in short
        ))  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """`Certificate.to_frame` of all images that have one, with `pilot` draws and the place in the whole batch."""
        frames = []
        for images, certificate in self.groups:
            frame = certificate.to_frame()
            frame["image"] = images[frame["image"]]
            frame["pilot"] = self.pilot[frame["image"]]
            frames.append(frame)
        return pd.concat(frames).sort_values("image", kind="stable", ignore_index=True) if frames else pd.DataFrame()

    def _stacked(self, name: str, missing: float) -> np.ndarray:
        values = np.full((len(self.n), len(self.eps)), missing)
        for images, certificate in self.groups:
            chosen = certificate if self.kind == certificate.kind else certificate.deployed
            values[images] = getattr(chosen, name)
        return values


@dataclass(frozen=True)
class WidthRequest(CertifyRequest):
    """What `DefendedMetric.certify_to_width` was asked, checked.

    Attributes:
        width: hi - lo wanted at the largest eps, in the metric's units.
        kind: certificate that is meant.
        total: most draws, of all images and with the pilot.
        most: most certification draws of one image.
        assurance: probability with which an image should reach the width.
    """

    width: float
    kind: str
    total: int
    most: int
    assurance: float
