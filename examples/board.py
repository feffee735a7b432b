"""The board of this repository.

python examples/board.py run [--workers N]   compute what can be computed here, into runs/board; resumes
python examples/board.py restore NAME...     runs/board/NAME again, as it was published, for a board that grows
python examples/board.py publish             records of all runs in runs/board into leaderboard/results/2026-11, then
                                             `tables`
python examples/board.py tables [FOLDER]     tables, picture and README section from the records alone

`make board` is `run`, `make board-tables` is `tables`. The standard suite, and each of leaderboard/results/suites, is a
run of its own. The weights of a third-party metric are taken from this repository's folder, or from below
$ROBUSTIQA_DATA/weights. Where they, or a data set, are not here, the suite is left out, and it says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from robustiqa.bench import run_suite
from robustiqa.bench.errors import Absent, RobustIQAError
from robustiqa.bench.merge import merge_runs
from robustiqa.bench.registry import registry
from robustiqa.leaderboard.brief import brief, sections
from robustiqa.leaderboard.collect import collect
from robustiqa.leaderboard.publish import publish, restore, write_brief
from robustiqa.leaderboard.report import report

ROOT = Path(__file__).resolve().parents[1]
SUITES = Path("leaderboard/results/suites")
PUBLISHED = Path("leaderboard/results/2026-11")
RUNS = Path("runs/board")
UNITED = RUNS / "all"

SHIPPED = ("standard",)
"""Suites of the package that are part of the board."""

WEIGHTS = {"scnn": "scnn.pkl", "eonss": "EONSS_model.pt"}
"""Metric that is a plug-in, `examples/NAME.py`, and begins the names of its suites -> the authors' file it needs."""


def run(workers: int, executor: str = "local") -> int:
    """Run every suite as far as what it needs is here, and unite the runs; returns the exit code."""
    done, whole = [], True
    for name, suite in suites().items():
        metric = name.partition("-")[0]
        if metric in WEIGHTS:
            if not has_weights(WEIGHTS[metric]):
                print(f"left out: {name}: there is no {WEIGHTS[metric]} here or below $ROBUSTIQA_DATA/weights; "
                      f"examples/{metric}.py says where it comes from")  # fmt: skip
                continue
            registry.load_file(Path("examples") / f"{metric}.py")
        try:
            result = run_suite(suite, RUNS / name, executor=executor, workers=workers, threads=1)
        except Absent as error:
            print(f"left out: {name}: {error}")
            continue
        whole &= result.ok
        done.append(RUNS / name)
        print(
            f"{name}: {result.computed} cells computed, {result.resumed} already complete, {len(result.failed)} failed"
        )
    merge_runs(done, UNITED)
    collect(UNITED)
    print("", sections(brief(UNITED)), f"{report(UNITED)}", sep="\n")
    return 0 if whole else 1


def suites() -> dict[str, str]:
    """Name of each run -> its suite."""
    return {path.stem: str(path) for path in sorted(SUITES.glob("*.yml"))} | {name: name for name in SHIPPED}


def has_weights(file: str) -> bool:
    """Whether the weights are in the present folder; a file of that name in the data's folder is linked to it.

    So the plug-in string, which is in every record, has no path in it.
    """
    data = os.environ.get("ROBUSTIQA_DATA")
    found = sorted(Path(data, "weights").rglob(file)) if data else []
    if not Path(file).exists() and found:
        Path(file).symlink_to(found[0].resolve())
    return Path(file).is_file()


def main() -> int:
    """Do what is asked for, in the repository's folder: names of files in records are as seen from there."""
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("what", choices=("run", "restore", "publish", "tables"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    os.chdir(ROOT)
    if asked.what == "run":
        return run(asked.workers)
    if asked.what == "restore":
        for name in asked.names:
            print(restore(PUBLISHED, name, RUNS / name))
        return 0
    folder = Path(asked.names[0]) if asked.names else PUBLISHED
    if asked.what == "publish":
        publish(sorted(path for path in RUNS.iterdir() if path.is_dir() and path != UNITED), folder)
    write_brief(folder, Path("README.md"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RobustIQAError as error:
        sys.exit(f"robustiqa: {error}")
