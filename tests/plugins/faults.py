"""Small images, a cheap metric, and a defence with every fault that a runner has to survive."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import sys
import time
from pathlib import Path

import torch
from robustiqa.bench import Dataset, Item, register_dataset, register_defense, register_metric
from robustiqa.bench.errors import BadData
from robustiqa.defenses.base import Purification
from torch import nn


@register_dataset("specks")
class Specks(Dataset):
    """Random 16x16 images."""

    truth_name = "made-up"

    def __init__(self, count: int = 6) -> None:
        self.items = [Item(f"speck-{i}", f"speck-{i}", float(i)) for i in range(count)]

    def load(self, index: int) -> torch.Tensor:
        """(3,16,16) in [0.2,0.8]."""
        return 0.2 + 0.6 * torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))


@register_metric("cheap", score_range=(0, 10))
class Cheap(nn.Module):
    """A small fixed convolution and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return torch.nn.functional.conv2d(x, self.weight).tanh().square().mean((1, 2, 3)) * 10


@register_defense("faulty")
class Faulty(Purification):
    """The metric as it is, with a fault.

    Args:
        metric: the metric.
        how: which fault: none, raise, refuse, exit, hang, gil, kill, segv, parent, memory, stale, full, slow.
        once: folder that is made by the first fault; there is none while it is there. Empty: always. (What a file
            holds would be part of the cells' ids.)
        above: the fault needs a batch of more images.
    """

    def __init__(self, metric: nn.Module, how: str = "none", once: str = "", above: int = 0) -> None:
        super().__init__(metric)  # type: ignore[arg-type]
        self.how, self.once, self.above = how, once, above

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself, or a fault."""
        if len(x) > self.above and self.how != "none" and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).mkdir()
            _fail(self.how)
        return x


def _fail(how: str) -> None:
    if how == "raise":
        raise RuntimeError("a bug in the defence")
    if how == "refuse":
        raise BadData("these weights are broken")
    if how == "exit":
        sys.exit(3)
    if how == "hang":
        time.sleep(3600)
    if how == "gil":
        re.match("(a+)+$", "a" * 60 + "b")  # for ages, and without letting any other thread run
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        ctypes.string_at(0)
    if how == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if how == "memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory: you tried to allocate 1 byte")
    if how == "stale":
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    if how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how == "slow":
        time.sleep(0.1)
