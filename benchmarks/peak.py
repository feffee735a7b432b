"""Certify one small image with N draws, and print the peak memory in MB: of this process, or on a GPU of torch there.

    python -m benchmarks.peak N DEVICE THREADS
"""  # fmt: skip

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch

from .subjects import defended, photographs
from .tables import Settings


def main(n: int, device: str, threads: int) -> None:
    """Print the figure."""
    torch.set_num_threads(threads)
    g = defended(f"median-smoothing[n={n}]", Settings(device=device))
    x = photographs(1, (64, 64), device)
    forget_peak()
    g.certify(x, [0.05])
    print(torch.cuda.max_memory_allocated() / 1e6 if device.startswith("cuda") else peak())


def forget_peak() -> None:
    """Let the peak begin at what is resident now, so that loading does not hide what comes; Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Peak resident memory in MB.

    On Linux from the kernel's VmHWM: `ru_maxrss` begins a program with what the process that started it had.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M):
            return int(found[1]) * 1024 / 1e6
    # macOS counts in bytes, others in kB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    draws, place, count = sys.argv[1:]
    main(int(draws), place, int(count))
