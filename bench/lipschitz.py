"""Rigorous upper bounds on the l2 operator norms of layers, computed from their weights in float64."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_ROUNDING = 1.0 + 1e-9
"""Above the relative error of the float64 sums and eigenvalues below, for layers of up to a million weights."""


def conv_norm_bound(weight: torch.Tensor) -> float:
    """Upper bound on the l2 norm of a convolution of any input size and stride, with zero padding up to kernel - 1.

    Zero padding and stride are a compression of the convolution on the infinite plane, so its norm bounds theirs. With
    the autocorrelation A = W^T * W, the symbol of A at any frequency is entrywise at most M = sum over offsets of |A|,
    hence |W|^2 <= the largest eigenvalue of M (Prach & Lampert, ECCV 2022, with the best weights of the rows). The
    same holds for W * W^T. One of the two is tight for an orthogonal kernel, where the autocorrelation is an impulse.

    Args:
        weight: (C_out,C_in,h,w) kernel of one group.
    """
    kernel = weight.detach().double()
    return min(_gram_bound(kernel), _gram_bound(kernel.transpose(0, 1)))


def linear_norm_bound(weight: torch.Tensor) -> float:
    """Largest singular value of a matrix (out,in), rounded up."""
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2)) * _ROUNDING


def relu_head_bound(first: torch.Tensor, last: torch.Tensor) -> float:
    """Upper bound on the l2 Lipschitz constant of x -> last relu(first x), tighter than the product of the norms.

    Between any two inputs each ReLU has one slope in [0,1], so the change is last D first with a diagonal D in [0,1].
    With D = (I + S) / 2 and |S| <= 1 its norm is at most (|last first| + |last| |first|) / 2.

    Args:
        first: (hidden,in) weights.
        last: (out,hidden) weights.
    """
    through = linear_norm_bound(last.detach().double() @ first.detach().double())
    return 0.5 * (through + linear_norm_bound(last) * linear_norm_bound(first))


def _gram_bound(kernel: torch.Tensor) -> float:
    """The bound by sums over the first axis: offsets of both signs occur, so flipping the kernel changes nothing."""
    rows = kernel.transpose(0, 1)
    height, width = kernel.shape[-2:]
    gram = F.conv2d(rows, rows, padding=(height - 1, width - 1)).abs().sum((2, 3))
    return float(torch.linalg.eigvalsh(gram)[-1]) ** 0.5 * _ROUNDING
