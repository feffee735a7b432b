"""Publishing a board: the records of finished runs, united, with nothing of the machine that made them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..bench.errors import BadData, BadParameter, counted
from ..bench.files import make_folder, no_os_errors, write_atomically, write_json
from ..bench.merge import MAP, merge_runs
from ..bench.provenance import HISTORY, RECORD
from ..bench.records import SUFFIX
from ..bench.store import Store
from .brief import brief, described, sections
from .brief_plot import plot_brief
from .collect import collect
from .report.frames import read_table

PLAN, CELLS = "plan.json", "cells"
KEPT = (RECORD, PLAN, MAP, HISTORY, CELLS)
"""What is published: the record, the plan, which run each cell is from, the records of all runs into each folder (in
`runs/FOLDER`), and the cells. No images, no draws of certificates, no logs: those name hosts, and images are often not
ours to show."""

PICTURE = "comparison.png"
BEGIN, END = "<!-- board: begin -->", "<!-- board: end -->"
"""Lines of a README between which the board stands."""

_TEXT = ("truth_name", "image", "reference", "message")
"""Columns of a cell that may hold text which neither plan nor record has."""


def publish(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Unite finished runs in a folder that may be shown to anybody; what it held of an earlier board is replaced.

    Args:
        runs: folders of runs; one may be enough.
        out: the folder. `collect`, `report`, `export`, `reproduce` and `compare` read it like that of any run.

    Returns:
        the folder.

    Raises:
        BadData: a planned cell has no result, or a text holds a path or a name of this machine; nothing is written.
    """
    out = Path(out)
    make_folder(out)
    with no_os_errors(out), tempfile.TemporaryDirectory(dir=out.parent) as folder:
        fresh = Path(folder)
        merged = merge_runs(runs, fresh)
        if missing := [*merged.failed, *merged.missing]:
            raise BadData(f"{counted(len(missing), 'cell')} of {len(merged.cells) + len(missing)} without a result, "
                          f"such as {missing[0]}: run the suite again until all are there, or take out of it what "
                          "cannot be run")  # fmt: skip
        _keep_history(runs, fresh)
        for where, text in texts(fresh):
            for name in _own_names():
                if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
                    raise BadData(f"{where} holds {name!r}, which is of this machine: run again in a folder that "
                                  "holds the results too, with names of files relative to it, such as "
                                  "scnn[weights=scnn.pkl]")  # fmt: skip
        for name in KEPT:
            _remove(out / name)
            shutil.move(fresh / name, out / name)
    return out


def restore(root: str | Path, name: str, out: str | Path) -> Path:
    """Make one of the runs that a published folder unites into a folder of its own, which `publish` takes again.

    So a board grows from machine to machine: what was published before goes into the next one without being run again.

    Args:
        root: folder of `publish`.
        name: folder of the run, as in `root/runs`.
        out: a new folder.

    Raises:
        BadData: `root` is no published folder, or damaged; `out` is not empty.
        BadParameter: there is no such run in it.
    """
    store, out = Store(root), Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise BadData(f"folder {str(out)!r} is not empty: name a new one")
    record, united = store.read_json(RECORD), store.read_json(MAP)
    names = [Path(source).name for source in united["sources"]]
    if name not in names:
        raise BadParameter(f"{str(root)!r} has no run {name!r}: it unites {', '.join(names)}")
    plan = store.read_json(PLAN)
    plan["cells"] = [cell for cell in plan["cells"] if united["cells"].get(cell["id"]) == names.index(name)]
    pairs = {(cell["metric"], cell["defense"]) for cell in plan["cells"]}
    sets = {cell["dataset"] for cell in plan["cells"]}
    run = record["merged"][names.index(name)]["run"]
    plan |= {
        "asked": [pair for pair in plan["asked"] if tuple(pair) in pairs],
        "costs": [cost for cost in plan["costs"] if tuple(cost[:2]) in pairs],
        "datasets": [entry for entry in plan["datasets"] if entry[0] in sets],
        "skipped": [[left["what"], left["why"]] for left in run["left_out"]],
    }
    found = store.snapshot().results
    make_folder(out / CELLS)
    with no_os_errors(out):
        for cell in plan["cells"]:
            shutil.copyfile(store.cells / found[cell["id"]], out / CELLS / found[cell["id"]])
        write_json(out / PLAN, plan)
        shutil.copytree(Path(root) / HISTORY / name, out / HISTORY)
        write_json(out / RECORD, run)
    return out


def _keep_history(runs: Sequence[str | Path], out: Path) -> None:
    """Copy the records of all runs into each folder, in the place of the one that the union has made."""
    shutil.rmtree(out / HISTORY)
    for run in map(Path, runs):
        kept = out / HISTORY / run.name
        kept.mkdir(parents=True)
        for path in sorted((run / HISTORY).glob("*.json")):
            shutil.copyfile(path, kept / path.name)


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Every text of a published run that a machine may have left its names in, with the file that holds it."""
    for path in sorted(root.rglob("*.json")):
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
        yield path.relative_to(root).as_posix(), text
    store = Store(root)
    for cell in store.snapshot().results:
        table = store.read_cell(cell)
        found = {value for column in _TEXT for value in table[column].to_pylist() if value is not None}
        yield f"{CELLS}/{cell}{SUFFIX}", "\n".join(sorted(found))


def write_brief(root: str | Path, readme: str | Path) -> None:
    """Write the tables of a published run, its picture, and the section of a README that shows them.

    From the records alone: no data, weights or plug-ins. The same records give the same bytes; the picture does with
    the same matplotlib.

    Args:
        root: folder of `publish`.
        readme: Markdown file with the lines `BEGIN` and `END`; what stands between them is replaced.

    Raises:
        BadData: the folder is no run, or damaged.
        BadParameter: the README lacks one of the lines.
        BrokenInvariant: the records cannot be right.
    """
    root, readme = Path(root), Path(readme)
    tables = collect(root)
    shown = brief(root)
    picture = plot_brief(shown, read_table(tables["certified"]), root / PICTURE)
    where = Path(os.path.relpath(picture, readme.parent)).as_posix()
    section = f"![{described(shown)}]({where})\n\n{sections(shown)}"
    text = readme.read_text(encoding="utf-8")
    before, found, rest = text.partition(f"{BEGIN}\n")
    _, ended, after = rest.partition(f"{END}\n")
    if not (found and ended):
        raise BadParameter(f"{str(readme)!r} has no place for the board: write the lines {BEGIN} and {END} into it")
    write_atomically(readme, f"{before}{BEGIN}\n{section}{END}\n{after}".encode())


def _own_names() -> list[str]:
    """What must not be read in a published folder: names of this machine, its user's home and its data."""
    data = os.environ.get("ROBUSTIQA_DATA")
    folders = [Path.home(), Path.cwd(), *([Path(data), Path(data).resolve()] if data else [])]
    shown = [str(folder) for folder in folders if len(folder.parts) > 1]
    return list(dict.fromkeys([*shown, platform.node()]))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
