"""A metric of pyiqa behind the face that this package expects, and what can be found out of it by trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import BadImage, BadScore
from ...seeds import generator
from ...training.pool import has_gradient

SIZES = (16, 24, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 299, 336, 384, 512)
"""Sides in pixels that a probe tries."""
NOISE = 1e-4
"""Largest difference, relative to the score, that rounding in another batch explains."""


class Scores(nn.Module):
    """A metric of pyiqa without the traps of its wrapper.

    Args:
        net: what `pyiqa.create_metric` gave.
        name: for messages.
        multiple: height and width have to be multiples of this.
        alone: whether to hand over one image at a time.
        gradient: whether to hand on gradients; where they are exactly zero, none is better.
        clamp: whether to cut values to [0,1] first; noise of a smoothing defence leaves it, which most networks take.
    """

    def __init__(
        self,
        net: nn.Module,
        name: str,
        multiple: int = 1,
        alone: bool = False,
        gradient: bool = True,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.name, self.multiple, self.alone = net, name, multiple, alone
        self.gradient, self.clamp = gradient, clamp
        for module in net.modules():
            for key, value in vars(module).items():
                # LIQE's features of texts are no parameter and come with a graph of their own, which cannot be copied.
                if isinstance(value, torch.Tensor) and value.requires_grad:
                    setattr(module, key, value.detach())
        # MANIQA collects the outputs of its layers, and takes those of a call that was broken off for the next one's.
        self.collected: list[Any] = [module.save_output for module in net.modules() if hasattr(module, "save_output")]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) in [0,1] to (B,); raises `BadImage` for a size that the network does not take."""
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise BadImage(f"metric {self.name!r} got an image of {width}x{height} px: expected multiples of "
                           f"{self.multiple}; crop it")  # fmt: skip
        parts = x.split(1) if self.alone else (x,)
        score = torch.cat([self._scored(part) for part in parts])
        # As a loss, pyiqa tracks gradients even where the caller has switched them off.
        return score if self.gradient and torch.is_grad_enabled() else score.detach()

    def _scored(self, x: torch.Tensor) -> torch.Tensor:
        for outputs in self.collected:
            outputs.clear()
        try:
            # A clone, because some metrics normalise their input in place. They answer in (B,), (B,1), (B,1,1) or ().
            return self.net(x.clamp(0.0, 1.0) if self.clamp else x.clone()).reshape(-1)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise BadImage(f"metric {self.name!r} cannot score an image of {x.shape[3]}x{x.shape[2]} px ({reason}): "
                           "give another image, or another metric")  from error  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a probe found: see `traits.Traits`."""

    min_size: int
    multiple: int
    alone: bool
    gradient: bool
    clamp: bool


def probe(net: nn.Module, name: str) -> Found:
    """Try sizes, a batch, a second call and a gradient on one random picture.

    Raises:
        BadScore: it gives two scores for one image, or a finite one for none of the sizes.
    """
    for side in SIZES:
        scores = Scores(net, name)
        x = picture(side)
        first = _tried(scores, x)
        if first is None:
            continue
        again = _tried(scores, x)
        if again is None or not torch.equal(first, again):
            raise BadScore(f"metric {name!r} gives two scores for one image ({float(first):.6g} and "
                           f"{float(again if again is not None else torch.nan):.6g}): it draws random numbers, so that "
                           "no result could be repeated; use another metric")  # fmt: skip
        multiple = next((m for m in (1, 2, 4, 8, 16, 32) if _tried(scores, picture(side + m)) is not None), side)
        alone, clamp = not _takes_batches(scores, x, first), _tried(scores, 1.4 * x - 0.2) is None
        return Found(side, multiple, alone, has_gradient(scores, x.clone()), clamp)
    raise BadScore(f"metric {name!r} gives no finite score for squares of {SIZES[0]} to {SIZES[-1]} px: it cannot be "
                   "used here")  # fmt: skip


def picture(side: int, width: int = 0) -> torch.Tensor:
    """(1,3,side,width) in [0,1], the same every time: smooth shapes with some noise, as photographs have."""
    source = generator("pyiqa probe", side, width)
    coarse = torch.rand(1, 3, 8, 8, generator=source)
    smooth = nn.functional.interpolate(coarse, (side, width or side), mode="bicubic", align_corners=True)
    return (smooth + 0.1 * torch.rand(smooth.shape, generator=source)).clamp(0, 1)


def _takes_batches(scores: Scores, x: torch.Tensor, alone: torch.Tensor) -> bool:
    """Whether the score of an image is the same beside another one."""
    both = _tried(scores, torch.cat([x, x.flip(3) / 2]))
    return both is not None and float((both[0] - alone).abs()) <= NOISE * max(1.0, float(alone.abs()))


def _tried(scores: Scores, x: torch.Tensor) -> torch.Tensor | None:
    """The scores of x, or None where they fail or are not finite."""
    try:
        with torch.no_grad():
            found = scores(x)
    except BadImage:
        return None
    return found if found.numel() == len(x) and bool(torch.isfinite(found).all()) else None
