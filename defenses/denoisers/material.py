"""What a denoiser is trained on: crops of a data set's images, some distorted, with what orders them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ...bench.datasets import Dataset
from ...bench.distortions import DISTORTIONS, LEVELS, distort_strength
from ...bench.training.pool import Pool
from ...bench.training.sources import crop, shrink


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        clean: (B,3,S,S) in [0,1].
        noise: (B,3,S,S) unit Gaussian noise.
        level: (B,) standard deviation of the noise to be added, pixels in [0,1].
        truth: (B,) human score of the photograph, larger = better; NaN where there is none or where it is distorted.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    level: torch.Tensor
    truth: torch.Tensor


class Material(Pool):
    """The pool with noise, distortions and human scores.

    The first part of every batch is crops of whole photographs as they are, with their human scores where the data set
    has some. The rest are crops of photographs reduced by a factor of 1 to 2 and then distorted at random, which no
    human has rated: a metric has to keep its answer to distortions behind the denoiser too.

    Args:
        data: the data set.
        side: side of the crops in pixels.
        batch: crops in a batch.
        distort: share of distorted crops, 0 to 1.
        say: prints a line about images that are left out.

    Raises:
        BadData: fewer than two images are left.
    """

    def __init__(
        self, data: Dataset, side: int, batch: int, distort: float, say: Callable[[str], None] = print
    ) -> None:
        super().__init__(data, side, say)
        self._batch = batch
        self._distorted = round(distort * batch)

    def batch(self, rng: np.random.Generator, levels: tuple[float, float]) -> Batch:
        """A random batch; noise levels are uniform between the two given ones."""
        plain = self._batch - self._distorted
        crops, truth = [], []
        # Different photographs: two crops of one have the same human score.
        for place, index in enumerate(self._drawn(self._batch, plain, rng)):
            image = self._image(index)
            if place < plain:
                score = self._data.items[index].truth
                crops.append(crop(image, self._side, rng))
                truth.append(np.nan if score is None else score)
            else:
                crops.append(self._distort(image, rng))
                truth.append(np.nan)
        clean = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255.0)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        level = torch.from_numpy(rng.uniform(*levels, size=len(clean))).float()
        return Batch(clean, noise, level, torch.tensor(truth, dtype=torch.float32))

    def _distort(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        largest = min(2.0, min(image.shape[:2]) / self._side)
        # Cut before it is reduced: the same pixels, for less work.
        factor = float(rng.uniform(1.0, largest))
        part = shrink(crop(image, int(np.ceil(self._side * factor)), rng), factor)
        part = crop(part, self._side, rng)
        return distort_strength(part, str(rng.choice(list(DISTORTIONS))), float(rng.uniform(0, LEVELS)), rng)
