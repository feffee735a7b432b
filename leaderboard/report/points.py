"""Certified bound against empirical shift, image by image, small enough for a page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd

from ..certified import outside_bounds
from ..empirical import largest_shift
from ..results import Group

MOST = 300
"""Points of one panel. Where there are more images: all violations, then the images nearest to the diagonal for half of
the room, then images evenly spaced in the order of their shift."""
LEVELS = 65535


def panels(group: Group) -> list[dict[str, Any]]:
    """A panel for each budget and kind of certificate that was attacked at the same threat.

    Returns:
        `defense, norm, eps, kind, n` (images), `shown`, `over` (shift above delta), `violations`, the `scale` of both
        coordinates in units of R, and `points`: base64 of little-endian uint16, first the deltas, then the shifts, in
        units of scale / 65535; images with an unbounded delta are not among them, and counted as `unbounded`. `bad` are
        the places of violations among the points.
    """
    table = group.certificates()
    found = []
    if not len(table) or not np.isfinite(group.unit):
        return found
    for (norm, eps, kind), at in table.groupby(["certified_norm", "eps", "certificate"], sort=True):
        shift = largest_shift(group, float(str(eps)), str(norm))["shift"]
        at = at.set_index("image")
        at = at[at.index.isin(shift.index)]
        if not len(at):
            continue
        delta = np.maximum(at["hi"] - at["score"], at["score"] - at["lo"]) / group.unit
        pairs = pd.DataFrame({"delta": delta, "shift": shift.reindex(at.index) / group.unit})
        broken = outside_bounds(group, float(str(eps)), str(kind), at).groupby(level=0).any()
        pairs["bad"] = broken.reindex(at.index, fill_value=False).astype(bool)
        found.append({"defense": group.defense, "norm": norm, "eps": float(str(eps)), "kind": kind} | _packed(pairs))
    return found


def _packed(pairs: pd.DataFrame) -> dict[str, Any]:
    bounded = pairs[np.isfinite(pairs["delta"]) & np.isfinite(pairs["shift"])]
    shown = bounded.iloc[_chosen(bounded)]
    scale = float(np.nanmax([shown["delta"].max(), shown["shift"].max(), 1e-12])) if len(shown) else 1.0
    numbers = np.concatenate([shown["delta"].to_numpy(), shown["shift"].to_numpy()]) / scale * LEVELS
    return {
        "n": len(pairs),
        "shown": len(shown),
        "unbounded": len(pairs) - len(bounded),
        "over": int((bounded["shift"] > bounded["delta"]).sum()),
        "violations": int(pairs["bad"].sum()),
        "scale": scale,
        "points": base64.b64encode(np.rint(numbers).astype("<u2").tobytes()).decode(),
        "bad": np.flatnonzero(shown["bad"].to_numpy()).tolist(),
    }


def _chosen(pairs: pd.DataFrame) -> np.ndarray:
    """Places of the images that are shown, in order; see `MOST`."""
    if len(pairs) <= MOST:
        return np.arange(len(pairs))
    bad = pairs["bad"].to_numpy()
    margin = (pairs["delta"] - pairs["shift"]).to_numpy()
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[np.flatnonzero(bad)[:MOST]] = True
    near = np.argsort(np.where(chosen, np.inf, margin), kind="stable")
    chosen[near[: max(0, (MOST - int(chosen.sum())) // 2)]] = True
    rest = np.flatnonzero(~chosen)
    rest = rest[np.argsort(pairs["shift"].to_numpy()[rest], kind="stable")]
    room = MOST - int(chosen.sum())
    if room:
        chosen[rest[np.linspace(0, len(rest) - 1, min(room, len(rest))).round().astype(int)]] = True
    return np.flatnonzero(chosen)
