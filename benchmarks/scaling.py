"""What a certificate costs against the number of draws, pixels, images and budgets; memory against draws."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from .interleave import Work, as_told, equal, slope
from .subjects import SMALL, defended, photographs
from .tables import Settings, Table, series

ROOT = Path(__file__).parents[1]
DEFENSE = "median-smoothing"
ALPHA = 0.001

_HOW = """Certificates of `median-smoothing` (where nothing else is said) on `tiny-iqa`, each point run once a round.
The ratio is to the first point; the growth is the power of x that fits the readings, by least squares in logarithms,
each round by itself: 0 is flat, 1 is linear."""

_MEMORY_HOW = """The largest resident memory of a process that certifies one 64x64 image with n draws, from the
moment when torch and the metric are loaded: each point a process of its own. Most of it is torch. A draw's score
has to be kept (8 bytes, and a sorted copy); its image, 48 kB here, does not. On Linux it is the kernel's VmHWM,
since `ru_maxrss` begins with what the parent had; on a GPU what torch had allocated there."""


def scaling(settings: Settings) -> Iterator[Table]:
    """Time against draws, pixels, images, images a call, and budgets."""
    small = 50 if settings.quick else 200
    few = small // 10
    sides = (64, 96, 128) if settings.quick else (64, 96, 128, 192, 256)
    ways: list[tuple[str, str, dict[float, Work], float]] = [
        ("draws", "draws", {k * small: _job(settings, k * small) for k in (1, 2, 4, 8)}, 1.0),
        ("pixels", "pixels", {side**2: _job(settings, small, size=(side, side)) for side in sides}, 1.0),
        ("images", "images", {k: _job(settings, small, images=k) for k in (1, 2, 4, 8)}, 1.0),
        ("batch", f"images a call (8 in all, n = {few})",
         {k: _job(settings, few, images=8, together=k) for k in (1, 2, 4, 8)}, 0.0),
        ("budgets", "budgets", {k: _job(settings, small, budgets=k) for k in (1, 10, 100, 1000)}, 0.0),
        ("budgets-trimmed", "budgets (trimmed mean)",
         {k: _job(settings, small, budgets=k, defense="trimmed-mean-smoothing") for k in (1, 10, 100, 1000)}, 0.0),
    ]  # fmt: skip
    for name, what, works, expected in ways:
        title = f"Cost of a certificate: against the number of {what}"
        yield series(works, f"scaling-{name}", title, _HOW, expected=expected, settings=settings)


def _job(
    settings: Settings,
    n: int,
    *,
    size: tuple[int, int] = SMALL,
    images: int = 1,
    together: int | None = None,
    budgets: int = 1,
    defense: str = DEFENSE,
) -> Work:
    """A certification to be timed: so many images, a call for each `together` of them."""
    g, x = defended(f"{defense}[n={n}]", settings), photographs(images, size, settings.device)
    eps = np.linspace(0.01, 0.12, budgets).tolist()

    def run() -> None:
        for part in x.split(together or images):
            certificate = g.certify(part, eps, ALPHA)
            equal("draws an image", certificate.n, n)
            equal("bounds", certificate.lo.size, len(part) * budgets)

    return run


def memory(settings: Settings) -> Iterator[Table]:
    """Peak memory against draws."""
    points = (200, 1000) if settings.quick else (200, 1000, 10_000, 50_000)

    def a_draw(xs: Sequence[float], taken: Sequence[np.ndarray]) -> list[str]:
        found = slope(xs, [1e6 * values for values in taken], settings.seed)
        return [f"A draw more takes {found.median:.0f} bytes more [{found.lo:.0f}, {found.hi:.0f}], by least squares."]

    yield series(
        {float(n): lambda n=n: peak_megabytes(n, settings.device) for n in points},
        "memory-draws", "Peak memory: against the number of draws", _MEMORY_HOW,
        expected=0.0, settings=settings.at_most(3), read=as_told, warm_up=0, unit="MB", notes=a_draw,
    )  # fmt: skip


def peak_megabytes(n: int, device: str = "cpu") -> float:
    """Peak resident memory of a process that certifies with n draws."""
    command = [sys.executable, "-m", "benchmarks.peak", str(n), device, str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"certifying with n = {n} in a process of its own failed: {last}")
    return float(done.stdout.split()[-1])
