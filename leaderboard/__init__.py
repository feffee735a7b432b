"""The leaderboard: result files to tables, and tables to frames. It reads records and computes no score."""

from __future__ import annotations

from .collect import collect
from .loaded import LoadedResults, load_results

__all__ = ["LoadedResults", "collect", "load_results"]
