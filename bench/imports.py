"""What to do where a user's Python file imports something that is not found."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

_FOLDERS = 4
"""Folders that are looked through: that of the file and those above it, up to the root of a usual repository."""


def import_advice(path: Path, error: BaseException) -> str:
    """Advice, with a colon before it, where an error of a user's file is a failed import; otherwise empty.

    Args:
        path: the file.
        error: what running it raised.
    """
    path = path.resolve()
    if isinstance(error, ImportError) and "relative import" in str(error):
        root, parts = path.parent.parent, (path.parent.name, path.stem)
        while (root / "__init__.py").is_file() and root != root.parent:
            root, parts = root.parent, (root.name, *parts)
        return (
            ": a file that belongs to a package is not run by itself; give one of your own that says `from "
            f"{'.'.join(parts)} import NAME`, and put {_variable(root)} before the command"
        )
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.split(".")[0]
    for folder in path.parents[:_FOLDERS]:
        if folder != folder.parent and ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            return f": it lies in {_short(folder)!r}, so put {_variable(folder)} before the command"
    return ": install it, or put PYTHONPATH=FOLDER before the command if it is a file of yours in that folder"


def _variable(folder: Path) -> str:
    return f"PYTHONPATH={shlex.quote(_short(folder))}"


def _short(folder: Path) -> str:
    """The folder as seen from the present one where that is shorter."""
    try:
        return min(os.path.relpath(folder), str(folder), key=len)
    except ValueError:  # another drive of Windows
        return str(folder)
