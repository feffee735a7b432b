"""Metrics: the embedded one and the loader for every registered one."""

from __future__ import annotations

import torch
from torch import nn

from ..api import Metric
from ..errors import BadParameter, BadPlugin, first_line
from ..registry import registry

__all__ = ["load_metric"]


def load_metric(text: str, device: str = "cpu") -> Metric:
    """Build the metric of a plug-in string on a device.

    Raises:
        UnknownName: no such metric or parameter; the nearest name is given.
        BadPlugin: its factory does not return an `nn.Module`.
        Absent: it needs a package or weights that are not on this machine.
        BadParameter: the device cannot be used here.
    """
    plugin, spec, parameters = registry.resolve("metric", text)
    module = plugin.factory(**parameters)
    if not isinstance(module, nn.Module):
        raise BadPlugin(f"metric {spec.name!r} gives a {type(module).__name__}: expected a torch.nn.Module")
    declared = {key: value for key, value in plugin.meta.items() if key != "parts"}
    metric = module if isinstance(module, Metric) else Metric(module, str(spec), **declared)
    metric.spec = str(spec)
    return metric.to(check_device(device))


def check_device(device: str) -> torch.device:
    """The torch device of that name, if it can be used here."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()  # `meta` holds nothing that could come back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadParameter(f"device {device!r} cannot be used here ({first_line(error)}): try --device cpu") from error
    return found
