"""The leaderboard: result files to tables. It reads records and computes no score."""

from __future__ import annotations

from .collect import collect

__all__ = ["collect"]
