"""A network that torch.compile has made faster, for scores without gradients in batches of one size."""

from __future__ import annotations

import warnings

import torch

from ...bench.errors import BadParameter
from .engine import Score

SMALL = 0.5
"""Share of the compiled size from which a batch is filled up to it; smaller ones run as they are."""

_COMPILER = ("torch._dynamo", "torch._inductor")
"""Where the compiler's errors come from; to import them takes seconds."""


class Compiled:
    """A score compiled for the largest batch that it has seen of each image size.

    Compiling takes half a minute for each size, so that a batch of another size is not worth one: it is filled up where
    it is nearly as large, and run uncompiled where it is small. Scores differ from uncompiled ones by rounding.

    Args:
        score: (b,3,H,W) to (b,); each image by itself.
    """

    def __init__(self, score: Score) -> None:
        self._score = score
        self._run: Score = torch.compile(score, dynamic=False)
        self._sizes: dict[tuple[object, ...], int] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (b,).

        Raises:
            BadParameter: torch.compile does not work here, or not on this network.
        """
        key = (*images.shape[1:], images.stride()[1:], images.device)
        size = self._sizes[key] = max(len(images), self._sizes.get(key, 0))
        if len(images) < SMALL * size:
            return self._score(images)
        missing = size - len(images)
        whole = images if not missing else torch.cat([images, images[:1].expand(missing, -1, -1, -1)])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what its own parts have to say to each other
                return self._run(whole)[: len(images)]
        except RuntimeError as error:
            if not type(error).__module__.startswith(_COMPILER):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise BadParameter(f"compiled=true: torch.compile does not work on this network here ({reason}): leave it "
                               "out; on a CPU it needs a C++ compiler") from error  # fmt: skip
