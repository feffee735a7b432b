"""The command line: `robustiqa`. The one place that knows all packages."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
