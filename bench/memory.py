"""The order of images in memory: what networks are fastest on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def wanted_format(*modules: nn.Module | None) -> torch.memory_format:
    """The order in memory in which the first network that has convolutions keeps their weights, and so wants images."""
    for module in modules:
        for weight in module.parameters() if module is not None else ():
            if weight.ndim == 4 and weight.shape[1] > 1:
                last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
                return torch.channels_last if last else torch.contiguous_format
    return torch.contiguous_format


def laid_out_like(x: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """x in the order in memory of a tensor of its shape; x itself where it is in that order already."""
    return x if x.stride() == pattern.stride() else torch.empty_like(pattern, dtype=x.dtype).copy_(x)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts one after the other; a single one as it is, which torch.cat would copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
