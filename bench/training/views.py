"""Training images as tensors, and the pooled statistics of rated photographs and synthetic groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .sources import crop
from .synthetic import VERSIONS, Groups

Features = Callable[[torch.Tensor], torch.Tensor]


def tensor(images: np.ndarray) -> torch.Tensor:
    """(...,H,W,3) uint8 to (N,3,H,W) float in [0,1]."""
    flat = np.ascontiguousarray(images).reshape(-1, *images.shape[-3:])
    return torch.from_numpy(flat).permute(0, 3, 1, 2).float().div_(255.0)


def batch(images: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """As `tensor`; half of the batches are mirrored."""
    flat = tensor(images)
    return flat.flip(3) if rng.random() < 0.5 else flat


@torch.no_grad()
def rated_statistics(
    features: Features, photographs: Sequence[np.ndarray], views: int, sides: Sequence[int], seed: int
) -> torch.Tensor:
    """(N, 2 + views, n_features): each photograph whole, mirrored, and in random crops.

    Args:
        features: maps (B,3,H,W) in [0,1] to (B, n_features).
        photographs: (H,W,3) uint8.
        views: random crops of each.
        sides: smallest and largest side of the crops in pixels.
        seed: seed of the crops.
    """
    rng = np.random.default_rng((seed, 7))
    rows: list[torch.Tensor] = []
    for photograph in photographs:
        drawn = rng.integers(sides[0], sides[1] + 1, views)
        images = [photograph, photograph[:, ::-1], *(crop(photograph, int(side), rng) for side in drawn)]
        rows.append(torch.cat([features(tensor(image[None])) for image in images]))
    return torch.stack(rows)


@torch.no_grad()
def group_statistics(features: Features, groups: Groups) -> torch.Tensor:
    """(N, VERSIONS, n_features): every version of every group."""
    starts = range(0, len(groups.images), 16)
    rows = torch.cat([features(tensor(groups.images[i : i + 16])) for i in starts])
    return rows.view(len(groups.images), VERSIONS, -1)
