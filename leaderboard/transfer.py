"""The transfer matrix as a table: mean gains with intervals."""

from __future__ import annotations

import pandas as pd

from ..bench.measures import bootstrap_mean


def summarise(gains: pd.DataFrame) -> pd.DataFrame:
    """Mean gain by `source` and `target`, in the order of their first rows.

    Args:
        gains: a row for each image, `source` and `target`, with `reference` and `gain`, as
            `attacks.matrix.transfer_matrix` gives.

    Returns:
        `source`, `target`, `gain`, `lo`, `hi` (95 %, resampled by reference photograph), and the images `n`.
    """
    rows = []
    for (source, target), part in gains.groupby(["source", "target"], sort=False):
        found = bootstrap_mean(part["gain"].to_numpy(), part["reference"].tolist(), f"transfer {source} {target}")
        rows.append({"source": source, "target": target, "gain": found.mean, "lo": found.lo, "hi": found.hi,
                     "n": len(part)})  # fmt: skip
    return pd.DataFrame(rows)
