"""A tiny suite for the tests of the runner, and how its runs are started, compared and looked after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from robustiqa.bench.executors.eventlog import events_of
from robustiqa.bench.plan import plan_from_json
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite

FAULTS = Path(__file__).parent / "plugins" / "faults.py"
LINUX = sys.platform == "linux"


def tiny(**changes: Any) -> Suite:
    """Two defences, 15 cells, no work to speak of."""
    data = {
        "name": "tiny",
        "metrics": ["cheap"],
        "datasets": ["specks"],
        "defenses": ["none", "median-smoothing[n=40,m=9]"],
        "certify": {"eps": [0.05]},
        "attacks": [
            {"attack": "pgd[steps=2]", "linf": ["4/255"], "only": "deterministic"},
            {"attack": "eot-pgd[steps=2,draws=2]", "linf": ["4/255"], "only": "randomised"},
        ],
        "chunk": 2,
    }
    return Suite.model_validate(data | changes)


def faulty(how: str, once: Path | None = None, above: int = 0) -> str:
    """The defence with a fault."""
    return f"faulty[above={above},how={how}{f',once={once}' if once else ''}]"


def tables(out: Path, kind: type | None = str) -> dict[str, pd.DataFrame]:
    """The CSV tables, as text unless `kind` is None, without the one column that is a measured time."""
    return {
        path.name: pd.read_csv(path, dtype=kind).drop(columns="seconds", errors="ignore")
        for path in sorted((out / "leaderboard").glob("*.csv"))
    }


def same_tables(a: Path, b: Path) -> bool:
    """Whether two runs have the same tables, to the last digit."""
    x, y = tables(a), tables(b)
    return x.keys() == y.keys() and all(x[name].equals(y[name]) for name in x)


def rows(out: Path) -> pd.DataFrame:
    """All rows of a run's results, without the measured times."""
    store = Store(out)
    return store.read_rows(cell.id for cell in plan_from_json(store.read_json("plan.json")).cells).drop(
        columns="seconds"
    )


def events(out: Path) -> list[dict[str, Any]]:
    """All events of all runs into a folder."""
    return [event for path in sorted((out / "log").glob("*.jsonl")) for event in events_of(path.read_bytes())]


def words_of(suite: Suite, out: Path, *options: str) -> list[str]:
    """What is typed after `robustiqa` to run a suite, which is written beside the folder."""
    path = out.parent / f"{out.name}.yml"
    path.write_text(suite.model_dump_json(by_alias=True))
    return ["run", "--suite", str(path), "--out", str(out), "--plugin", str(FAULTS), *options]


def command(suite: Suite, out: Path, *options: str) -> list[str]:
    """The same as a command of the system, in an interpreter of its own."""
    return [sys.executable, "-m", "robustiqa.bench.cli", *words_of(suite, out, *options)]


@contextlib.contextmanager
def started(words: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, if it is still there."""
    # A background shell starts its children with SIGINT ignored, and so they would stay.
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until(what: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def processes(word: str) -> list[int]:
    """Processes (Linux) whose command has a word, this one left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (folder / "cmdline").read_bytes().decode(errors="replace") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def results(out: Path) -> set[Path]:
    """The result files of a run."""
    return set((out / "cells").glob("[!.]*.arrow.gz"))


def error_of(out: Path, part: str) -> dict[str, Any]:
    """The one error record of the cells whose id has a part."""
    (path,) = (out / "errors").glob(f"*{part}*.json")
    return json.loads(path.read_text())
