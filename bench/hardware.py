"""What a run computes on, and how its arithmetic is set: for run records, and to tell two machines apart."""

from __future__ import annotations

import contextlib
import operator
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Processor, memory and, for a CUDA device, GPU and driver; without the machine's name."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        about = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": about.name,
            "gpu_memory_gb": round(about.total_memory / 1e9, 1),
            "gpu_capability": f"{about.major}.{about.minor}",
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


_FLAGS = (
    "backends.cuda.matmul.allow_tf32",
    "backends.cudnn.allow_tf32",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.mkldnn.enabled",
)


def numerics() -> dict[str, Any]:
    """Threads, precision and determinism: what can change the last digits on the same machine."""
    flags = {name.removeprefix("backends."): _flag(name) for name in _FLAGS}
    return flags | {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "default_dtype": str(torch.get_default_dtype()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
    }


def _flag(name: str) -> Any:
    """A flag of torch; None where this release has it under another name, or refuses to say."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return operator.attrgetter(name)(torch)
    return None


def _processor() -> str | None:
    """Model of the processor: from the kernel where it says, else from the platform."""
    with contextlib.suppress(OSError):
        found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or None


def _memory() -> float | None:
    """Memory of the machine in 10^9 bytes."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return None


def _driver() -> str | None:
    """Version of NVIDIA's driver."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return answer.strip().splitlines()[0]
    return None
