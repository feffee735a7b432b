"""Results on disk: one file a cell, written whole or not at all.

A file is written under a temporary name, flushed to the disk and renamed, so "the file is there" means that the cell is
complete, also after a power cut or `kill -9`. The price is an fsync a cell, some milliseconds. Any number of processes
on any number of hosts may write into one folder on a shared file system; only the run that plans the work holds the
lock. What a killed process leaves half written is removed by a later run (`files.remove_stale`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from . import records, saved_images
from .errors import BadData
from .files import no_links, no_os_errors, remove_stale, write_atomically, write_json
from .records import SCHEMA, SCHEMA_VERSION

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs on one folder are then not noticed
    fcntl = None

Overwrite = Literal["never", "failed", "errors", "all"]
OVERWRITE: tuple[Overwrite, ...] = get_args(Overwrite)
"""What a run computes although it was computed before; see `Store.todo`."""
DEFAULT_OVERWRITE: Overwrite = "failed"

_FOLDERS = ("cells", "errors", "images", "pools", "log", "log/slurm", "runs", "leaderboard", "leaderboard-violated")
"""What a run writes to."""

_MERGED = 64
"""Cells that are joined as they are read: 11 kB each while they are tables of their own, a few kB once joined."""
_READERS = 4
"""Threads that read."""
_PATIENCE = 1.0
"""Seconds for which a run asks for the lock again: `is_locked` holds it for an instant."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

__all__ = ["DEFAULT_OVERWRITE", "OVERWRITE", "SCHEMA", "SCHEMA_VERSION", "Overwrite", "Snapshot", "Store"]


@dataclass(frozen=True)
class Snapshot:
    """What a store held at one moment, by the names of its files: three listings, whatever the number of cells.

    Attributes:
        results: cell -> name of its result file, whole or not (`Store.completed` tells).
        errors: cells with an error file.
        images: cells with adversarial images.
    """

    results: dict[str, str]
    errors: frozenset[str]
    images: frozenset[str]


class Store:
    """The folder of a run: `run.json`, `plan.json`, `cells/`, `errors/`, `images/`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.cells, self.errors, self.images = (self.root / name for name in ("cells", "errors", "images"))

    def create(self) -> None:
        """Make the folders, and remove what killed runs left half written."""
        no_links(self.root, _FOLDERS)
        with no_os_errors(self.root):
            for folder in (self.cells, self.errors):
                folder.mkdir(parents=True, exist_ok=True)
            # Only names that `write_atomically` makes, and only where it makes them: OUT may hold other people's files.
            remove_stale((self.root, self.cells, self.errors, self.images, self.root / "leaderboard"))

    @contextlib.contextmanager
    def locked(self, who: str = "run", option: str = "--out") -> Iterator[None]:
        """Hold the folder for one run; `BadData` if another one holds it. The lock dies with its process.

        `who` and `option` are what the message calls its holder, and how another folder is chosen.

        Where the file system knows no locks, the run goes on with a warning: two runs at once then do the same work
        twice, and leave the same files.
        """
        with no_os_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            # Never through a link, which would empty somebody's file: a folder may be a stranger's.
            file = open(self.root / ".lock", "a+", encoding="utf-8", opener=_no_links)  # noqa: SIM115
        with file:
            if fcntl is not None:
                self._lock(file.fileno(), who, option)
                with no_os_errors(self.root):
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {platform.node()}")
                    file.flush()
            yield

    def _lock(self, file: int, who: str, option: str) -> None:
        assert fcntl is not None
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    holder = (self.root / ".lock").read_text(encoding="utf-8", errors="replace") or "on another host"
                    raise BadData(f"another {who} ({holder}) is writing to {str(self.root)!r}: wait for it, or choose "
                                  f"another {option}") from None  # fmt: skip
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return warnings.warn(f"the file system of {str(self.root)!r} has no locks ({error.strerror}): make "
                                     f"sure that no other {who} writes there", stacklevel=3)  # fmt: skip

    def is_locked(self) -> bool:
        """Whether a run holds the folder now; False where that cannot be known (Windows, no locks)."""
        if fcntl is None:
            return False
        try:
            with (self.root / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def snapshot(self) -> Snapshot:
        """What is there now. Nothing is opened: a damaged result counts."""
        results: dict[str, str] = {}
        for suffix in reversed(records.SUFFIXES):  # a file of today's schema replaces one of an older schema
            results |= {cell: cell + suffix for cell in _names(self.cells, suffix)}
        images = frozenset(_names(self.images, saved_images.SUFFIX))
        return Snapshot(results, frozenset(_names(self.errors, ".json")), images)

    def completed(self, cells: Iterable[str], verify: bool = True) -> set[str]:
        """Those of the cells that have a result, with `verify` only whole ones: 0.1 ms a cell on a local disk."""
        results = self.snapshot().results
        there = {cell for cell in cells if cell in results}
        return {cell for cell in there if self._whole(self.cells / results[cell])} if verify else there

    def path(self, cell: str) -> Path:
        """The cell's result file, of whichever schema is there; where it will be, if none is."""
        candidates = [self.cells / f"{cell}{suffix}" for suffix in records.SUFFIXES]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def done(self, cell: str) -> bool:
        """Whether the cell's result is there and whole; a damaged one is computed again."""
        return self._whole(self.path(cell))

    def _whole(self, path: Path) -> bool:
        try:
            records.check(path.read_bytes(), str(path))
        except records.Damaged:
            return False
        except BadData:
            return True  # of a newer program: not ours to replace, and `read_cell` says so
        except OSError:
            return False
        return True

    def todo(
        self, cells: Iterable[str], overwrite: Overwrite = DEFAULT_OVERWRITE, images: Collection[str] = ()
    ) -> list[str]:
        """Those of the cells that a run has to compute, in the order given.

        Cells without a whole result always belong to them, but for those that failed with `never`. Beyond that:

        - `never`: nothing that was tried is tried again.
        - `failed` (default): cells that failed are tried again. Rows that are errors inside a completed cell stay: what
          decides them is part of the cell's id, and a run that is interrupted often would never end otherwise.
        - `errors`: completed cells with such rows are computed again, too, for what was outside (a server that did not
          answer, a file that could not be read).
        - `all`: everything. Each result stays until its replacement is complete, so an interrupted run has all cells,
          some of them old; calling it again begins from the start.

        Args:
            cells: ids.
            overwrite: one of `OVERWRITE`.
            images: cells whose images are wanted (`--save-images`): without them, they are not complete.
        """
        cells = list(cells)
        if overwrite == "all":
            return cells
        done, there = self.completed(cells), self.snapshot()
        done -= set(images) - there.images
        if overwrite == "never":
            done |= there.errors
        if overwrite == "errors":
            done = {cell for cell in done if set(self.read_cell(cell)["status"].to_pylist()) <= {"ok"}}
        return [cell for cell in cells if cell not in done]

    def write_cell(self, cell: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a completed cell, and forget an error that an earlier try left.

        Its images, if they are kept, are written before it.
        """
        target, *older = (self.cells / f"{cell}{suffix}" for suffix in records.SUFFIXES)
        write_atomically(target, records.encode(rows))
        for path in older:
            path.unlink(missing_ok=True)
        self.forget_error(cell)

    def read_cell(self, cell: str) -> pa.Table:
        """The rows of a completed cell; raises `BadData` where it is not there, damaged, or of a newer schema."""
        return self._read([self.path(cell)])

    def _read(self, paths: Sequence[Path]) -> pa.Table:
        contents: dict[str, bytes] = {}
        for path in paths:
            try:
                contents[str(path)] = path.read_bytes()
            except FileNotFoundError:
                raise BadData(f"there is no result {str(path)!r}: run the suite again into this folder") from None
            except OSError as error:
                raise BadData(f"cannot read {str(path)!r} ({error.strerror}): check the disk, or delete the file and "
                              "run again") from error  # fmt: skip
        return records.decode_many(contents)

    def read_rows(self, cells: Iterable[str], there: Snapshot | None = None) -> pd.DataFrame:
        """All rows of the cells that have a result, in the order given; a corrupt file is a `BadData` that names it.

        Args:
            cells: ids.
            there: what the store holds, where the caller knows it.
        """
        return pa.concat_tables([SCHEMA.empty_table(), *self._parts(cells, there)]).to_pandas()

    def bad_rows(self, cells: Iterable[str]) -> int:
        """Rows of those cells that are errors, not scores; for any number of cells in little memory."""
        return sum(status != "ok" for part in self._parts(cells) for status in part["status"].to_pylist())

    def _parts(self, cells: Iterable[str], there: Snapshot | None = None) -> Iterator[pa.Table]:
        """The rows of the cells that have a result, of some of them at a time."""
        results = (there or self.snapshot()).results
        paths = [self.cells / results[cell] for cell in cells if cell in results]
        parts = [paths[k : k + _MERGED] for k in range(0, len(paths), _MERGED)]
        with ThreadPoolExecutor(_READERS) as pool:  # a file server answers several at once
            # A few parts ahead, not all of them.
            for k in range(0, len(parts), 4 * _READERS):
                yield from pool.map(self._read, parts[k : k + 4 * _READERS])

    def write_error(self, cell: str, details: Mapping[str, Any]) -> None:
        """Record why a cell failed, a sentence under `error` among the details."""
        write_json(self.errors / f"{cell}.json", dict(details))

    def has_error(self, cell: str) -> bool:
        """Whether the last try of the cell failed."""
        return (self.errors / f"{cell}.json").is_file()

    def reason(self, cell: str) -> str | None:
        """Why the cell failed, in a sentence; None if it did not."""
        try:
            return str(json.loads((self.errors / f"{cell}.json").read_text(encoding="utf-8"))["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "its error file cannot be read: run again"

    def failed(self, cells: Iterable[str]) -> dict[str, str]:
        """Those of the cells that have an error file and no result, with the reason.

        A cell that failed when it was computed once more keeps its result, and is not among them (`has_error`).
        """
        there = self.snapshot()
        failed = [cell for cell in cells if cell in there.errors]
        done = {cell for cell in failed if cell in there.results and self.done(cell)}
        return {cell: self.reason(cell) or "" for cell in failed if cell not in done}

    def forget(self, cell: str) -> None:
        """Remove the cell's result, its error and its images."""
        with no_os_errors(self.root):
            for suffix in records.SUFFIXES:
                (self.cells / f"{cell}{suffix}").unlink(missing_ok=True)
            images = self.images / f"{cell}{saved_images.SUFFIX}"
            images.unlink(missing_ok=True)
            shutil.rmtree(saved_images.folder_of(images), ignore_errors=True)
        self.forget_error(cell)

    def forget_error(self, cell: str) -> None:
        """Remove the cell's error, if there is one."""
        with no_os_errors(self.root):
            (self.errors / f"{cell}.json").unlink(missing_ok=True)

    def write_images(self, cell: str, images: Mapping[str, np.ndarray]) -> None:
        """Keep the adversarial images of a cell by image id, (3,H,W) in [0,1]: exact floats, and 8-bit PNGs."""
        saved_images.write_images(self.images / f"{cell}{saved_images.SUFFIX}", images)

    def read_images(self, cell: str) -> dict[str, np.ndarray]:
        """The exact adversarial images of a cell by image id; raises `BadData` where they are not there or damaged."""
        return saved_images.read_images(self.images / f"{cell}{saved_images.SUFFIX}")

    def read_json(self, name: str, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
        """`run.json` or `plan.json`; `hook` is given each object in it, and what it returns takes its place."""
        path = self.root / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
        except FileNotFoundError:
            raise BadData(f"{str(self.root)!r} holds no {name}: give the folder of a `robustiqa run`") from None
        except (ValueError, RecursionError) as error:
            raise BadData(f"{str(path)!r} is corrupt ({error}): run the suite again into this folder") from error
        if not isinstance(found, dict):
            raise BadData(f"{str(path)!r} is damaged (no JSON object): run the suite again into this folder")
        schema = found.get("schema")
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise BadData(f"{str(path)!r} has schema {schema}, this program reads up to {SCHEMA_VERSION}: update "
                          "robustiqa to the version that wrote it")  # fmt: skip
        return found


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _names(folder: Path, suffix: str) -> Iterator[str]:
    """Names in a folder that end so, without that end; none if there is no such folder. Hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    yield entry.name.removesuffix(suffix)
    except (FileNotFoundError, NotADirectoryError):
        return
