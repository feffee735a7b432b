"""File names of submissions: legal everywhere, inside the folder, and no links."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import BadSubmission
from ..files import no_file

LONGEST_PATH = 200
MOST_FILES = 5_000
MOST_BYTES = 500_000_000
"""Sum over the files of a submission."""

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+-]*[A-Za-z0-9_+-])?")
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{name}{k}" for name in ("com", "lpt") for k in range(10))})
"""Names that are devices on Windows, with any suffix."""


def relative_path(text: str) -> str:
    """The path as it was given, if it is one below a folder on every system: parts of letters, digits, `._+-`, by `/`.

    Raises:
        ValueError: it is absolute, leads elsewhere, or has a part that is no legal name somewhere.
    """
    if len(text) > LONGEST_PATH:
        raise ValueError(f"{text[:40]!r}... has {len(text)} characters: expected a path of at most {LONGEST_PATH}")
    for part in text.split("/"):
        if not _PART.fullmatch(part) or device_name(part):
            raise ValueError(
                f"{text!r} is no plain relative path: expected parts of letters, digits and ._+- with / between "
                "them, below the submission's folder (no .., no backslash, no drive, no hidden file, no device name)"
            )
    return text


def device_name(part: str) -> bool:
    """Whether a file of this name is a device on Windows."""
    return part.split(".")[0].casefold() in _DEVICES


class Member(NamedTuple):
    """A file of a folder: its path below it, with `/`, and its size in bytes."""

    name: str
    size: int


def inside(root: Path, relative: str) -> Path:
    """The plain file or folder `relative` below `root`.

    Raises:
        BadSubmission: it is not there, is a link, or one of the folders on the way is.
    """
    path = root
    for part in relative.split("/"):
        path = path / part
        if path.is_symlink():
            raise BadSubmission(f"{str(path)!r} is a link: a submission holds plain files and folders only; copy it")
    if not path.exists():
        raise BadSubmission(f"{str(path)!r} {no_file(path)}")
    return path


def members(root: Path, leave_out: Collection[str] = ()) -> Iterator[Member]:
    """The files below a folder, sorted by name; nothing is opened, no link is followed.

    Hidden files and folders are no part of a submission: those of version control, editors and caches.

    Args:
        root: folder of a submission.
        leave_out: names of folders, at any depth, that are not looked into: caches and results.

    Raises:
        BadSubmission: a link, a device or the like, a name that is illegal somewhere, two names that differ in case
            only, or more files or bytes than a submission may have.
    """
    seen: dict[str, str] = {}
    total = 0
    for name, about in sorted(_walk(root, "", frozenset(leave_out))):
        path = str(root / name)
        if not stat.S_ISREG(about.st_mode):
            what = "a link" if stat.S_ISLNK(about.st_mode) else "no plain file"
            raise BadSubmission(f"{path!r} is {what}: a submission holds plain files only; remove it, or copy what it "
                                "stands for")  # fmt: skip
        try:
            relative_path(name)
        except ValueError as error:
            raise BadSubmission(f"file name {error}; rename it") from error
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise BadSubmission(f"{path!r} and {other!r} differ in case only, which not every system can tell apart: "
                                "rename one")  # fmt: skip
        total += about.st_size
        if len(seen) > MOST_FILES or total > MOST_BYTES:
            most = f"{MOST_FILES} files or {MOST_BYTES // 10**6} MB"
            raise BadSubmission(f"{str(root)!r} has more than {most}: leave out what is not needed to run it")
        yield Member(name, about.st_size)


def _walk(folder: Path, prefix: str, leave_out: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in leave_out:
                    yield from _walk(folder / entry.name, f"{name}/", leave_out)
            else:
                yield name, entry.stat(follow_symlinks=False)
