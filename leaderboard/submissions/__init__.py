"""Submissions that were accepted: their records, claimed beside measured beside verified, and what is best known."""

from __future__ import annotations

from .registry import accept, look
from .tables import write_tables

__all__ = ["accept", "look", "write_tables"]
