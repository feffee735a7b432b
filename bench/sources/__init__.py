"""Getting data sets and weights: the table of what can be had, downloads, unpacking, and verification."""

from __future__ import annotations

from .table import File, Source

__all__ = ["File", "Source"]
