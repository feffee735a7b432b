"""Images that somebody else has made, in the place of an attack: a submitted break, or a stored result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ..bench.api import Threat
from ..bench.images import load_image
from ..bench.objective import Objective
from ..bench.seeds import image_keys
from .base import Attack, Candidate


class GivenImages(Attack):
    """Returns the given version of an image, and the image itself where there is none; asks the defence nothing.

    It is no plug-in of its own: `robustiqa submit verify` registers one for the images that it was given.

    Args:
        files: `seeds.image_key` of the clean image -> 8-bit file, which has to be within the budget: the base would
            otherwise move it there without a word.
    """

    white_box = False

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The one that there is."""
        given = x.clone()
        for k, key in enumerate(image_keys(x)):
            if key in self._files:
                given[k] = load_image(self._files[key]).to(x)
        yield Candidate(given)
