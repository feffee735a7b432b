"""Attacks on defended metrics, one file each."""

from __future__ import annotations

from ..bench.api import L2, Linf
from ..bench.build import load_attack
from .base import Attack

__all__ = ["L2", "Attack", "Linf", "load_attack"]
