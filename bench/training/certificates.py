"""Figures of the deterministic certificates, and the model card of a certified metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..images import from_uint8
from ..intervals import propagate
from ..metrics.ibp_iqa import IbpIQA
from ..metrics.lip_iqa import LipIQA
from .card import PROCEDURAL, Card, clive_material, command_line, report_tables, training_times
from .evaluate import MetricReport, attacked_crops, half_size_photographs
from .metric import PLACES

if TYPE_CHECKING:
    from .certified import CertifiedTrainConfig

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]

_PURPOSE = {
    "lip-iqa": "Compact no-reference image quality with a known Lipschitz constant: (B,3,H,W) in [0,1] to about 0-100, "
    "larger = better. `lipschitz(height, width)` times eps bounds the score's change by any change of l2 norm eps, "
    "without sampling.",
    "ibp-iqa": "Compact no-reference image quality with interval bounds: (B,3,H,W) in [0,1] to about 0-100, larger = "
    "better. `propagate(net.layers, x - eps, x + eps)` of `bench/intervals.py` bounds the score in the l_inf ball, "
    "without sampling.",
}
_LIMITS = {
    "lip-iqa": [
        "the bound is one number for all images of a size: what an attack reaches on one of them is less",
        "the constant falls as 1/sqrt(pixels), so one eps is a smaller share of the range for a larger image",
        "cuts a rest modulo 8 pixels off at the margins",
    ],
    "ibp-iqa": [
        "the interval keeps no relation between the values of a layer: it is wider than what an attack reaches",
        "beyond the radius that the training kept narrow (`--eps`) the intervals grow until they say nothing",
        "averages over positions shrink nothing in the l_inf norm: the width does not fall with the image's size",
    ],
}


def certificate_table(net: nn.Module, span: float, images: torch.Tensor) -> tuple[str, Table]:
    """Heading and table of how far a certified metric can move, in points and in units of its range.

    Args:
        net: `LipIQA` or `IbpIQA`.
        span: range of the clean scores.
        images: (N,3,128,128) in [0,1] on which gradients and intervals are measured.
    """
    if isinstance(net, LipIQA):
        constant = net.lipschitz(128, 128)
        rows = [[eps, constant * eps, constant * eps / span] for eps in (0.05, 0.12, 0.25, 0.5)]
        heading = f"Certified change of a 128-pixel image's score: Lipschitz constant {constant:.2f} points per unit l2"
        points = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net(points).sum(), points)
        steepest = float(gradient.flatten(1).norm(dim=1).max()) / constant
        return f"{heading} (steepest gradient on {len(images)} crops: {steepest:.2f} of it)", (
            ("l2 eps", "points", "share of the range"),
            rows,
        )
    assert isinstance(net, IbpIQA)
    rows: list[list[Any]] = []
    for grey in (0.0, 0.25, 0.5, 1.0):
        with torch.no_grad():
            lo, hi = propagate(net.layers, (images - grey / 255).clamp_min(0), (images + grey / 255).clamp_max(1))
        half = (hi - lo).flatten() / 2
        shares = [float(v) / span for v in (half.mean(), half.min(), half.max())]
        rows.append([grey, float(half.mean()), *shares])
    columns = ("l_inf eps in 1/255", "mean half-width in points", "mean share of the range", "smallest", "largest")
    return f"Interval of the score on {len(images)} crops of 128 pixels, in [0,1], rounding included", (columns, rows)


def certified_card(config: CertifiedTrainConfig, net: nn.Module, data_hash: str, report: MetricReport) -> Card:
    """The model card of a finished run."""
    tables = report_tables(report)
    if config.photographs:
        crops = attacked_crops(half_size_photographs(config.photographs, report.n_photographs), config.seed)
        heading, table = certificate_table(net, report.attack["range"], torch.stack([from_uint8(c) for c in crops]))
        tables[heading] = table
    return Card(
        title=config.net,
        purpose=_PURPOSE[config.net],
        command=command_line("certified-metric", config, PLACES),
        data=[
            clive_material(data_hash) + "; with its MOS",
            PROCEDURAL,
            "synthetic distortions of both, made by the training itself",
            "scores of `tiny-iqa` on these images, which was trained on the same",
            f"evaluation only: CLIVE's val and test splits; photographs ({Path(config.photographs).name or 'none'})",
        ],
        results=tables,
        limits=[*_LIMITS[config.net], "agrees less with human scores than `tiny-iqa`, whose scores it was fitted to"],
        notes=[training_times(config.out, config.threads), f"seed {config.seed}"],
    )
