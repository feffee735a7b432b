"""What a board lists for the target of a break."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from ..errors import BadData
from .claims import read_table, row_of
from .metadata import Target

_GAINS = ("adaptive_gain_mean", "naive_gain_mean")


class Listed(NamedTuple):
    """The mean gain of a board's strongest attack image by image, oriented so that the attacker wants it large.

    `where` is the table that says so.
    """

    gain: float
    where: str


def listed_gain(board: Path, target: Target) -> Listed:
    """The number that a break has to beat.

    Args:
        board: folder of a run, or of its tables.
        target: metric, defence, data set and threat.

    Raises:
        BadData: the folder has no `threats.csv`, or that has no figure for the target.
    """
    path = next((p for p in (board / "leaderboard" / "threats.csv", board / "threats.csv") if p.is_file()), None)
    if path is None:
        raise BadData(f"--board {str(board)!r} has no threats.csv: give the folder of a run, or of its tables")
    try:
        table = read_table(path)
        row = row_of(table, target.model_dump())
        gains = [] if row is None else [float(row[name]) for name in _GAINS]
    except (OSError, ValueError, KeyError) as error:
        raise BadData(f"table {str(path)!r} cannot be read ({error}): `robustiqa collect` writes it again") from error
    gains = [gain for gain in gains if math.isfinite(gain)]
    if not gains:
        row_in_words = f"{target.defense!r} around {target.metric!r} on {target.dataset!r} at {target.threat}"
        raise BadData(
            f"{str(path)!r} lists no gain of {row_in_words}, {target.direction}: give a board that has the row"
        )
    return Listed(max(gains), str(path))
