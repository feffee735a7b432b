"""What is measured: photographs, defended metrics, and the bare network with the best that it can do."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric
from robustiqa.bench.threads import shares, side_by_side
from robustiqa.defenses import load_defense
from torch import nn
from torch.nn import functional as F

from .interleave import by_timer, interleave
from .tables import Settings

SMALL, LARGE = (128, 128), (384, 512)
"""Height and width of the images."""
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
_PROBES, _PROBED = 3, 1
"""Readings of each setting that is tried, and of how many of the largest batches a thread."""


def photographs(count: int, size: tuple[int, int], device: str = "cpu") -> torch.Tensor:
    """The embedded photographs (count,3,H,W), enlarged or reduced to a size, in turns where there are too few."""
    data = load_dataset("photos[size=256,subset=references]")
    images = torch.stack([data.load(i % len(data)) for i in range(count)])
    return F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1).to(device)


def defended(spec: str, settings: Settings) -> DefendedMetric:
    """A defence around `tiny-iqa`."""
    return load_defense(spec, load_metric("tiny-iqa", device=settings.device))


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'s' * (number != 1)}"


def shown(size: tuple[int, int]) -> str:
    """Width x height."""
    return f"{size[1]}x{size[0]}"


class Best(NamedTuple):
    """The bare network as it runs fastest: what it is run on, how many images at once, and in which memory order.

    Attributes:
        net: the network.
        batch: images at once.
        order: name of their order in memory.
        threads: 1: each operation is split among torch's threads; more: each thread has batches of its own.
    """

    net: nn.Module
    batch: int
    order: str
    threads: int = 1

    def __str__(self) -> str:
        own = f", {self.threads} threads with a batch each" if self.threads > 1 else ""
        return f"batches of {self.batch}, {self.order}{own}"

    def images(self, size: tuple[int, int], device: str) -> torch.Tensor:
        """A batch (batch,3,H,W) in its memory order."""
        return photographs(self.batch, size, device).contiguous(memory_format=FORMATS[self.order])

    def forward(self, x: torch.Tensor, passes: int) -> None:
        """Run so many images through the network, those of x (one batch) again and again, and drop the scores."""

        def score(images: torch.Tensor) -> None:
            self.net(images)

        with torch.inference_mode():
            self._shared(score, x, passes)

    def backward(self, x: torch.Tensor, passes: int) -> None:
        """Forward and backward to the pixels for so many images, those of x (one batch) again and again."""

        def descend(images: torch.Tensor) -> None:
            leaf = images.detach().requires_grad_(True)
            torch.autograd.grad(self.net(leaf).sum(), leaf)

        self._shared(descend, x, passes)

    def _shared(self, work: Callable[[torch.Tensor], None], x: torch.Tensor, passes: int) -> None:
        """Work on so many images, batch after batch, in each thread its share of them."""

        def run(part: slice) -> None:
            for begin in range(part.start, part.stop, len(x)):
                work(x[: part.stop - begin])

        side_by_side(run, shares(passes, self.threads), self.threads)


def bare(g: DefendedMetric) -> nn.Module:
    """The network alone, with the denoiser where there is one: images (b,3,H,W) to scores (b,); a copy."""
    denoiser = getattr(g, "denoiser", None)
    parts = [g.metric.module] if denoiser is None else [denoiser, g.metric.module]
    return nn.Sequential(*copy.deepcopy(parts)).eval().requires_grad_(False)


def batches(size: tuple[int, int], settings: Settings, most: int | None = None) -> list[int]:
    """Batch sizes that are tried for images of a size, none above `most`: a few million pixels, on a GPU more."""
    pixels = (2**16, 2**18, 2**19, 2**20) if settings.device == "cpu" else (2**22, 2**24, 2**26)
    return sorted({max(1, min(count // (size[0] * size[1]), most or count)) for count in pixels})


def best(
    g: DefendedMetric, size: tuple[int, int], settings: Settings, backward: bool = False, most: int | None = None
) -> tuple[Best, torch.Tensor]:
    """The bare network in its fastest setting, and a batch of images in its memory order.

    The settings are tried in turns, before and apart from what is reported: the smallest of several noisy readings
    would flatter the network if it were reported itself.

    Args:
        g: the defended metric that the network is taken of.
        size: height and width of the images.
        settings: of the run.
        backward: whether forward and backward are to be fast, instead of the forward alone.
        most: largest batch, where what is compared has no more images at a time.
    """
    tried = dict[str, Best]()
    for order, threads in itertools.product(FORMATS, {1, torch.get_num_threads() if settings.device == "cpu" else 1}):
        net = bare(g).to(memory_format=FORMATS[order])  # pyright: ignore
        for batch in batches(size, settings, most and most // threads):
            tried[f"{order} {batch} {threads}"] = Best(net, batch, order, threads)
    images = {name: one.images(size, settings.device) for name, one in tried.items()}
    # As many for all, and some batches of each: threads have to be started.
    passes = _PROBED * max(one.batch * one.threads for one in tried.values())

    def work(name: str) -> None:
        run = tried[name].backward if backward else tried[name].forward
        run(images[name], passes)

    readings = interleave(
        {name: lambda name=name: work(name) for name in tried}, _PROBES, read=by_timer, seed=settings.seed
    )
    if not readings.values:
        raise RuntimeError(f"the bare network of {g.spec!r} ran in no setting: {readings.errors}")
    fastest = min(readings.values, key=lambda name: float(np.median(readings.values[name])))
    return tried[fastest], images[fastest]


def mean_score(net: nn.Module, x: torch.Tensor) -> float:
    """Mean score of images (B,3,H,W)."""
    with torch.inference_mode():
        return float(net(x).mean())
