"""What the releases of the field share: where their files are, how a split is taken, and images that are absent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import Absent, AbsentPath, BadData, UnknownName
from .field import FieldDataset, Rating
from .names import Finder
from .split import SPLITS, check_limit, order, pinned, split_of
from .tables import AGAIN


class Contents(NamedTuple):
    """What a release lists: every row of its table, and the folders where the image files may be."""

    ratings: Sequence[Rating]
    folders: Sequence[Path]


class Release(FieldDataset):
    """A data set in its official layout; a subclass says what that is and reads the table.

    The images come in the order of the digests of their names, so that the first `limit` of them are a fair sample.
    Those that are not on disk are left out and counted; a plan says so. Grey files are taken (AVA and COCO, of which
    FLIVE is made, have some): their scores are those of three equal channels, which is how a screen shows them.

    Args:
        root: folder of the data set, or of the folder that its archive unpacks to; empty means `$ROBUSTIQA_DATA/NAME`.
        split: train, val, test or all. It is by reference content: the release's own if it has one, else
            `splits/NAME.csv` where there is such a file, else `split_of` the name of the reference.
        limit: take only the first images that are on disk; 0 takes all.
        crop: see `FieldDataset`.
        side: see `FieldDataset`.

    Attributes:
        name: of the data set, and of its folder below `$ROBUSTIQA_DATA`.
        title: as its authors write it.
        holds: its official layout in words, for error messages.
        marks: files and folders by which it is known to be there.
        unpacked: folders that the archive unpacks to.
        truth: what its scores are.
        pinned_split: whether `splits/NAME.csv` has the split of every reference.
        n_absent: images of the split that the table lists and that are not on disk; with `limit`, those in whose place
            later ones were taken.

    Raises:
        Absent: the release or all of its images are not there; `AbsentPath` with `root`.
        BadData: a table is unreadable, or lists an image twice.
        UnknownName: a split that does not exist.
        BadParameter: limit, crop or side out of range.
    """

    name: str
    title: str
    holds: str
    marks: Sequence[str]
    unpacked: Sequence[str] = ()
    truth: str | None = "MOS"
    pinned_split: bool = False
    grey = True

    def __init__(self, root: str = "", split: str = "test", limit: int = 0, crop: int = 0, side: int = 0) -> None:
        self._absent = AbsentPath if root else Absent
        if split not in SPLITS:
            raise UnknownName(f"split of {self.name!r}", split, SPLITS)
        check_limit(limit, self.name)
        ratings, folders = self._read(self._base(root))
        twice = [image for image, count in Counter(row.image for row in ratings).items() if count > 1]
        if twice:
            raise BadData(f"the table of {self.title} lists {twice[0]!r} twice: {AGAIN}")
        chosen = sorted(self._of(split, ratings), key=lambda row: order(row.image))
        files = _located(chosen, folders)
        if not files:
            where = ", ".join(repr(str(folder)) for folder in folders)
            raise self._absent(
                f"none of the {len(chosen)} images of split {split!r} is in {where}: unpack the official archive there"
            )
        present = [row for row in chosen if row.image in files][: limit or None]
        reached = chosen.index(present[-1]) + 1 if limit and len(present) == limit else len(chosen)
        self.n_absent = reached - len(present)
        super().__init__(present, [files[row.image] for row in present], self.truth, crop, side)

    def _read(self, base: Path) -> Contents:
        """The table of a release that is there, and where its images are."""
        raise NotImplementedError

    def _of(self, split: str, ratings: Sequence[Rating]) -> list[Rating]:
        """The rows of a split."""
        if split == "all":
            return list(ratings)
        known = pinned(self.name) if self.pinned_split else {}
        found = []
        for row in ratings:
            if known and row.content not in known:
                raise BadData(f"{self.title} has no reference {row.content!r} (image {row.image!r}): {AGAIN}")
            if split == (row.split or known.get(row.content) or split_of(row.content)):
                found.append(row)
        return found

    def _base(self, root: str) -> Path:
        """The folder that holds the release; raises `Absent` if there is none."""
        data = os.environ.get("ROBUSTIQA_DATA", "")
        if not (root or data):
            raise Absent(
                f"the data set {self.name!r} needs its files: give {self.name}[root=FOLDER] or set ROBUSTIQA_DATA to "
                f"the folder that holds {self.name}/, with {self.holds} in it"
            )
        given = Path(root) if root else Path(data) / self.name
        for base in (*(given / part for part in self.unpacked), given):
            if base.is_dir() and all(map(Finder(base), self.marks)):
                return base
        raise self._missing(given)

    def _missing(self, base: Path) -> Absent:
        return self._absent(
            f"no {self.title} in {str(base)!r}: expected {self.holds} in it; unpack the official archives there"
        )


def _located(ratings: Sequence[Rating], folders: Sequence[Path]) -> dict[str, Path]:
    """The file of every image that is on disk.

    Raises:
        BadData: an image is in two of the folders, or a file belongs to two images.
    """
    finders = [Finder(folder) for folder in folders]
    files: dict[str, Path] = {}
    images: dict[Path, str] = {}
    for image in (row.image for row in ratings):
        found = [path for path in (find(image) for find in finders) if path is not None and path.is_file()]
        if len(found) > 1:
            raise BadData(f"image {image!r} is both {str(found[0])!r} and {str(found[1])!r}: remove one of them")
        for path in found:
            other = images.setdefault(path, image)
            if other != image:
                raise BadData(f"the table lists the file {str(path)!r} twice, as {other!r} and as {image!r}: {AGAIN}")
            files[image] = path
    return files
