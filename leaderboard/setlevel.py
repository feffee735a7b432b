"""What an attack on a set has done to the correlations, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .compare import MEASURES, paired

_VERSIONS = {"before": "clean", "after": "attacked", "after, 8-bit": "attacked_8bit"}


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """SROCC, KROCC and PLCC to the ground truth and to the clean scores, before and after an attack.

    Args:
        table: a row an image, with `reference`, `truth`, `clean`, `attacked`, `attacked_8bit`, as
            `attacks.setlevel.attack_set` gives.

    Returns:
        a row for each `measure`, what it is taken `to` ("truth", where all images have one, and "clean"), and `when`
        ("before", "after", "after, 8-bit"), with `value, lo, hi` (95 %, resampled by reference photograph; NaN where
        the images do not allow an interval). Before the attack the correlation to the clean scores is 1 and left out.
    """
    rows: list[dict[str, Any]] = []
    rated = bool(np.isfinite(table["truth"]).all())
    for measure, statistic in MEASURES.items():
        for to in ("truth", "clean") if rated else ("clean",):
            for when, column in _VERSIONS.items():
                if column == to:
                    continue
                found = paired(table, lambda t, c=column, to=to, f=statistic: f(t[c].to_numpy(), t[to].to_numpy()),
                               f"set {measure} {to} {when}")  # fmt: skip
                lo, hi = np.clip([found.lo, found.hi], -1, 1)
                rows.append({"measure": measure, "to": to, "when": when, "value": found.value, "lo": lo, "hi": hi})
    return pd.DataFrame(rows)
