"""Where the time goes: torch's profiler on one certificate or one attack."""

from __future__ import annotations

import torch
from robustiqa.attacks import L2, load_attack
from torch.profiler import ProfilerActivity, profile

from .subjects import SMALL, defended, photographs
from .tables import Settings

TOP = 15
KINDS = ("certify", "attack")


def profiled(kind: str, defense: str, settings: Settings, size: tuple[int, int] = SMALL) -> str:
    """The operators that take the most time of their own, as the profiler's table.

    Args:
        kind: one of `KINDS`: a certificate of one image, or ten steps (two with quick settings) of `eot-pgd` on two.
        defense: plug-in string.
        settings: of the run.
        size: height and width.
    """
    g = defended(defense, settings)
    x = photographs(1 if kind == "certify" else 2, size, settings.device)
    attack = load_attack(f"eot-pgd[steps={2 if settings.quick else 10}]")

    def work() -> None:
        if kind == "certify":
            g.certify(x, [0.05, 0.12])
        else:
            attack(g, x, L2(0.5))

    work()  # the first call loads and plans
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.device.startswith("cuda") else [])]
    with profile(activities=activities) as watched:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return watched.key_averages().table(sort_by="self_cpu_time_total", row_limit=TOP)
