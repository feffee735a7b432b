"""`robustiqa reproduce`: one row of a board, computed again in a fresh folder, and compared."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml
from tabulate import tabulate

from ...leaderboard.left_out import FLAG as LEFT_OUT
from ...leaderboard.rows import NOT_ITS_OWN, Column, Row, compare_rows, find_row, needed_suite
from ..errors import BadData, BadPlugin
from ..files import make_folder, no_links, write_atomically
from ..imports import file_digest
from ..plan import read_run
from ..provenance import HISTORY, differences, found_path, may_be_set, threads_of
from ..registry import PACKAGE
from ..store import Store
from ..terminal import echo
from ..trust import trusted
from .options import with_plugins

OTHER_CONDITIONS = 1e-3
"""Tolerance where code, packages, plug-ins, data or hardware are not those of the run."""

_OF_THE_MACHINE = "CUDA_VISIBLE_DEVICES"


class Run(NamedTuple):
    """A run record, and the folder that its paths are seen from."""

    record: Mapping[str, Any]
    root: Path


class Call(NamedTuple):
    """A command as it is typed.

    Attributes:
        folder: where, if it is not the present one.
        environment: variables set for it.
        words: after `robustiqa`.
    """

    folder: Path | None
    environment: dict[str, str]
    words: list[str]

    @property
    def text(self) -> str:
        """One line for a shell."""
        where = f"cd {shlex.quote(str(self.folder))} && " if self.folder else ""
        variables = "".join(f"{name}={shlex.quote(value)} " for name, value in self.environment.items())
        return f"{where}{variables}{PACKAGE} {shlex.join(self.words)}"

    def run(self) -> int:
        """Run it; its board is not shown, its progress is. Returns the exit code."""
        # The folder comes from a record, which may be a stranger's: no module is to be imported from there (-P).
        command = [sys.executable, "-P", "-m", f"{PACKAGE}.bench.cli", *self.words]
        here = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
        environment = os.environ | self.environment | {"PYTHONPATH": here}
        return subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL).returncode


@click.command()
@click.argument("row")
@click.option("--from", "source", required=True, type=click.Path(file_okay=False), help="Folder of the run.")
@click.option("--out", type=click.Path(file_okay=False), help="Fresh folder; by default one in FROM/reproduced.")
@click.option("--dry-run", is_flag=True, help="Write the suite and print the command; run nothing.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=None,
    help=f"Largest |a - b| / max(1, |a|); by default 0, or {OTHER_CONDITIONS:g} under other conditions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def reproduce(
    row: str, source: str, out: str | None, dry_run: bool, tolerance: float | None, as_json: bool
) -> None:  # fmt: skip
    """Compute ROW of a run's board again, and compare it with what the board says.

    ROW is an id from the column `row` of summary.csv, empirical.csv, threats.csv or certified.csv, or its beginning.
    Only the cells that the row is made of are run. Every column is compared but its rank, which is its place among
    others, and seconds.
    """
    root = Path(source)
    found = find_row(root, row)
    if found.values.get("flags") == LEFT_OUT:
        raise BadData(f"row {found.id} was left out of this board by whoever wrote it, so there is nothing to compare: "
                      f"`robustiqa collect {root}` writes the whole board")  # fmt: skip
    if {found.values[count] for count in ("n_ok", "n_naive", "n_adaptive") if count in found.values} == {"0"}:
        raise BadData(f"row {found.id} of {found.table}.csv has no result of any image, so there is nothing to "
                      f"compare: see {str(root / 'errors')!r} and errors.csv beside the table")  # fmt: skip
    record, suite, plan = read_run(Store(root))
    runs = list(_runs(record, root))
    fresh = _fresh(root, found, out)
    part = needed_suite(suite, plan.cells, found).model_dump(mode="json", by_alias=True)
    make_folder(fresh)
    write_atomically(fresh / "suite.yml", yaml.safe_dump(part, sort_keys=False, allow_unicode=True).encode())
    call = _call(runs, fresh)
    if dry_run:
        echo(json.dumps({"row": found.id, "command": call.text}, indent=2) if as_json else call.text)
        return
    echo(call.text, err=as_json)
    _check_programs(runs)
    code = call.run()
    if not (fresh / "leaderboard" / f"{found.table}.csv").is_file():
        raise BadData(f"the command above stopped with exit code {code} before it wrote a board: see what it said")
    now = Store(fresh).read_json("run.json")
    changed = [*_mixed(root, runs), *dict.fromkeys(text for run in runs for text in differences(run.record, now))]
    allowed = tolerance if tolerance is not None else OTHER_CONDITIONS if changed else 0.0
    columns = compare_rows(found, find_row(fresh, found.id), allowed)
    same = all(column.same for column in columns)
    if as_json:
        about = {"row": found.id, "table": found.table, "command": call.text, "out": str(fresh), "same": same}
        more = {"tolerance": allowed, "changed": changed, "columns": [column._asdict() for column in columns]}
        echo(json.dumps(about | more, indent=2))
    else:
        _show(found, columns, changed, allowed, fresh)
    sys.exit(0 if same else 1)


def _fresh(root: Path, row: Row, out: str | None) -> Path:
    """A folder without results: those of an earlier try would be taken for new ones."""
    if out is not None:
        if Path(out).is_dir() and any(name.name != "suite.yml" for name in Path(out).iterdir()):
            raise BadData(f"folder {out!r} is not empty: what is in it would not be computed again; choose another")
        return Path(out)
    folder, number = root / "reproduced" / row.id, 1
    while (folder / "run.json").exists():
        number += 1
        folder = folder.with_name(f"{row.id}-{number}")
    no_links(root, ("reproduced", f"reproduced/{folder.name}"))
    return folder


def _runs(record: Mapping[str, Any], root: Path) -> Iterator[Run]:
    """The run of a record, or those that it was merged from."""
    for part in record.get("merged", ()):
        yield from _runs(part["run"], found_path(part["folder"], root))
    if "merged" not in record:
        yield Run(record, root)


def _call(runs: Sequence[Run], fresh: Path) -> Call:
    """The run of the suite in `fresh` as it was then: device, threads, batch, plug-in files, working folder."""
    here, (record, root) = Path.cwd().resolve(), runs[0]
    folder = found_path(record["folder"], root) if "folder" in record else here
    folder = folder if folder.is_dir() else here
    words = ["run", "--suite", _from(folder, fresh / "suite.yml"), "--out", _from(folder, fresh)]
    if record.get("device", "cpu") != "cpu":
        words += ["--device", record["device"]]
    execution = record.get("execution", {})
    if execution.get("batch"):
        words += ["--batch", str(execution["batch"])]
    for option, path in _programs(runs):
        words += [option, _from(folder, path)]
    # Only those: a record is somebody's file, and others would decide which programs run.
    told = {name: value for name, value in record.get("environment", {}).items() if may_be_set(name, value)}
    environment = {name: value for name, value in told.items() if name != _OF_THE_MACHINE}
    if threads := threads_of(record):
        environment["OMP_NUM_THREADS"] = str(threads)
    return Call(None if folder == here else folder, environment, words)


def _from(folder: Path, path: Path) -> str:
    """A path as it is typed in a folder: the short way if it is inside."""
    path = path.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _programs(runs: Sequence[Run]) -> list[tuple[str, Path]]:
    """The files with code of the user's that the runs were given, each with its option.

    Of files that the user names now, one with the same content is taken, wherever it is; one with the same name only
    where the recorded file is no longer there.
    """
    named, found = trusted(), list[tuple[str, Path]]()
    for record, root in runs:
        for entry in record.get("plugin_files", ()):
            path = found_path(entry["file"], root)
            same = [other for other in named if file_digest(other) == entry["digest"]]
            alike = [other for other in named if other.name == path.name] if not path.is_file() else []
            found.append(("--plugin", path if path in named else next(iter((*same, *alike)), path)))
        found += [("--trust", found_path(shown, root)) for shown in record.get("trusted_files", ())]
    return list(dict.fromkeys(found))


def _check_programs(runs: Sequence[Run]) -> None:
    """Raise `BadPlugin` unless the user names every program that only the record names: records are passed around."""
    named = set(trusted())
    missing = [f"{option} {shlex.quote(str(path))}" for option, path in _programs(runs) if path not in named]
    if missing:
        raise BadPlugin("the run leans on programs that only its record names; if you know what they do, name them "
                        f"where they are now: {' '.join(missing)}")  # fmt: skip


def _mixed(root: Path, runs: Sequence[Run]) -> list[str]:
    """A sentence where the runs that filled a folder were under different conditions: either may have given the row."""
    records = [run.record for run in runs]
    if len(runs) == 1:
        history = sorted((runs[0].root / HISTORY).glob("*.json"))
        records = [Store(root).read_json(f"{HISTORY}/{path.name}") for path in history]
    if any(next(differences(record, records[-1]), None) for record in records):
        return [
            f"the {len(records)} runs into {str(root)!r} were not under the same conditions, see its folder {HISTORY!r}"
        ]
    return []


def _show(row: Row, columns: Sequence[Column], changed: Sequence[str], tolerance: float, fresh: Path) -> None:
    differing = [column for column in columns if not column.same]
    if differing:
        shown = [(column.column, column.stored, column.again) for column in differing]
        echo(tabulate(shown, headers=["column", "stored", "again"], disable_numparse=True))
    for sentence in changed:
        echo(f"not as in the run: {sentence}")
    where = ", ".join(f"{row.values[key]}" for key in ("metric", "defense", "dataset"))
    how = f"to {tolerance:g}" if tolerance else "in every digit that is written"
    verdict = f"{len(differing)} of {len(columns)} columns differ" if differing else f"all {len(columns)} columns agree"
    left = "; ".join(f"{name}: {why}" for name, why in NOT_ITS_OWN.items() if name in row.values)
    echo(f"row {row.id} of {row.table}.csv ({where}): {verdict} {how}" + (f" (not compared: {left})" if left else ""))
    echo(str(fresh))
