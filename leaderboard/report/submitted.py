"""Accepted submissions on the page: claimed, the author's run and the maintainers' run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..submissions.entry import read_entries
from ..submissions.tables import BEST_SHOWN, INTRODUCTION, SHOWN, about, readable, readable_best, submission_tables

FOLDER = "submissions"
"""Folder of the registry below that of a run, where nothing else is said."""
_ABOUT = ("submission", "title", "authors", "licence", "code")


def submitted(folder: Path, boards: Sequence[Path]) -> dict[str, Any] | None:
    """What the page shows of a registry, as plain texts by column; None where it holds nothing.

    Args:
        folder: of the registry; it need not exist.
        boards: folders of runs whose rows accepted breaks may speak of.

    Raises:
        BadSubmission: something in it is not what was accepted.
    """
    entries = read_entries(folder)
    if not entries:
        return None
    tables = submission_tables(entries, boards)
    return {
        "introduction": INTRODUCTION,
        "tables": [
            {"title": title, "head": list(head.values()), "rows": frame[list(head)].astype(str).to_numpy().tolist()}
            for title, head, frame in (
                ("Claimed and measured", SHOWN, readable(tables["submissions"])),
                ("Best known", BEST_SHOWN, readable_best(tables["best_known"])),
                ("Who", {name: name for name in _ABOUT}, about(entries)),
            )
            if len(frame)
        ],
    }
