"""`robustiqa work`: what a task of a hand-submitted SLURM array calls."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..executors.slurm import read_bundle
from ..executors.supervisor import run_bundle
from ..interrupt import terminable
from ..terminal import echo


@click.command()
@click.argument("out", type=click.Path(file_okay=False, exists=True))
@click.option("--bundles", required=True, help="Name of the bundles, as the printed script has it.")
@click.option("--bundle", "number", required=True, type=click.IntRange(0), help="Which of them.")
def work(out: str, bundles: str, number: int) -> None:
    """Compute one bundle of cells of the run in OUT, as the script of `run --executor slurm --slurm print` does."""

    def show(event: dict[str, object]) -> None:
        if event["event"] in ("done", "retry", "failed"):
            echo(f"{event['event']}: {event['label']}{': ' if 'error' in event else ''}{event.get('error', '')}")

    ids = read_bundle(Path(out), bundles, number)
    failed: list[object] = []
    with terminable():
        run_bundle(out, ids, sink=lambda e: (show(e), failed.append(e) if e["event"] == "failed" else None))
    sys.exit(1 if failed else 0)
