"""Is there room on the disk?"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import BadData
from ..files import no_os_errors
from .places import human

MARGIN = 64 * 2**20
"""Bytes that are left free: a disk that is full to the last byte stops everything else on it."""


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise `BadData` where a folder's disk has less than `needed` bytes (and a margin) free."""
    with no_os_errors(folder, "--to"):
        free = shutil.disk_usage(folder).free
    if needed and free < needed + MARGIN:
        raise BadData(
            f"{what} needs {human(needed)} in {str(folder)!r}, and only {human(free)} are free: free some space and "
            "run again (what is complete is kept), or choose another --to"
        )
