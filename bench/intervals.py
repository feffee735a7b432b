"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715): what a network can answer to a box of inputs."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .errors import Incompatible

_POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def propagate(
    layers: nn.Sequential, lo: torch.Tensor, hi: torch.Tensor, rounding: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds on every output of a network over the box between two inputs; differentiable.

    Each layer maps a midpoint and a radius: linear layers exactly, activations and max-pooling by their monotony. Only
    the box of each layer's output is kept, so the result is wider than the true range, but never narrower.

    Args:
        layers: Conv2d (zero padding), Linear, ReLU, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, Flatten, Identity, and
            sequences of them.
        lo: (B,...) lower ends.
        hi: (B,...) upper ends.
        rounding: widen by the worst rounding of sums in any order, 2 gamma_n (|W| |x| + |b|) for sums of n products in
            the inputs' dtype (Higham 2002, section 3.1): once for this function, once for the network's own evaluation
            in that dtype. Off for training, where the ends are only a loss.

    Returns:
        lower and upper ends of the outputs.

    Raises:
        Incompatible: the network holds a layer without a rule.
    """
    unit = torch.finfo(lo.dtype).eps / 2 if rounding else 0.0
    middle, radius = (lo + hi) / 2, (hi - lo) / 2
    middle, radius = _through(layers, middle, _widened(middle, radius, 2, unit), unit)
    radius = _widened(middle, radius, 2, unit)
    return middle - radius, middle + radius


def _through(
    layers: nn.Sequential, middle: torch.Tensor, radius: torch.Tensor, unit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            middle, radius = _through(layer, middle, radius, unit)
        elif isinstance(layer, nn.Flatten):
            middle, radius = layer(middle), layer(radius)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            middle, radius = _linear(layer, middle, radius, unit)
        elif isinstance(layer, _POOLS):
            wider = _widened(middle, radius, _pooled(layer, middle) + 3, unit)
            middle, radius = layer(middle), layer(wider)
        elif isinstance(layer, nn.ReLU) or (isinstance(layer, nn.MaxPool2d) and not layer.return_indices):
            wider = _widened(middle, radius, 2, unit)
            # In place, a ReLU would overwrite what the next line still needs.
            low, high = (
                F.relu(end) if isinstance(layer, nn.ReLU) else layer(end) for end in (middle - wider, middle + wider)
            )
            middle, radius = (low + high) / 2, (high - low) / 2
        elif not isinstance(layer, nn.Identity):
            raise Incompatible(
                f"layer {layer} has no interval rule: use Conv2d with zero padding, Linear, ReLU, AvgPool2d, "
                "AdaptiveAvgPool2d, MaxPool2d, Flatten, Identity"
            )
    return middle, radius


def _linear(
    layer: nn.Conv2d | nn.Linear, middle: torch.Tensor, radius: torch.Tensor, unit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear layer: the midpoint goes through it, the radius through the absolute values of its weights."""
    # The bias, and two for the rounding of what is added here.
    terms = layer.weight[0].numel() + 3
    radius = _widened(middle, radius, terms, unit)
    if isinstance(layer, nn.Linear):
        spread = F.linear(radius, layer.weight.abs())
    else:
        if layer.padding_mode != "zeros":
            raise Incompatible(f"layer {layer} has no interval rule: use zero padding")
        spread = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)
    if unit and layer.bias is not None:
        offset = 2 * _gamma(terms, unit) * layer.bias.abs()
        spread = spread + (offset if isinstance(layer, nn.Linear) else offset[:, None, None])
    return layer(middle), spread


def _widened(middle: torch.Tensor, radius: torch.Tensor, terms: int, unit: float) -> torch.Tensor:
    """The radius and what rounding in a sum of so many terms can add: a part of it and of the midpoint."""
    return radius + 2 * _gamma(terms, unit) * (middle.abs() + radius) if unit else radius


def _gamma(terms: int, unit: float) -> float:
    """Largest relative error of a sum of products, in units of the sum of their absolute values."""
    return terms * unit / (1 - terms * unit)


def _pooled(layer: nn.Module, x: torch.Tensor) -> int:
    """Largest number of values that a pooling layer averages."""
    if isinstance(layer, nn.AvgPool2d):
        size = layer.kernel_size
        return math.prod(size) if isinstance(size, tuple) else size**2
    return math.prod(x.shape[-2:])
