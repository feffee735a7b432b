"""What stands around the network: the runner, the loading of images, the report."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from PIL import Image
from robustiqa.bench.cache import FOLDER
from robustiqa.leaderboard import collect
from robustiqa.leaderboard.report import report

from examples import made_up_board, measure_loading, measure_runner

from .interleave import Readings
from .subjects import LARGE, photographs, shown
from .tables import Settings, Table, compare, series, table_of

_RUNNER_HOW = """Wall-clock time of one cell (an attack on `tiny-iqa`) by the bare loop, which only computes it,
by the inline runner (tries, log, progress, a result file that is synced) and by the runner of `--executor
local` (the same in a child process, which is watched). Measured by `examples/measure_runner.py`."""

_LOADING_HOW = """CPU time of reading the same files: decoding by Pillow alone; as the suite loads an image
(with its checks, to a float tensor); and the same from the cache of decoded pixels. Measured by
`examples/measure_loading.py`."""

_REPORT_HOW = """A made-up run of `examples/made_up_board.py`. Reading decompresses its records and parses them
into pandas frames, which is the least that can be done; `collect` makes all tables, `report` collects and then
writes the page."""


def runner(settings: Settings) -> Iterator[Table]:
    """The runner over the bare loop."""
    seconds = 0.2 if settings.quick else 2.0
    with tempfile.TemporaryDirectory() as folder:
        found = measure_runner.measure(seconds, settings.rounds, Path(folder) / "out")
    walls = {name: values[:, 0] for name, values in found.items()}
    yield table_of(
        Readings(walls), "runner", f"Runner: a cell of about {seconds:g} s", _RUNNER_HOW,
        baseline="bare loop", reads="cost", settings=settings,
    )  # fmt: skip


def loading(settings: Settings) -> Iterator[Table]:
    """Loading over decoding, for JPEG and PNG."""
    count = 3 if settings.quick else 20
    kept = os.environ.get(FOLDER)
    for suffix in ("jpg", "png"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = _saved(folder, suffix, count)
            try:
                found = measure_loading.times(files, folder / "cache", settings.rounds)
            finally:
                _restore(kept)
        rounds = {way: 1e-3 * values.reshape(settings.rounds, count).mean(1) for way, values in found.items()}
        yield table_of(
            Readings(rounds), f"loading-{suffix}", f"Loading: {suffix.upper()} of {shown(LARGE)}", _LOADING_HOW,
            baseline="Pillow", reads="cost", settings=settings,
        )  # fmt: skip


def _saved(folder: Path, suffix: str, count: int) -> list[Path]:
    """Photographs as files."""
    paths = [folder / f"{i:03}.{suffix}" for i in range(count)]
    for path, image in zip(paths, photographs(count, LARGE), strict=True):
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return paths


def _restore(cache: str | None) -> None:
    """Set the cache folder as it was."""
    os.environ.pop(FOLDER, None)
    if cache is not None:
        os.environ[FOLDER] = cache


def reports(settings: Settings) -> Iterator[Table]:
    """Tables and page over reading the records, and their cost against the number of images."""
    sizes, settings = ((10, 20) if settings.quick else (50, 200, 800)), settings.at_most(5)
    with tempfile.TemporaryDirectory() as name:
        roots = {images: Path(name) / str(images) for images in sizes}
        rows = {images: _made_up(root, images) for images, root in roots.items()}
        root = roots[sizes[-1]]
        yield compare(
            {"reading": lambda: _read(root), "collect": lambda: collect(root), "report": lambda: report(root)},
            settings,
            name="report", title=f"Report: a run with {rows[sizes[-1]]:,} rows of attacks", how=_REPORT_HOW,
            baseline="reading", reads="cost",
        )  # fmt: skip
        yield series(
            {float(images): lambda root=root: report(root) for images, root in roots.items()},
            "report-images", "Report: against the number of images", _REPORT_HOW,
            expected=1.0, settings=settings,
        )  # fmt: skip


def _made_up(root: Path, images: int) -> int:
    """Write a run; returns its rows of attacks."""
    return made_up_board.make(root, made_up_board.DEFENSES[:3], made_up_board.METRICS[:1], 4, images)


def _read(root: Path) -> int:
    """Rows of all records, read without this package, as `docs/results.md` shows."""
    total = 0
    for path in sorted((root / "cells").glob("*.arrow.gz")):
        with gzip.open(path) as file:
            frame: pd.DataFrame = pa.ipc.open_stream(file).read_pandas()
        total += len(frame)
    return total
