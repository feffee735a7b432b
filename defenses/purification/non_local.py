"""Non-local means in front of the metric."""

from __future__ import annotations

import numpy as np
import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size
from ...bench.registry import Strength, register_defense
from .blur import gaussian
from .gradients import SeveralGradients, into_box


@register_defense(
    "non-local-means", packages=("scikit-image",), strength=Strength("h", (0.02, 0.05, 0.1, 0.2, 0.4))
)
class NonLocalMeans(SeveralGradients):
    """Each pixel becomes the mean of pixels nearby whose surroundings look alike (scikit-image).

    Buades, Coll and Morel 2005 (CVPR), in the fast version of Darbon et al. 2008 (ISBI), whose patches have no Gaussian
    weights. The noise level is never estimated from the image, which an attack could use. Exact forward and a surrogate
    backward (BPDA).

    Args:
        h: decay of the weights with the distance of two patches, for pixels in [0,1]; larger is smoother.
        patch: odd side of the patches in pixels, at least 3.
        distance: farthest row and column in which a patch is looked for, at least 1; the time grows with its square.
        sigma: standard deviation of the noise that is taken off the distances, for pixels in [0,1]; 0 for none.
        surrogate: gradient that an adaptive attack uses: "gaussian", that of a Gaussian blur of a patch's side, or
            "identity". `surrogates` gives both.

    The metric sees images of the same size.
    """

    smooth = False
    gradients = ("identity", "gaussian")

    def __init__(
        self,
        metric: Metric,
        h: float = 0.1,
        patch: int = 5,
        distance: int = 6,
        sigma: float = 0.0,
        surrogate: str = "identity",
    ) -> None:
        super().__init__(metric, "non-local-means", surrogate)
        if h <= 0:
            raise BadParameter(f"non-local-means[h={h}]: expected a positive number")
        if patch < 3 or patch % 2 == 0:
            raise BadParameter(f"non-local-means[patch={patch}]: expected an odd number of at least 3")
        if distance < 1:
            raise BadParameter(f"non-local-means[distance={distance}]: expected at least 1")
        if sigma < 0:
            raise BadParameter(f"non-local-means[sigma={sigma}]: expected 0 or a positive number")
        self.h, self.patch, self.distance, self.sigma = h, patch, distance, sigma

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The denoised images, same size."""
        reach = self.patch // 2 + self.distance + 1
        check_size(x.shape[2], x.shape[3], reach + 1, f"an image for non-local means of reach {reach} px")
        return into_box(torch.stack([torch.from_numpy(self._means(image)) for image in x]).to(x))

    def _means(self, image: torch.Tensor) -> np.ndarray:
        from skimage.restoration import denoise_nl_means

        array = image.detach().cpu().numpy()
        return denoise_nl_means(
            array, self.patch, self.distance, self.h, fast_mode=True, sigma=self.sigma, channel_axis=0
        )

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image, or its Gaussian blur."""
        return x if self.gradient == "identity" else gaussian(x, self.patch)
