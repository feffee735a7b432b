"""The run record: what was asked, with which code, packages and plug-ins, on what."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .plan import Plan
from .registry import version_of
from .store import SCHEMA_VERSION
from .suite import Suite


def run_record(suite: Suite, plan: Plan, device: str) -> dict[str, Any]:
    """The run record: what was asked and left out, with which versions, on what."""
    packages = ("robustiqa", "torch", "numpy", "scipy", "pandas", "pillow", "scikit-image", "kornia", "torchattacks",
                "torchvision", "pyiqa")  # fmt: skip
    return {
        "schema": SCHEMA_VERSION,
        "suite": suite.model_dump(mode="json", by_alias=True),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": sys.argv[1:],
        "left_out": [{"what": what, "why": why} for what, why in plan.skipped],
        "packages": {name: version_of(name) for name in packages},
        "git": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _git_revision() -> str | None:
    """Revision of this source tree with `-dirty` where it has changes; None for an installed package."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
