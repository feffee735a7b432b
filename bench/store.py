"""Results on disk: one file a cell, written whole or not at all.

A file is written under a temporary name, flushed to the disk and renamed, so "the file is there" means that the cell is
complete, also after a power cut or `kill -9`. The price is an fsync a cell, some milliseconds; a killed run leaves at
most one temporary file, which the next run removes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import BadData
from .files import write_atomically, write_json

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs on one folder are then not noticed
    fcntl = None

SCHEMA_VERSION = 1
_MERGED = 64
"""Cells that are joined as they are read: 80 kB each while they are tables of their own, a few kB once joined."""

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")

_TEXT = ("cell", "kind", "metric", "defense", "dataset", "truth_name", "image", "reference", "status", "message",
         "attack", "norm", "direction", "certificate", "certified_norm", "coverage", "check")  # fmt: skip
_COUNTS = ("height", "width", "forwards", "backwards", "queries", "n")
_NUMBERS = ("truth", "eps", "clean", "clean_lo", "clean_hi", "attacked", "attacked_lo", "attacked_hi",
            "attacked_8bit", "attacked_8bit_lo", "attacked_8bit_hi", "gain", "gain_8bit", "linf", "l2", "psnr", "ssim",
            "seconds", "score", "lo", "hi", "family_lo", "family_hi", "alpha", "sigma", "spread",
            "range_lo", "range_hi", "value", "threshold")  # fmt: skip
_FLAGS = ("lower_better", "randomised", "bounded", "abstained", "raised")
SCHEMA = pa.schema(
    [pa.field(n, pa.string()) for n in _TEXT]
    + [pa.field(n, pa.int64()) for n in _COUNTS]
    + [pa.field(n, pa.float64()) for n in _NUMBERS]
    + [pa.field(n, pa.bool_()) for n in _FLAGS],
    metadata={"robustiqa_schema": str(SCHEMA_VERSION)},
)
"""A row an image (for a certificate: an image, eps and kind; for reliability checks: a check); a column that does not
apply is null."""


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default") if tables else SCHEMA.empty_table()


class Store:
    """The folder of a run: `run.json`, `plan.json`, `cells/`, `errors/`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.cells, self.errors = self.root / "cells", self.root / "errors"

    def create(self) -> None:
        """Make the folders, and remove what a killed run left half written."""
        try:
            for folder in (self.cells, self.errors):
                folder.mkdir(parents=True, exist_ok=True)
            # Only names that `write_atomically` makes, and only where it makes them: OUT may hold other people's files.
            for folder in (self.root, self.cells, self.errors, self.root / "leaderboard"):
                for stale in folder.glob(".*.tmp"):
                    if _TEMPORARY.fullmatch(stale.name):
                        stale.unlink(missing_ok=True)
        except OSError as error:
            raise BadData(f"cannot write results to {str(self.root)!r} ({error.strerror}): choose another --out"
                          ) from error  # fmt: skip

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run; `BadData` if another one holds it. The lock dies with its process."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w")
        except OSError as error:
            raise BadData(f"cannot write results to {str(self.root)!r} ({error.strerror}): choose another --out"
                          ) from error  # fmt: skip
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BadData(f"another run is writing to {str(self.root)!r}: wait for it, or choose another --out"
                                  ) from None  # fmt: skip
            yield

    def done(self, cell: str) -> bool:
        """Whether the cell's result file is there and whole; a damaged one is computed again."""
        path = self.cells / f"{cell}.parquet"
        if not path.is_file():
            return False
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError):
            return False
        return True

    def write_cell(self, cell: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write a completed cell, and forget an error that an earlier try left."""
        table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_atomically(self.cells / f"{cell}.parquet", sink.getvalue().to_pybytes())
        (self.errors / f"{cell}.json").unlink(missing_ok=True)

    def write_error(self, cell: str, details: dict[str, Any]) -> None:
        """Record why a cell failed; it is tried again by the next run."""
        write_json(self.errors / f"{cell}.json", details)

    def failed(self, cells: Iterable[str]) -> list[str]:
        """Those of the cells that have an error file and no result."""
        return [cell for cell in cells if not self.done(cell) and (self.errors / f"{cell}.json").is_file()]

    def read_rows(self, cells: Iterable[str], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows of the cells that are done, in the order given; a corrupt file is a `BadData` that names it.

        Args:
            cells: ids.
            columns: only these; None for all.
        """
        tables: list[pa.Table] = []
        merged: list[pa.Table] = []
        for cell in cells:
            path = self.cells / f"{cell}.parquet"
            if not path.is_file():
                continue
            try:
                table = pq.read_table(path, columns=list(columns) if columns else None)
            except (pa.ArrowException, OSError) as error:
                raise BadData(f"result file {str(path)!r} is corrupt: delete it and run again") from error
            version = (table.schema.metadata or {}).get(b"robustiqa_schema", b"?").decode()
            if version != str(SCHEMA_VERSION):
                raise BadData(f"result file {str(path)!r} has schema {version}, this program reads {SCHEMA_VERSION}: "
                              "run the suite again, or use the version that wrote it")  # fmt: skip
            tables.append(table)
            if len(tables) == _MERGED:
                merged.append(_joined(tables).combine_chunks())
                tables = []
        return _joined([*merged, *tables]).to_pandas()

    def read_json(self, name: str) -> dict[str, Any]:
        """`run.json` or `plan.json`."""
        path = self.root / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadData(f"{str(self.root)!r} holds no {name}: give the folder of a `robustiqa run`") from None
        except ValueError as error:
            raise BadData(f"{str(path)!r} is corrupt ({error}): run the suite again into this folder") from error
