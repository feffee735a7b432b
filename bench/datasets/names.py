"""From the names in a table to the files of a folder: in another case, or without their suffix."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath

from ..errors import BadData

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".jp2"))
"""Suffixes of image files, in lower case."""


class Finder:
    """Looks up files of a folder by the names of a table; every folder is listed once.

    A name that is there as it is written wins. Otherwise case does not matter (TID2013's table has i01_11_1.bmp where
    the file is I01_11_1.BMP), and a name without the suffix of an image stands for the one image of that stem. Names
    that lead out of the folder are not found.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def __call__(self, name: str) -> Path | None:
        """The file of that name, or the folder; None where there is none.

        Raises:
            BadData: several files answer to the name.
        """
        place = self._folder
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for part in parts:
            # Parts are looked up in listings, which hold neither ".." nor a root.
            found = self._listing(place).get(part.casefold(), [])
            if part not in found and len(found) > 1:
                several = " and ".join(map(repr, sorted(found)))
                raise BadData(f"{name!r} may be {several} of {str(place)!r}: keep the one that the table means")
            if not found:
                return None
            place = place / (part if part in found else found[0])
        return place if parts else None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Names in a folder by their folded form, and by their stem if they are images."""
        if folder not in self._listed:
            listing: dict[str, list[str]] = defaultdict(list)
            for path in folder.iterdir() if folder.is_dir() else ():
                listing[path.name.casefold()].append(path.name)
                if path.suffix.lower() in SUFFIXES:
                    listing[path.stem.casefold()].append(path.name)
            self._listed[folder] = dict(listing)
        return self._listed[folder]
