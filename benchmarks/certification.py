"""Certificates: against the bare network's best throughput, and against the loop that published code has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from robustiqa.bench.api import Certificate, DefendedMetric
from robustiqa.bench.errors import BadParameter
from scipy.stats import binom, norm
from torch import nn

from .interleave import UnequalWork, Work, by_clock, equal
from .subjects import LARGE, SMALL, bare, best, counted, defended, photographs, shown
from .tables import Settings, Table, compare

DEFENSES = ("median-smoothing", "denoised-median-smoothing", "dms-iqa")
EPS = (0.05, 0.12)
ALPHA = 0.001
SIGMA = 0.12
NAIVE_BATCH = 20

TOGETHER = 8
"""Images of a call that shares its noise among them."""

_HOW = f"""Certificates at two budgets: draws of noise, each scored by the network (denoiser and `tiny-iqa`), sorted,
and both certificates; all draws for one image, or as many in all for {TOGETHER} images in one call, which share the
drawing of noise. The bare network scores as many images that lie ready in memory, without noise, in inference mode, in
the batch size and memory order that were fastest for it in trials before, one batch at a time in all threads or one in
each; the same weights, precision and threads. 1 would mean that noise, statistics and bookkeeping cost nothing."""

_COMPILED_HOW = """Certificates of one image at two budgets, with the network as it is and as torch.compile makes it.
What compiling takes, once for each network and image size in a process, is not in the ratio."""

_NAIVE_HOW = f"""The loop of published code: image by image, batches of {NAIVE_BATCH} copies with fresh noise,
scores collected, sorted, and read off at each budget. Ours certifies the same images with as many draws, at the
same budgets. Both bounds are compared before the clock starts."""


def certify(settings: Settings) -> Iterator[Table]:
    """Certification throughput over the bare network's, with and without denoisers, at two sizes."""
    for name, size, draws in _cases(settings, DEFENSES, quick=(64, 8), full=(1000, 128)):
        alone, shared = (defended(f"{name}[n={draws // k}]", settings) for k in (1, TOGETHER))
        x = photographs(TOGETHER, size, settings.device)
        fastest, images = best(alone, size, settings)
        equal("draws of one image", certified(alone, x[:1]).n, draws)
        equal(f"draws of {TOGETHER} images", TOGETHER * certified(shared, x).n, draws)
        yield compare(
            {
                "bare network": lambda fastest=fastest, images=images, draws=draws: fastest.forward(images, draws),
                "1 image": lambda g=alone, x=x: certified(g, x[:1]),
                f"{TOGETHER} images": lambda g=shared, x=x: certified(g, x),
            },
            settings,
            name=f"certify-{name}-{size[0]}",
            title=f"Certification: `{name}`, {shown(size)}, {draws} draws",
            how=_HOW,
            baseline="bare network",
            reads="speed",
            notes=[f"Bare network: {fastest}."],
        )


def compiled(settings: Settings) -> Iterator[Table]:
    """What `compiled=true` gives, and what it takes before."""
    for name, size, draws in _cases(settings, (DEFENSES[0], DEFENSES[2]), quick=(32, 4), full=(500, 64)):
        plain, fast = (defended(f"{name}[compiled={word},n={draws}]", settings) for word in ("false", "true"))
        x = photographs(1, size, settings.device)
        works: dict[str, Work] = {"certify": lambda g=plain, x=x: certified(g, x)}
        try:
            notes = [f"The first certificate took {by_clock(partial(certified, fast, x)):.0f} s."]
            works["compiled=true"] = lambda g=fast, x=x: certified(g, x)
        except BadParameter as error:
            notes = [str(error)]
        yield compare(
            works,
            settings,
            name=f"compiled-{name}-{size[0]}",
            title=f"Compiled: `{name}`, {shown(size)}, {draws} draws",
            how=_COMPILED_HOW,
            baseline="certify",
            reads="speed",
            notes=notes,
        )


def _cases(
    settings: Settings, names: Sequence[str], *, quick: tuple[int, int], full: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Each defence at both sizes, with the draws for that size."""
    for size, draws in zip((SMALL, LARGE), quick if settings.quick else full, strict=True):
        for name in names:
            yield name, size, draws


def certified(g: DefendedMetric, x: torch.Tensor) -> Certificate:
    """A certificate of images (B,3,H,W) at the two budgets."""
    return g.certify(x, EPS, ALPHA)


def naive(settings: Settings) -> Iterator[Table]:
    """The loop of published code over ours."""
    plain, trained = DEFENSES[0], DEFENSES[2]
    jobs = [(plain, SMALL, 2, 500), (trained, SMALL, 2, 500), (plain, LARGE, 1, 60)]
    if settings.quick:
        jobs = [(plain, SMALL, 2, 100), (trained, SMALL, 1, 100)]
    for name, size, images, draws in jobs:
        g = defended(f"{name}[n={draws},sigma={SIGMA}]", settings)
        x, net = photographs(images, size, settings.device), bare(g)

        def loop(x: torch.Tensor = x, net: nn.Module = net, draws: int = draws) -> np.ndarray:
            return naive_bounds(net, x, draws, EPS, torch.Generator(device=x.device).manual_seed(settings.seed))

        same_bounds(certified(g, x), loop())
        yield compare(
            {"ours": lambda g=g, x=x: certified(g, x), "naive loop": loop},
            settings,
            name=f"naive-{name}-{size[0]}",
            title=f"Naive loop: `{name}`, {counted(images, 'image')} of {shown(size)}, n = {draws}",
            how=_NAIVE_HOW,
            baseline="ours",
            reads="cost",
        )


def naive_bounds(
    net: nn.Module, x: torch.Tensor, n: int, eps: Sequence[float], generator: torch.Generator
) -> np.ndarray:
    """Median smoothing as published code does it, with the right indices: bounds (B,E,2).

    Chiang et al. (NeurIPS 2020): `lo` is the largest order statistic X_(k) with
    BinomCDF(k - 1; n, Phi(-eps/sigma)) <= alpha/2, `hi` its mirror image; infinite where there is none.
    """
    bounds = np.full((len(x), len(eps), 2), (-np.inf, np.inf))
    for i, image in enumerate(x):
        scores: list[float] = []
        left = n
        while left > 0:
            many = min(NAIVE_BATCH, left)
            left -= many
            batch = image.repeat(many, 1, 1, 1)
            noise = torch.randn(batch.shape, generator=generator, device=batch.device) * SIGMA
            with torch.no_grad():
                scores += net(batch + noise).cpu().tolist()
        ordered = sorted(scores)
        for j, e in enumerate(eps):
            k = int(binom.ppf(ALPHA / 2, n, norm.cdf(-e / SIGMA)))
            while k > 0 and binom.cdf(k - 1, n, norm.cdf(-e / SIGMA)) > ALPHA / 2:
                k -= 1
            if k >= 1:
                bounds[i, j] = ordered[k - 1], ordered[n - k]
    return bounds


def same_bounds(ours: Certificate, theirs: np.ndarray) -> None:
    """Raise `UnequalWork` unless bounds (B,E) and (B,E,2) from different noise agree up to the spread of the draws."""
    both = np.stack([ours.lo, ours.hi], axis=2)
    finite = np.isfinite(both)
    if not np.array_equal(finite, np.isfinite(theirs)):
        raise UnequalWork("bounds are infinite in different places: the indices differ")
    off = np.abs(np.where(finite, both, 0) - np.where(finite, theirs, 0)) / ours.spread[:, None, None]
    if off.max() > 1:
        raise UnequalWork(f"bounds differ by {off.max():.2g} standard deviations of the draws")
