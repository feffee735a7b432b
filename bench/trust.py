"""Files that are programs run only where the user named them: on the command line or in Python.

Suites, outcomes of a tuning and records of runs are passed around. A plug-in string in one of them may name a file, and
to look at a stranger's suite must not be to run the stranger's program.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import BadPlugin

TYPED = "robustiqa.typed"
"""Key in click's context under which the command line keeps what the user typed."""

_TRUSTED: set[Path] = set()
_VALUE = re.compile(r"=\s*([^\[\],;]+)")


def trust(path: str | Path) -> None:
    """Let a file that is a program run in this process when a plug-in string names it."""
    _TRUSTED.add(Path(path).resolve())


def trusted() -> list[Path]:
    """The files that are trusted, sorted; what stands as a value in a plug-in string and is no file is left out."""
    return sorted(path for path in _TRUSTED if path.is_file())


def trust_named(text: str) -> None:
    """Trust every file that stands as a value in a plug-in string which the user typed, also in a string within it."""
    for value in _VALUE.findall(text):
        trust(value.strip())


def check_trusted(path: str | Path, what: str) -> None:
    """Raise `BadPlugin` unless the user named the file; `what` says what it is, with its article."""
    if Path(path).resolve() not in _TRUSTED:
        raise BadPlugin(
            f"{str(path)!r} is {what}, which is a program, and only a suite or a record names it: if you know what it "
            "does, name it yourself with --trust FILE (in Python: robustiqa.bench.trust.trust)"
        )
