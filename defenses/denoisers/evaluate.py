"""Figures of a denoiser: what it restores of images, and what of a metric's scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...bench.datasets import Dataset
from ...bench.errors import BadData, BadImage
from ...bench.images import from_uint8, to_uint8
from ...bench.measures import plcc, score_range, srocc
from ...bench.seeds import derive_seed
from ...bench.training.evaluate import Estimate, bootstrap, half_size_photographs
from ...bench.training.pool import pixel_digest


class DenoiserReport(NamedTuple):
    """PSNR in dB, mean over `n` held-out photographs at half size: of the noisy images and of the denoised ones."""

    n: int
    noisy: Estimate
    denoised: Estimate


def evaluate_denoiser(
    net: nn.Module, sigma: float, photographs: str, n_photographs: int = 100, seed: int = 0
) -> DenoiserReport | None:
    """Measure a denoiser on held-out photographs (JPEG or PNG) at half size; None where no folder is given.

    Noise is added to pixels in [0,1] without clamping, and the output is not clamped either.
    """
    if not photographs:
        return None
    generator = torch.Generator().manual_seed(seed)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    rows: list[tuple[float, float]] = []
    for image in half_size_photographs(photographs, n_photographs):
        clean = from_uint8(image)[None]
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        with torch.no_grad():
            rows.append((psnr(noisy, clean), psnr(net(noisy.to(device)).cpu(), clean)))
    table = np.array(rows)
    noisy_psnr, denoised = (bootstrap(len(table), lambda i, c=c: float(table[i, c].mean()), seed) for c in (0, 1))
    return DenoiserReport(len(table), noisy_psnr, denoised)


def psnr(image: torch.Tensor, clean: torch.Tensor) -> float:
    """PSNR in dB of pixels in [0,1]."""
    return -10.0 * float(torch.log10(F.mse_loss(image, clean)))


class Validation:
    """How well a metric behind noise and denoiser still says what it is for, on whole images.

    Args:
        data: the data set.
        metric: (B,3,H,W) in [0,1] to qualities (B,), larger = better.
        sigma: noise level, pixels in [0,1].
        limit: use the first images; 0 uses all.
        draws: noisy copies of each image; the score is their median.
        device: where the metric is.

    Attributes:
        pixels: digest of each image's pixels.
        content_hash: digest of the data set.
        truth_name: what `srocc` and `plcc` are correlations to.

    Raises:
        BadData: fewer than three images can be read.
    """

    def __init__(
        self, data: Dataset, metric: nn.Module, sigma: float, limit: int, draws: int, device: torch.device
    ) -> None:
        self._metric, self._sigma, self._draws, self._device = metric, sigma, draws, device
        self._images: list[torch.Tensor] = []
        self.pixels: list[str] = []
        self.content_hash = data.content_hash
        truth: list[float] = []
        clean: list[float] = []
        for index, item in list(enumerate(data.items))[: limit or None]:
            try:
                image = data.load(index)
                with torch.no_grad():
                    clean.append(float(metric(image[None].to(device))))
            except BadImage:  # also one that is too small for the metric
                continue
            self._images.append(image)
            self.pixels.append(pixel_digest(to_uint8(image)))
            truth.append(np.nan if item.truth is None else item.truth)
        if len(self._images) < 3:
            raise BadData(f"only {len(self._images)} images can be read for validation: expected at least 3")
        self._clean, self._truth = np.array(clean), np.array(truth)
        self.truth_name = data.truth_name or "clean scores"
        if not np.isfinite(self._truth).all():
            self._truth, self.truth_name = self._clean, "clean scores"

    def __len__(self) -> int:
        return len(self._images)

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """The figures of a denoiser, always with the same noise.

        Returns:
            `srocc` and `plcc` of median scores to the truth (to clean scores where some are missing), `srocc_clean`
            to clean scores, `spread`: the mean standard deviation of a score under noise, in units of the range of
            clean scores (p99 - p1), and `psnr` in dB.
        """
        scores, quality = [], []
        for index, image in enumerate(self._images):
            generator = torch.Generator().manual_seed(derive_seed("denoiser validation", index))
            noise = torch.randn((self._draws, *image.shape), generator=generator)
            draws, denoised = [], image[None]
            for row in noise:  # one by one: whole photographs
                noisy = (image + self._sigma * row)[None].to(self._device)
                with torch.no_grad():
                    denoised = net(noisy)
                    draws.append(float(self._metric(denoised)))
            quality.append(psnr(denoised.cpu(), image[None]))
            scores.append(draws)
        table = np.array(scores)
        median = np.median(table, axis=1)
        low, high = score_range(self._clean)
        return {
            "srocc": srocc(median, self._truth),
            "plcc": plcc(median, self._truth),
            "srocc_clean": srocc(median, self._clean),
            "spread": float(table.std(axis=1, ddof=1).mean()) / (high - low),
            "psnr": float(np.mean(quality)),
        }
