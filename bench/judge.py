"""What an adversarial image did, judged on draws that no attack has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .api import DefendedMetric, Estimate, Judged
from .images import compare, quantise
from .seeds import Role, Streams, image_keys


def scored(g: DefendedMetric, x: torch.Tensor, keys: Sequence[str], seed: int) -> Estimate:
    """Scores of images (B,3,H,W) on the evaluation streams of the clean images with these keys.

    Clean and attacked images have the same streams: at eps 0 the gain is exactly 0.
    """
    return g.estimate(x, Streams.create(keys, Role.EVALUATION, seed))


def judge(
    g: DefendedMetric, x: torch.Tensor, adversarial: torch.Tensor, seed: int, clean: Estimate | None = None
) -> Judged:
    """Scores and distances of adversarial images (B,3,H,W) of clean ones x.

    Args:
        g: defended metric.
        x: clean images.
        adversarial: attacked ones, in [0,1].
        seed: base seed of all streams.
        clean: evaluation-stream estimate of x if it is known already; it is computed otherwise.
    """
    keys = image_keys(x)
    clean = clean or scored(g, x, keys, seed)
    attacked, attacked_8bit = (scored(g, images, keys, seed) for images in (adversarial, quantise(adversarial)))
    measured = [compare(a, b) for a, b in zip(x, adversarial, strict=True)]
    sign = g.metric.sign
    return Judged(
        clean=clean,
        attacked=attacked,
        attacked_8bit=attacked_8bit,
        gain=sign * (attacked.score - clean.score),
        gain_8bit=sign * (attacked_8bit.score - clean.score),
        linf=np.array([m.linf for m in measured]),
        l2=np.array([m.l2 for m in measured]),
        psnr=np.array([m.psnr for m in measured]),
        ssim=np.array([m.ssim for m in measured]),
    )
