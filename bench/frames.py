"""What an attack or a certificate says of a batch of images, as a pandas frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def attack_frame(scores: dict[str, Any], figures: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row an image.

    Args:
        scores: name -> `Estimate`; its interval becomes `NAME_lo` and `NAME_hi`.
        figures: name -> (B,) values.
    """
    columns: dict[str, np.ndarray] = {}
    for name, estimate in scores.items():
        columns |= {name: estimate.score, f"{name}_lo": estimate.lo, f"{name}_hi": estimate.hi}
    columns |= figures
    frame = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})
    return frame.rename_axis("image").reset_index()


def certificate_frame(certificates: Sequence[Any]) -> pd.DataFrame:
    """A row an image, kind and budget, in this order, of certificates of the same images."""
    parts = []
    for c in certificates:
        images, budgets = c.lo.shape
        per_image = {"score": c.score, "spread": c.spread}
        if c.abstained is not None:
            per_image["abstained"] = c.abstained
        parts.append(
            pd.DataFrame(
                {"image": np.repeat(np.arange(images), budgets), "kind": c.kind, "norm": c.norm}
                | {"eps": np.tile(np.array(c.eps, dtype=float), images)}
                | {name: np.repeat(np.asarray(values), budgets) for name, values in per_image.items()}
                | {name: getattr(c, name).reshape(-1) for name in ("lo", "hi", "delta", "gaming_delta")}
                | {"n": c.n, "alpha": c.alpha, "coverage": c.coverage}
            )
        )
    return pd.concat(parts).sort_values("image", kind="stable", ignore_index=True)
