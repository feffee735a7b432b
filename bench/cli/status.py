"""`robustiqa status`."""

from __future__ import annotations

import dataclasses
import json

import click
from tabulate import tabulate

from ..display import duration
from ..executors.eventlog import KILLED, NO_BOARD
from ..status import Status, status
from ..terminal import echo, printable

_GOES_ON = "the same command goes on where it stopped"
_ENDED = {
    "failed": f"the last one failed: it stopped with an error; {_GOES_ON}",
    "interrupted": f"the last one was interrupted; {_GOES_ON}",
    KILLED: f"the last one was killed: its process is gone, and its log does not say why; {_GOES_ON}",
}


@click.command("status")
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_(out: str, as_json: bool) -> None:
    """Show how far the run in OUT is, and what its workers do."""
    found = status(out)
    echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else _text(found))


def _text(found: Status) -> str:
    counts = ("done", "failed", "running", "left")
    rows = [
        [printable(g.metric, False), printable(g.defense, False), g.done, g.failed, g.running, g.left]
        for g in found.groups
    ]
    rows.append(["all", "", *(found.total(what) for what in counts)])
    lines = [tabulate(rows, headers=["metric", "defence", *counts], tablefmt="github"), ""]
    lines.append(_state(found))
    if found.cells_per_hour:
        lines.append(f"{found.cells_per_hour:.0f} cells an hour")
    if found.seconds_left and (found.total("left") or found.total("running")):
        lines.append(f"about {duration(found.seconds_left)} left")
    for worker in found.workers:
        state = f"{worker.label}, since {duration(worker.seconds)}" if worker.cell else "between two cells"
        text = f"{state}{worker.progress and ': '}{worker.progress}" if worker.alive else f"lost, with {state}"
        lines.append(printable(f"{worker.name}: {text}", lines=False))
    return "\n".join(lines)


def _state(found: Status) -> str:
    """Whether a run is active, and how the last one ended."""
    if found.active:
        return "the run was killed, but workers of it go on" if found.ended == KILLED else "a run is active"
    how = f"complete, but wrote no board: `robustiqa collect {found.out}` says which figures cannot be right"
    how = how if found.ended == NO_BOARD else found.ended
    said = f"; {_ENDED.get(how, f'the last one was {how}')}" if how else ""
    return f"no run is active{said}"
