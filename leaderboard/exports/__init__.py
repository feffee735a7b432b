"""The tables of a board in other forms: CSV for spreadsheets, Markdown, LaTeX for a paper, JSON for programs."""

from __future__ import annotations

from .export import FORMATS, export

__all__ = ["FORMATS", "export"]
