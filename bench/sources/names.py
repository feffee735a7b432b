"""File names from archives and tables: relative, below their folder, and legal on every system."""

from __future__ import annotations

import re
import unicodedata

from ..errors import BadData

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_ILLEGAL = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_LONGEST, _LONGEST_PATH = 255, 1000
"""Bytes of one part of a path, and of all of it, on the usual file systems; a path of thousands of parts is a bomb."""


def safe_parts(name: str, where: str) -> tuple[str, ...]:
    """The folders and the file of a relative path; "." parts are dropped.

    What one system takes for a plain name leaves the folder, or names a device, on another (`C:x`, `..\\x`, `NUL.txt`):
    such names are refused everywhere, so that a data set is the same on all machines.

    Args:
        name: the path, with "/" between its parts.
        where: what holds the name, for the message.

    Raises:
        BadData: the name is absolute, leads out of the folder, or is not legal everywhere.
    """
    if len(name) > _LONGEST_PATH:
        raise BadData(f"{where} holds the name {shown(name)} of more than {_LONGEST_PATH} characters: refused; get it "
                      "from another place")  # fmt: skip
    if name.startswith("/"):
        raise BadData(f"{where} holds the absolute name {name!r}: refused; get it from another place")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    for part in parts:
        if reason := _wrong(part):
            raise BadData(f"{where} holds the name {name!r}, which {reason}: refused; get it from another place")
    return parts


def shown(name: str) -> str:
    """A name as a sentence quotes it: a hostile one can have any length."""
    return repr(name if len(name) <= _LONGEST else name[:40] + "...")


def _wrong(part: str) -> str | None:
    """What is wrong with one part of a path, or None."""
    if part == "..":
        return "leads out of the folder"
    if found := _ILLEGAL.search(part):
        return f"has the character {found.group()!r}, not legal on every system"
    if part[-1] in ". ":
        return "has a part that ends in a dot or a space, not legal on every system"
    if _RESERVED.fullmatch(part):
        return f"has the part {part!r}, a device on Windows"
    try:
        long = len(part.encode()) > _LONGEST
    except UnicodeEncodeError:
        return "is not valid text"
    return f"has a part of more than {_LONGEST} bytes" if long else None


def folded(parts: tuple[str, ...]) -> str:
    """A key that is equal for paths which some file system takes for the same one: case and accents' form apart."""
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()
