"""Attacks whose budget depends on the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Candidate
from .iterative import MiFgsm
from .niqe import niqe


@register_attack("ami-fgsm")
class AmiFgsm(MiFgsm):
    """MI-FGSM with a smaller budget on images that look unnatural already (AMI-FGSM of Antsiferova et al., AAAI 2024).

    The methodology page of their MSU benchmark (arXiv 2310.06958) gives each image the budget 1 / NIQE; its code gives
    all images 10/255. Here an image has eps * min(1, reference / NIQE): inversely proportional to NIQE as on the page,
    and never more than the threat allows. So it is weaker than `mi-fgsm` wherever NIQE is above `reference`, and the
    same attack elsewhere. An image without any texture, whose NIQE is infinite, stays as it is. NIQE is that of
    `attacks/niqe.py`.

    Args:
        steps: gradient steps.
        step: step size as a fraction of the image's budget; none for 1 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of what was accumulated.
        reference: largest NIQE that gets the whole budget; the default is about the median of pristine photographs.
    """

    def __init__(
        self,
        steps: int = 10,
        step: float | None = None,
        draws: int = 1,
        momentum: float = 1.0,
        reference: float = 4.0,
    ) -> None:
        super().__init__(steps, step, draws, momentum)
        if not reference > 0:
            raise BadParameter(f"ami-fgsm[reference={reference}]: expected a number > 0")
        self.reference = reference

    def budget(self, image: torch.Tensor, threat: Threat) -> Threat:
        """The share of a threat that an image (3,H,W) gets."""
        # A NIQE of 0 would be a perfect image: it gets all.
        share = min(1.0, self.reference / max(niqe(image), 1e-12))
        return replace(threat, eps=threat.eps * share)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The points of MI-FGSM, each image within its own budget."""
        # The budget differs from image to image: one ascent each, side by side.
        ascend = super().candidates
        runs = [
            ascend(objective.part([i]), image[None], self.budget(image, threat)) for i, image in enumerate(x.unbind(0))
        ]
        for points in zip(*runs, strict=True):
            values = [point.value for point in points if point.value is not None]
            yield Candidate(torch.cat([point.x for point in points]), torch.cat(values) if values else None)
