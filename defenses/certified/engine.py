"""The sampling engine: scores of an image under Gaussian noise, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...bench.objective import MAX_PIXELS
from ...bench.seeds import Streams


def sample_scores(
    score: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, sigma: float, n: int, rng: Streams
) -> np.ndarray:
    """Draw n samples of `score(x + sigma G)` for each image.

    Batches are cut along the draws of one image, in a size that depends on the image's size alone: the samples are
    the same whatever else is in the batch, and however the images were grouped.

    Args:
        score: (b,3,H,W) noisy images, not clamped, to (b,) scores.
        x: (B,3,H,W) in [0,1].
        sigma: noise level in [0,1] pixel units.
        n: draws an image.
        rng: one stream an image.

    Returns:
        (B,n) float64, in the order of the draws.
    """
    samples = np.empty((x.shape[0], n))
    chunk = max(1, MAX_PIXELS // (x.shape[2] * x.shape[3]))
    for i in range(x.shape[0]):
        image, stream = x[i : i + 1], rng[i : i + 1]
        for start in range(0, n, chunk):
            draws = min(chunk, n - start)
            noisy = stream.normal(image, draws)[:, 0].mul_(sigma).add_(image)
            samples[i, start : start + draws] = score(noisy).double().cpu().numpy()
    return samples
