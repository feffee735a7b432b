"""Defences: what is put around a metric, one file each."""

from __future__ import annotations

from ..bench.api import DefendedMetric
from ..bench.build import load_defense

__all__ = ["DefendedMetric", "load_defense"]
