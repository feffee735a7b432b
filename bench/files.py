"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BadData


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder with its parents unless it is there; raises `BadData` when that is impossible."""
    with no_os_errors(path, option):
        path.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it; raises `BadData` when the disk is full or read-only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with no_os_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            # The rename is durable once the folder is synced; Windows cannot open folders.
            with contextlib.suppress(OSError):
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def no_os_errors(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into `BadData`; `option` is what chooses the folder."""
    try:
        yield
    except OSError as error:
        advice = "free some space and run again: what is complete is kept" if error.errno == errno.ENOSPC else (
            f"check the folder's permissions, or choose another {option}")  # fmt: skip
        raise BadData(f"cannot write {str(path)!r} ({error.strerror}): {advice}") from error
