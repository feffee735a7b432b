"""Where the time goes: torch's profiler on one certificate or one attack."""

from __future__ import annotations

import torch
from robustiqa.attacks import L2, load_attack
from torch.profiler import ProfilerActivity, profile

from .subjects import SMALL, defended, photographs
from .tables import Settings

TOP = 15


def profiled(defense: str, attack: str | None, settings: Settings, size: tuple[int, int] = SMALL) -> str:
    """The operators that take the most time of their own, as the profiler's table.

    Args:
        defense: plug-in string of what is asked for a certificate of one image, or attacked.
        attack: plug-in string of the attack on two images; none for the certificate.
        settings: of the run.
        size: height and width.
    """
    g = defended(defense, settings)
    x = photographs(1 if attack is None else 2, size, settings.device)
    run = None if attack is None else load_attack(attack)

    def work() -> None:
        if run is None:
            g.certify(x, [0.05, 0.12])
        else:
            run(g, x, L2(0.5))

    work()  # the first call loads and plans
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.device.startswith("cuda") else [])]
    with profile(activities=activities) as watched:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if ProfilerActivity.CUDA in activities else "self_cpu_time_total"
    return watched.key_averages().table(sort_by=order, row_limit=TOP)
