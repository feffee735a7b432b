"""Certify one small image with N draws, and print the peak memory in MB: of this process, or on a GPU of torch there.

    python -m benchmarks.peak N DEVICE THREADS
"""  # fmt: skip

from __future__ import annotations

import resource
import sys

import torch

from .subjects import defended, photographs
from .tables import Settings


def main(n: int, device: str, threads: int) -> None:
    """Print the figure."""
    torch.set_num_threads(threads)
    settings = Settings(device=device)
    defended(f"median-smoothing[n={n}]", settings).certify(photographs(1, (64, 64), device), [0.05])
    if device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated() / 1e6)
        return
    # Linux counts in kB, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    draws, place, count = sys.argv[1:]
    main(int(draws), place, int(count))
