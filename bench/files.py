"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import BadData


def no_file(path: str | Path, plural: bool = False) -> str:
    """The rest of a sentence whose subject, one or several things, should lie in a file that is not there."""
    if Path(path).is_dir():
        return f"{'are' if plural else 'is'} a folder: give a file"
    return f"{'do' if plural else 'does'} not exist: check the path"


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and run again: what is complete is kept" if full else (
            f"check the folder's permissions, or choose another {option}")  # fmt: skip
        raise BadData(f"cannot write {str(path)!r} ({error.strerror}): {advice}") from error


@contextlib.contextmanager
def writing(path: Path, mode: str, option: str = "--out") -> Iterator[Callable[[bytes], None]]:
    """A file that is open while the block runs; gives what writes to it, and raises `BadData` where the system refuses.

    It has no buffer: what one still holds on a full disk is refused once more when the file is closed, by an `OSError`
    that takes the place of the sentence.
    """
    with no_os_errors(path, option):
        file = path.open(mode, 0)

    def write(content: bytes) -> None:
        rest = memoryview(content)
        with no_os_errors(path, option):
            while rest:
                rest = rest[file.write(rest) :]

    try:
        yield write
    finally:
        with no_os_errors(path, option):
            file.close()
