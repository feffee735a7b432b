"""The page: one HTML file with the boards, plots and pictures of a run, which needs no network."""

from __future__ import annotations

from .page import report

__all__ = ["report"]
