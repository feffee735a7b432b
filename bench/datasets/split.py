"""Which images are for training, which for choosing, which for testing: always by content, never by version."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import BadParameter

SPLITS = ("train", "val", "test", "all")


def split_of(content: str) -> str:
    """Split of a photograph by its official name: `train` (70 %), `val` (10 %) or `test` (20 %).

    The first 8 hex digits of the SHA-256 of the name, modulo 20: 0-3 is test, 4-5 is val, the rest is train. It
    depends on nothing but the name, so it stays when images are missing.
    """
    bucket = order(content) % 20
    return "test" if bucket < 4 else "val" if bucket < 6 else "train"


def order(name: str) -> int:
    """A fixed number that has nothing to do with what the name says: the images in its order are well mixed."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


def check_limit(limit: int, given: str) -> None:
    """Raise `BadParameter` for a negative `limit` of the data set called `given`."""
    if limit < 0:
        raise BadParameter(f"{given}[limit={limit}]: expected 0 (all images) or a positive number")


def sample(names: Sequence[str], limit: int, given: str) -> list[int]:
    """Which of some images a `limit` takes: the indices of the first in the `order` of their names, as they come.

    Args:
        names: of the images, as the table has them.
        limit: how many; 0 takes all.
        given: name of the data set, for the error.

    Raises:
        BadParameter: a negative limit.
    """
    check_limit(limit, given)
    first = sorted(range(len(names)), key=lambda index: order(names[index]))[: limit or None]
    return sorted(first)


def pinned(name: str) -> dict[str, str]:
    """Split of each reference of a data set, from `splits/NAME.csv`.

    Sets of a few dozen references have such a file: `split_of` would give TID2013 two of 25 for testing. The files were
    made by this rule: the references in the `order` of their names; the first fifth tests, the next tenth is val, the
    rest trains (rounded to whole references). They are what counts: they stay if a release grows.
    """
    path = Path(__file__).parent / "splits" / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return {row["reference"]: row["split"] for row in csv.DictReader(file)}
