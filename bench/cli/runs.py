"""`robustiqa run`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pandas as pd

from ..run import run_suite, slurm_script
from ..suite import load_suite
from ..terminal import echo, echo_data
from ..tuned import outdated, read_tuned, tuned_suite
from .options import execution, suite_options, with_plugins


@click.command()
@suite_options
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of the results.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--tuned", type=click.Path(), help="Outcome of `robustiqa tune`: its folder or tuned.json.")
@execution
@with_plugins
def run(
    suite: str, out: str, device: str, tuned: str | None, metrics: tuple[str, ...], defenses: tuple[str, ...],
    datasets: tuple[str, ...], attacks: tuple[str, ...], **how: Any,
) -> None:  # fmt: skip
    """Run a suite and write its tables; run it again to go on where it was interrupted."""
    asked = load_suite(suite).override(metrics, defenses, datasets, attacks)
    if tuned:
        found = read_tuned(Path(tuned))
        asked = tuned_suite(asked, found)
        for text in outdated(found):
            echo(f"robustiqa: warning: {text}", err=True)
    if "print" in how["slurm"] and how["executor"] == "slurm":
        how = {name: value for name, value in how.items() if name not in ("executor", "scheduler")}
        echo_data(slurm_script(asked, out, device=device, **how))
        return
    result = run_suite(asked, out, device=device, **how)
    echo(Path(result.tables["board"]).read_text(encoding="utf-8"))
    echo(f"{result.computed} cells computed, {result.resumed} already complete, {len(result.failed)} failed")
    for table in result.tables.values():
        echo(str(table))
    for sentence in result.failures:
        echo(f"robustiqa: {sentence}", err=True)
    if result.bad_images:
        for message, count in Counter(pd.read_csv(result.tables["errors"])["message"]).most_common(5):
            echo(f"robustiqa: {count} x {message}", err=True)
    sys.exit(0 if result.ok else 1)
