"""The command line: `python -m benchmarks`, in the repository's folder.

    python -m benchmarks [NAME ...] [--quick] [--out FILE.json]   run all benchmarks, or these
    python -m benchmarks page FILE.json ... [--to docs/speed.md]  write the page, a section a file
    python -m benchmarks profile certify|attack                   where the time goes
"""  # fmt: skip

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from robustiqa.bench.errors import RobustIQAError

from .page import write_page
from .profiles import profiled
from .session import BENCHMARKS, Session, run
from .subjects import LARGE, SMALL
from .tables import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"


def main(words: Sequence[str]) -> int:
    """Do what the command line says; the exit code is 1 where something failed."""
    chosen = {"page": _page, "profile": _profile}.get(words[0] if words else "")
    try:
        return chosen(words[1:]) if chosen else _run(words)
    except RobustIQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(words: Sequence[str]) -> int:
    parser = _parser("python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--out", type=Path, help="JSON file, written after each benchmark")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    given = parser.parse_args(words)
    if given.list:
        print("\n".join(f"{name:10} {_first_line(work.__doc__)}" for name, work in BENCHMARKS.items()))
        return 0
    if unknown := sorted({*given.names} - {*BENCHMARKS}):
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(BENCHMARKS)}, or page, or profile")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
    session = run(given.names or list(BENCHMARKS), _settings(given), given.out)
    for name, why in session.errors.items():
        print(f"FAILED: {name}: {why}", file=sys.stderr)
    for table in session.tables:
        for row, why in table.errors.items():
            print(f"FAILED: {table.name}, {row}: {why}", file=sys.stderr)
    return int(session.failed)


def _page(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks page")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--to", type=Path, default=PAGE, help="the page; its pictures go into the folder img beside it")
    given = parser.parse_args(words)
    for path in write_page([Session.read(file) for file in given.files], given.to):
        print(path)
    return 0


def _profile(words: Sequence[str]) -> int:
    parser = _parser("python -m benchmarks profile")
    parser.add_argument("kind", choices=("certify", "attack"))
    parser.add_argument("--defense", default="median-smoothing[n=200]", help="plug-in string (%(default)s)")
    parser.add_argument("--attack", default="eot-pgd[steps=10]", help="plug-in string (%(default)s)")
    parser.add_argument("--large", action="store_true", help="512x384 instead of 128x128")
    given = parser.parse_args(words)
    size = LARGE if given.large else SMALL
    print(profiled(given.defense, given.attack if given.kind == "attack" else None, _settings(given), size))
    return 0


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small settings, to see that everything works")
    parser.add_argument("--rounds", type=int, help="of a comparison: 11, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    torch.set_num_threads(given.threads)
    return Settings(quick=given.quick, device=given.device, rounds=given.rounds or (3 if given.quick else 11))


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
