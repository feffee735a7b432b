"""Plug-in strings to defended metrics and attacks; `robustiqa.defenses` and `robustiqa.attacks` export these."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from .api import AttackResult, DefendedMetric, Direction, Estimate, Metric, Threat
from .errors import BadPlugin
from .registry import registry


@runtime_checkable
class AttackLike(Protocol):
    """What the bench needs of an attack; `robustiqa.attacks.base.Attack` is the base to derive from."""

    spec: str

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """Why it cannot run, or None."""
        ...

    def __call__(
        self,
        g: DefendedMetric,
        x: torch.Tensor,
        threat: Threat,
        direction: Direction = "up",
        seed: int = 0,
        *,
        clean: Estimate | None = None,
    ) -> AttackResult:
        """Attack images (B,3,H,W)."""
        ...


@runtime_checkable
class BothWays(AttackLike, Protocol):
    """An attack that takes both directions at once, as `robustiqa.attacks.base.Attack` does."""

    def both(
        self, g: DefendedMetric, x: torch.Tensor, threat: Threat, seed: int = 0, *, clean: Estimate | None = None
    ) -> dict[Direction, AttackResult]:
        """Attack images (B,3,H,W) upwards and downwards."""
        ...


def load_defense(text: str, metric: Metric) -> DefendedMetric:
    """Put the defence of a plug-in string around a metric.

    Raises:
        UnknownName: no such defence or parameter; the nearest name is given.
        BadParameter: a parameter out of range.
        BadPlugin: it is a class that does not derive from `DefendedMetric`, or its factory does not return one.
    """
    plugin, spec, parameters = registry.resolve("defense", text)
    if isinstance(plugin.factory, type) and not issubclass(plugin.factory, DefendedMetric):
        raise BadPlugin(f"defence {spec.name!r} is the class {plugin.factory.__name__}, which is no DefendedMetric: "
                        "derive it from robustiqa.defenses.base.Purification or robustiqa.bench.DefendedMetric; its "
                        "first argument is the metric")  # fmt: skip
    defended = plugin.factory(metric, **parameters)
    if not isinstance(defended, DefendedMetric):
        raise BadPlugin(f"defence {spec.name!r} gives a {type(defended).__name__}: expected a DefendedMetric")
    defended.spec = str(spec)
    return defended.eval()


def load_attack(text: str) -> AttackLike:
    """Build the attack of a plug-in string; raises `UnknownName`, `BadParameter` or `BadPlugin`."""
    plugin, spec, parameters = registry.resolve("attack", text)
    attack = plugin.factory(**parameters)
    if not isinstance(attack, AttackLike):
        raise BadPlugin(f"attack {spec.name!r} gives a {type(attack).__name__}: expected a robustiqa Attack")
    attack.spec = str(spec)
    return attack
