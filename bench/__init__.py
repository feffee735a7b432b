"""The bench: interfaces, registry, data sets, metrics and the runner.

Users need the names below; everything else is reached through its module.
"""

from __future__ import annotations

from .api import L2, AttackResult, Certificate, DefendedMetric, Linf, Metric, Threat
from .datasets import Dataset, Item, load_dataset
from .metrics import load_metric
from .registry import (
    Strength,
    load_plugin,
    register_attack,
    register_dataset,
    register_defense,
    register_denoiser,
    register_metric,
    unregister,
)
from .run import RunResult, run_suite
from .suite import Suite, load_suite

__all__ = [
    "L2",
    "AttackResult",
    "Certificate",
    "Dataset",
    "DefendedMetric",
    "Item",
    "Linf",
    "Metric",
    "RunResult",
    "Strength",
    "Suite",
    "Threat",
    "load_dataset",
    "load_metric",
    "load_plugin",
    "load_suite",
    "register_attack",
    "register_dataset",
    "register_defense",
    "register_denoiser",
    "register_metric",
    "run_suite",
    "unregister",
]
