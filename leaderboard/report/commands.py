"""Row -> the command that computes it again. The words come from files that anybody may have written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

AGAIN = "runs/again"
"""Where the commands that are shown put their results."""

_KEPT = {"--suite", "--attack", "--plugin", "--trust", "--tuned"}
"""Options of the run that decide its numbers, with one value each."""


def command_of(row: Mapping[str, Any], record: Mapping[str, Any], out: str) -> str | None:
    """What to type for a row of the board; None where a name could not be pasted safely.

    With an id in the row (column `row`) it is `robustiqa reproduce`; before there were any, a run of that one row.

    Args:
        row: of `summary.csv`.
        record: the run record.
        out: the run's folder, as the reader should type it.
    """
    if row.get("row"):
        words = ["robustiqa", "reproduce", str(row["row"]), "--from", out]
    else:
        kept = _kept(record.get("arguments"))
        if "--suite" not in kept:
            kept = ["--suite", str(dict(record.get("suite") or {}).get("name", "quick")), *kept]
        words = ["robustiqa", "run", *kept, "--metric", str(row.get("metric")), "--defense", str(row.get("defense")),
                 "--dataset", str(row.get("dataset")), "--out", AGAIN]  # fmt: skip
    return shlex.join(words) if all(word.isprintable() for word in words) else None


def _kept(arguments: Any) -> list[str]:
    """The options as typed that decide numbers and are not of the row itself."""
    if not isinstance(arguments, list) or arguments[:1] != ["run"]:
        return []
    kept, words = [], [str(word) for word in arguments[1:]]
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in _KEPT:
            follows = words[place + 1 : place + 2] if name == word else [value]
            kept += [name, *follows]
    return kept
