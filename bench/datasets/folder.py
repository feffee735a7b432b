"""A folder of one's own images, with an optional table of scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from ..errors import BadData, UnknownName
from ..images import load_image
from ..registry import register_dataset
from .base import Dataset, Item

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".jp2"}


@register_dataset("folder")
class Folder(Dataset):
    """Every image file of a folder, in the order of the names; scores from a CSV if one is named.

    Args:
        root: the folder.
        table: CSV inside the folder, with a row an image; "" for no ground truth.
        image: column with the file name, relative to the folder.
        score: column with the score.
        reference: column that says which photograph an image was made from; "" if each is its own.
        lower_better: whether the column is a DMOS, which is then negated.
    """

    def __init__(
        self,
        root: str,
        table: str = "",
        image: str = "image",
        score: str = "mos",
        reference: str = "",
        lower_better: bool = False,
    ) -> None:
        self._root = Path(root)
        if not self._root.is_dir():
            raise BadData(f"folder {root!r} does not exist: give the folder that holds the images")
        self._columns = (image, score, reference)
        self._sign = -1.0 if lower_better else 1.0
        self._table = table
        self.truth_name = "MOS" if table else None

    @cached_property
    def items(self) -> Sequence[Item]:
        """The images; with a table, exactly its rows."""
        if self._table:
            return self._read_table()
        files = sorted(p for p in self._root.iterdir() if p.suffix.lower() in _SUFFIXES)
        if not files:
            raise BadData(f"folder {str(self._root)!r} holds no image files ({', '.join(sorted(_SUFFIXES))})")
        return [Item(p.name, p.name, None) for p in files]

    def _read_table(self) -> list[Item]:
        path = self._root / self._table
        try:
            frame = pd.read_csv(path, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise BadData(f"table {str(path)!r} cannot be read as CSV: {error}") from error
        image, score, reference = self._columns
        for column in filter(None, self._columns):
            if column not in frame:
                raise UnknownName(f"column of {path.name}", column, map(str, frame.columns))
        items = []
        for row in frame.to_dict("records"):
            name = str(row[image])
            if not (self._root / name).resolve().is_relative_to(self._root.resolve()):
                raise BadData(f"{path.name} names {name!r}, which is outside the folder: use names inside it")
            try:
                truth = self._sign * float(row[score])
            except (TypeError, ValueError):
                raise BadData(f"{path.name} gives {name!r} the score {row[score]!r}: expected a number") from None
            if not math.isfinite(truth):
                raise BadData(f"{path.name} gives {name!r} no score: fill it in, or leave the row out")
            items.append(Item(name, str(row[reference]) if reference else name, truth))
        if len({item.id for item in items}) != len(items):
            raise BadData(f"{path.name} names an image twice: keep one row an image")
        return items

    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]; raises `BadImage`."""
        return load_image(self._root / self.items[index].id)

    @cached_property
    def content_hash(self) -> str:
        """Digest of names, scores and file contents; a missing file counts as empty, and fails when loaded."""
        digest = hashlib.sha256(repr(self.items).encode())
        for item in self.items:
            path = self._root / item.id
            digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
        return digest.hexdigest()
