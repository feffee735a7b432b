"""`robustiqa submit pack`, `show`, `unpack`, `accept` and `table`: nothing of an archive is run by any of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from ..errors import counted
from ..registry import PACKAGE, resolve_target
from ..sources.places import human
from ..submission.metadata import BreakSubmission
from ..submission.packing import Packed, unpack_sources
from ..submission.packing import pack as pack_folder
from ..terminal import echo, printable

_BOARD = f"{PACKAGE}.leaderboard.submissions"
INTO = "leaderboard/results/submissions"
_HEADERS = {"defense": "defence", "metric": "metric", "dataset": "data set", "measure": "measure", "threat": "threat",
            "claimed": "claimed", "measured": "measured", "verified": "verified", "verdict": "verdict"}  # fmt: skip

_archive = click.argument("archive", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.zip")
_into = click.option("--into", default=INTO, show_default=True, type=click.Path(file_okay=False, path_type=Path),
                     help="Folder of the accepted submissions.")  # fmt: skip
_boards = click.option("--board", "boards", multiple=True, type=click.Path(file_okay=False, path_type=Path),
                       help="Folder of a run whose rows accepted breaks may speak of; repeatable.")  # fmt: skip


@click.command()
@click.argument("path", type=click.Path(file_okay=False, path_type=Path))
@click.option("--verified", type=click.Path(file_okay=False, path_type=Path),
              help="What `submit verify` has written (default: PATH/verified).")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The archive (default: NAME.zip).")
def pack(path: Path, verified: Path | None, out: Path | None) -> None:
    """Pack the verified submission in the folder PATH into one archive, to be sent to a board.

    Nothing is run. The same folder gives the same bytes; paths of this machine are left out.
    """
    archive, packed = pack_folder(path, verified, out)
    echo(f"{archive} ({human(packed.bytes)})")
    echo(f"digest {packed.digest}")
    echo(f"next: `robustiqa submit show {archive}` says what others will see")


@click.command()
@_archive
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(archive: Path, as_json: bool) -> None:
    """Check a packed submission as `accept` does, and show what is in it; nothing is run and nothing kept."""
    found: Any = resolve_target(f"{_BOARD}:look")(archive)
    if as_json:
        data = {"digest": found.packed.digest, "submission": found.packed.submission.model_dump(by_alias=True),
                "rows": [_plain(row) for row in found.rows], "notes": found.notes}  # fmt: skip
        echo(json.dumps(data, indent=2, allow_nan=False))
        return
    for name, text in _facts(found.packed):
        echo(f"{name:<12} {printable(text, lines=False)}")
    echo("")
    echo(_table(found.rows))
    for note in found.notes:
        echo(f"note: {note}")
    echo("These figures are of the author's records. Whether they are true is known once `submit verify` has run the "
         "unpacked archive on a machine that you trust.")  # fmt: skip


@click.command()
@_archive
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
def unpack(archive: Path, folder: Path) -> None:
    """Check a packed submission, and write what was submitted into a new folder, to be read, and then verified.

    `robustiqa submit verify FOLDER` runs the program in it: read it first, and run it where it can do no harm.
    """
    for name in unpack_sources(archive, folder):
        echo(str(folder / name))


@click.command()
@_archive
@_into
@click.option("--verified", type=click.Path(file_okay=False, path_type=Path),
              help="What `submit verify` has written of the unpacked archive on the maintainers' machine.")  # fmt: skip
@_boards
def accept(archive: Path, into: Path, verified: Path | None, boards: tuple[Path, ...]) -> None:
    """Add a packed submission to the board's folder after every check, and write the tables there again.

    Kept are metadata and records: no program, no weights, no image. With --verified, which may be added to one that was
    accepted before, the maintainers' own figures stand beside the author's, and a break counts.
    """
    entry, tables = resolve_target(f"{_BOARD}:accept")(archive, into, verified, boards)
    echo(f"accepted: {entry.submission.name}, digest {entry.digest}")
    for path in tables.values():
        echo(str(path))


@click.command()
@_into
@_boards
def table(into: Path, boards: tuple[Path, ...]) -> None:
    """Write the tables of the accepted submissions again; the same records give the same bytes."""
    for path in resolve_target(f"{_BOARD}:write_tables")(into, boards).values():
        echo(str(path))


def _facts(packed: Packed) -> Iterable[tuple[str, str]]:
    about = packed.submission
    yield "submission", f"{about.name} ({about.kind}): {about.title}"
    yield "authors", ", ".join(f"{a.name} ({a.affiliation})" if a.affiliation else a.name for a in about.authors)
    yield "code", f"{about.code}, {about.licence}"
    if about.paper is not None:
        yield "paper", about.paper.url
    if isinstance(about, BreakSubmission):
        target = about.target
        yield (
            "target",
            f"{target.defense} around {target.metric} on {target.dataset}, {target.threat} {target.direction}",
        )
    else:
        yield "defence", f"{about.defense} around {', '.join(about.metrics)}, {about.plugin}"
    yield "digest", packed.digest
    by = f"verified with robustiqa {packed.verification.robustiqa}, suite {packed.verification.suite}"
    yield "archive", f"{human(packed.bytes)}, {counted(len(packed.verification.files), 'file')} submitted, {by}"


def _table(rows: Iterable[Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}" if math.isfinite(value) else "-"
        return printable(str(value), lines=False)

    cells = [[shown(getattr(row, name)) for name in _HEADERS] for row in rows]
    return tabulate(cells, headers=list(_HEADERS.values()), tablefmt="github", disable_numparse=True)


def _plain(row: Any) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row._asdict().items()}
