"""Non-local means in front of the metric."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size, straight_through
from ...bench.registry import Strength, register_defense
from .blur import gaussian
from .gradients import EXACT, SeveralGradients, check_between, into_box, wants_gradient

CUTOFF = 5.0
"""Distance from which scikit-image gives a patch no weight."""
_SHIFT = 60801 / 2**20
"""Offset of the exponent in Schraudolph's approximation (Neural Computation 11(4), 1999) with the least RMS error."""


@register_defense("non-local-means", packages=("scikit-image",), strength=Strength("h", (0.02, 0.05, 0.1, 0.2, 0.4)))
class NonLocalMeans(SeveralGradients):
    """Each pixel becomes the mean of the pixels nearby whose surroundings look alike (scikit-image).

    Buades, Coll and Morel 2005 (CVPR), in the fast version (Darbon et al. 2008, ISBI; Froment 2014, IPOL 4) of
    scikit-image's `denoise_nl_means`: flat patches, of one row and one column less than their name says, and an
    approximate exponential. The noise is never estimated from the image, which an attack would move.

    Args:
        h: decay of the weights with the distance of two patches, .001 to 1000 for pixels in [0,1]; larger is smoother.
        patch: odd side of the patches in pixels, at least 3.
        distance: how many rows and columns away a patch is looked for, at least 1; the time grows with its square.
        sigma: standard deviation of the noise that is taken off the distances, pixels in [0,1], 0 to 1; 0 for none.
        surrogate: gradient that an adaptive attack uses: "exact", that of the same means in torch (values to 1e-6), or
            "gaussian", that of the Gaussian blur of a patch's side, which is cheap and weak. `surrogates` gives both.

    The metric sees images of the same size.
    """

    gradients = (EXACT, "gaussian")

    def __init__(
        self,
        metric: Metric,
        h: float = 0.1,
        patch: int = 5,
        distance: int = 5,
        sigma: float = 0.0,
        surrogate: str = EXACT,
    ) -> None:
        super().__init__(metric, "non-local-means", surrogate)
        check_between("non-local-means", "h", h, 1e-3, 1e3)
        if patch < 3 or patch % 2 == 0:
            raise BadParameter(f"non-local-means[patch={patch}]: expected an odd number of at least 3")
        if distance < 1:
            raise BadParameter(f"non-local-means[distance={distance}]: expected at least 1")
        check_between("non-local-means", "sigma", sigma, 0, 1)
        self.h, self.patch, self.distance, self.sigma = h, patch, distance, sigma

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The denoised images, same size."""
        from skimage.restoration import denoise_nl_means

        reach = self.patch // 2 + self.distance
        check_size(x.shape[2], x.shape[3], reach + 2, f"an image for non-local means over {reach} px each way")
        options = {"fast_mode": True, "sigma": self.sigma, "channel_axis": 0}
        arrays = (image.detach().cpu().numpy() for image in x)
        means = [denoise_nl_means(a, self.patch, self.distance, self.h, **options) for a in arrays]
        value = into_box(torch.stack([torch.from_numpy(m) for m in means]).to(x))
        return straight_through(value, self.torch_means(x)) if wants_gradient(x) else value

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The Gaussian blur."""
        return gaussian(x, self.patch)

    def torch_means(self, x: torch.Tensor) -> torch.Tensor:
        """The means of `purify` by tensor operations, (B,3,H,W) alike."""
        weights = fast_exp(torch.zeros_like(x[:, :1]))  # of each pixel for itself
        total = weights * x
        for row in range(self.distance + 1):
            # Without the checkpoint, an image of 1 MB would keep some GB for the backward pass.
            more = checkpoint(self._shifted, x, row, use_reentrant=False, preserve_rng_state=False)
            total, weights = total + more[0], weights + more[1]  # type: ignore[index]
        return total / weights

    def _shifted(self, x: torch.Tensor, down: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted sum (B,3,H,W) and weights (B,1,H,W) of the pixels `down` rows below and above each pixel.

        A pair of pixels has one weight, so that each shift serves both of them.
        """
        half, (height, width) = self.patch // 2, x.shape[2:]
        reach = half + self.distance
        padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for right in range(-self.distance if down else 1, self.distance + 1):
            # The first of a pair lies in the image, or the second does: `down` rows above it, `right` columns beside.
            rows = slice(reach - down - half + 1, reach + height + half)
            columns = slice(reach - max(right, 0) - half + 1, reach + width + max(-right, 0) + half)
            other = padded[..., rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
            apart = (padded[..., rows, columns] - other).square().sum(1, keepdim=True) - 6 * self.sigma**2
            sums = F.avg_pool2d(apart, 2 * half, 1, divisor_override=1).clamp_min(0)
            distance = sums / (3 * self.h**2 * self.patch**2)
            weight = torch.where(distance <= CUTOFF, fast_exp(-distance), 0)
            first = weight[..., down:, max(right, 0) : max(right, 0) + width]
            second = weight[..., :height, max(-right, 0) : max(-right, 0) + width]
            total = total.addcmul(first, _moved(padded, x, reach + down, reach + right))
            total = total.addcmul(second, _moved(padded, x, reach - down, reach - right))
            weights = weights + first + second
        return total, weights


def _moved(padded: torch.Tensor, x: torch.Tensor, row: int, column: int) -> torch.Tensor:
    return padded[..., row : row + x.shape[2], column : column + x.shape[3]]


def fast_exp(y: torch.Tensor) -> torch.Tensor:
    """The exponential as scikit-image approximates it: linear between powers of two, some 3% off at most."""
    power = y / math.log(2) - _SHIFT
    whole = power.detach().floor()
    return whole.exp2() * (1 + power - whole)
