"""Names of the networks that a defence by training gives: what `robustiqa train metric --defense` writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NAMED_BY: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {"gradient-norm": ("penalty",), "adversarial": ("attack", "labels", "eps"), "noise": ("sigma",)}
)
"""The defences by training, and the settings by which variants of each are told apart."""


def file_name(defense: str, settings: Mapping[str, Any], metric: str) -> str:
    """`adversarial-pgd-plain-4-tiny-iqa.safetensors`: defence, settings of `NAMED_BY`, metric."""
    values = (settings[key] for key in NAMED_BY[defense])
    words = [value if isinstance(value, str) else f"{value:g}" for value in values]
    return "-".join([defense, *words, metric]) + ".safetensors"
