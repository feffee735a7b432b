"""The page docs/speed.md and its pictures, from the JSON files of one or several machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from robustiqa.leaderboard.board import escaped

from .plots import plot_growth, plot_ratios
from .session import Session
from .tables import Table
from .text import markdown

BEGIN, END = "<!-- limits: begin -->", "<!-- limits: end -->"
"""What stands between these lines of the page is written by hand, and stays when the page is written again."""

_HEAD = """# Speed

Every figure is a ratio to a baseline that was measured in the same run, in turns with it: each round runs every piece
of work once, in a shuffled order, and gives one ratio. The tables show the median of these ratios with a 95 % bootstrap
interval, their quartiles, and the absolute median as context, which means nothing on another machine. Blocks of
repetitions, one case after another, would put into the ratio whatever else the machine did in between.

`make bench` writes this page (`python -m benchmarks --out FILE`, then `python -m benchmarks page FILE`), but for the
section on limits. `python -m benchmarks --list` names the benchmarks, which can be run alone; `python -m benchmarks
profile certify` shows where the time goes.
"""
_READS = {
    "speed": "The baseline's time over the row's: above 1 is faster than the baseline.",
    "cost": "The row's reading over the baseline's: above 1 costs more than the baseline.",
}


def write_page(sessions: Sequence[Session], page: Path) -> list[Path]:
    """Write the page, and its pictures into the folder `img` beside it; returns the paths of all.

    What stands between `BEGIN` and `END` of a page that is there already is kept.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    (page.parent / "img").mkdir(exist_ok=True)
    kept = _kept(page)
    parts, paths = [_HEAD], [page]
    for number, session in enumerate(sessions):
        suffix = f"-{number + 1}" if number else ""
        pictures = _pictures(session, page.parent / "img", suffix)
        paths += pictures
        parts += _section(session, pictures)
    parts += ["## What limits it", f"{BEGIN}\n{kept}{END}"]
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    return paths


def _kept(page: Path) -> str:
    """The lines that were written by hand."""
    if not page.is_file():
        return ""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    text, found, _ = rest.partition(END)
    return text if found else ""


def _pictures(session: Session, folder: Path, suffix: str) -> list[Path]:
    """The pictures that there are figures for."""
    grown = [table for table in session.tables if table.growth is not None]
    compared = [table for table in session.tables if table.growth is None and len(table.rows) > 1]
    found = []
    if compared:
        found.append(plot_ratios(compared, folder / f"speed-ratios{suffix}.png"))
    if grown:
        found.append(plot_growth(grown, folder / f"speed-growth{suffix}.png"))
    return found


def _section(session: Session, pictures: Sequence[Path]) -> Iterator[str]:
    """A machine: what it is, its pictures, its tables."""
    yield f"## On {escaped(machine(session.about))}"
    yield "\n".join(f"- {line}" for line in conditions(session.about))
    if session.about["settings"]["quick"]:
        yield "**Quick settings: few rounds of little work. The figures show that everything runs, and nothing else.**"
    yield from (f"![{_described(picture)}](img/{picture.name})" for picture in pictures)
    if session.errors:
        yield "\n".join(f"- FAILED: {escaped(name)}: {escaped(why)}" for name, why in session.errors.items())
    for how, tables in groupby(session.tables, key=lambda table: (table.how, table.reads)):
        group = list(tables)
        yield f"### {escaped(_together(group))}"
        yield f"{escaped(how[0])} {_READS[how[1]]}"
        for table in group:
            if len(group) > 1:
                yield f"**{escaped(_apart(table))}**"
            yield markdown(table)


def _together(tables: Sequence[Table]) -> str:
    """A heading for tables that were measured alike: what stands before the colon of their titles."""
    return tables[0].title.partition(":")[0] if len(tables) > 1 else tables[0].title


def _apart(table: Table) -> str:
    """What the title says of this table alone."""
    return table.title.partition(": ")[2] or table.title


def _described(picture: Path) -> str:
    if "ratios" in picture.name:
        return "Ratios with their intervals"
    return "Cost against size, in units of the first point"


def machine(about: dict[str, Any]) -> str:
    """The processor or GPU, and the threads, in a line."""
    found = about["hardware"]
    threads = about["numerics"]["threads"]
    where = found.get("gpu") or found.get("processor") or found["system"]
    return f"{where}, {threads} thread{'s' * (threads != 1)}"


def conditions(about: dict[str, Any]) -> Iterator[str]:
    """What the figures depend on."""
    found, git = about["hardware"], about["git"]
    what = [found["system"], found["processor"], found["capability"]]
    what.append(f"{found['usable_cores']} of {found['cores']} cores")
    if found["memory_gb"]:
        what.append(f"{found['memory_gb']:g} GB")
    yield escaped(", ".join(str(part) for part in what if part))
    if "gpu" in found:
        what = [found["gpu"], f"{found['gpu_memory_gb']:g} GB", f"driver {found['driver']}", f"CUDA {found['cuda']}"]
        yield escaped(", ".join(what))
    packages = [f"{name} {version}" if version else f"without {name}" for name, version in about["packages"].items()]
    yield escaped(", ".join(packages))
    revision = f"`{git['revision'][:12]}`{' with changes' if git['dirty'] else ''}" if git else "unknown"
    yield f"revision {revision}, {escaped(about['made'])}"
