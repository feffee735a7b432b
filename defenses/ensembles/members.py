"""What the ensembles share: the members, and their qualities on the scale of the defended metric."""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from ...bench.align import Align, MonotoneMap
from ...bench.api import DefendedMetric, Metric
from ...bench.errors import BadParameter, RobustIQAError
from ...bench.metrics import load_metric
from ...bench.registry import registry
from ...bench.spec import parse_list
from .calibration import CALIBRATION, fit_maps

SHIPPED = "tiny-iqa;lip-iqa;ibp-iqa"
PARTS = {"others": "metric", "calibration": "dataset"}


class Members(DefendedMetric):
    """The defended metric together with others, each mapped to its scale by a strictly increasing function.

    The maps are fitted when a score is first asked for, on a stated data set, and are the same in every process.

    Args:
        metric: the defended metric, always a member.
        others: the other members as plug-in strings with `;` between them. Where the defended metric is among them it
            still is a member once only, so that one list serves several metrics.
        align: "quantile", "isotonic" (see `bench.align`), or none for scores on one scale already.
        calibration: data set as plug-in string that the maps are fitted on; no map, no data set.

    Attributes:
        name: how the defence is called.
        others: the other members, on the device of the metric.
        fitted_on: the data sets that the maps are fitted on: what the board must not judge it on (`bench.overlap`).
    """

    name: str

    def __init__(
        self, metric: Metric, others: str = SHIPPED, align: Align | None = "quantile", calibration: str = CALIBRATION
    ) -> None:
        super().__init__(metric)
        if align is not None and align not in get_args(Align):
            raise BadParameter(f"{self.name}[align={align}]: expected {', '.join(get_args(Align))} or none")
        registry.resolve("dataset", calibration)  # an unknown one is told now, not at the first image
        device = str(metric.device)
        loaded = [load_metric(text, device) for text in self._named(others)]
        self.others = nn.ModuleList(loaded)
        # One member with a gradient shows an attack a way.
        self.differentiable = any(member.differentiable for member in (metric, *loaded))
        self._align: Align | None = align
        self._calibration = calibration
        self._maps: list[MonotoneMap] | None = None
        self.fitted_on = (calibration,) if align else ()

    @property
    def size(self) -> int:
        """Number of members, the defended metric included."""
        return 1 + len(self.others)

    def check_takes(self, height: int, width: int) -> None:
        """Raise `BadImage` when an image of this size is too small for a member."""
        for member in (self.metric, *self.others):
            assert isinstance(member, Metric)
            member.check_takes(height, width)

    def score(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of member k on the scale and in the direction of the defended metric, which is member 0."""
        if k == 0:
            return self.metric(x)
        other = self.others[k - 1]
        assert isinstance(other, Metric)
        quality = other.sign * other(x)
        maps = self._fitted()
        return self.metric.sign * (maps[k - 1](quality) if maps else quality)

    def _fitted(self) -> list[MonotoneMap]:
        if self._maps is None:
            others = [other for other in self.others if isinstance(other, Metric)]
            self._maps = fit_maps(self.metric, others, self._align, self._calibration) if self._align else []
        return self._maps

    def _named(self, others: str) -> list[str]:
        """The other members' plug-in strings, without the defended metric."""
        given = f"{self.name}[others={others}]"
        named = parse_list(others)
        if not all(named):
            raise BadParameter(f"{given}: expected metrics as plug-in strings with ; between them")
        identities = [_identity(text) for text in named]
        for text, identity in zip(named, identities, strict=True):
            if identities.count(identity) > 1:
                raise BadParameter(f"{given}: {text} is named twice, expected every metric once")
        try:
            own = _identity(self.metric.spec)
        except RobustIQAError:  # a metric that was built in Python, under no registered name
            own = ""
        left = [text for text, identity in zip(named, identities, strict=True) if identity != own]
        if not left:
            raise BadParameter(f"{given}: expected a metric besides the defended one, {self.metric.spec}")
        return left


def _identity(text: str) -> str:
    plugin, spec, _ = registry.resolve("metric", text)
    return plugin.identity(spec)
