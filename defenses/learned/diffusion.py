"""Diffusion purification (DiffPure) in front of the metric."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from torch.utils.checkpoint import checkpoint

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import straight_through
from ...bench.registry import Strength, register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification
from ..denoisers import load_diffusion_model
from .reverse import Move, moves, spaced

Sampler = Literal["ddpm", "ddim"]
Surrogate = Literal["full", "one-shot", "identity"]
"""Gradient of the purification: its own, through all steps; that of one jump from the noisy state to the clean image;
or that of the identity."""
MOST_KEPT = 8
"""Steps up to which a gradient keeps the activations of all; beyond, it computes those of each step again, which bounds
memory (a step of diffusion-light takes 30 MB for 384x512 pixels) and takes a third more time."""


@register_defense("diffusion-purification", strength=Strength("t", (20, 35, 50, 75, 100)))
class DiffusionPurification(RandomPurification):
    """The image is diffused to step t of a diffusion model and brought back by the reverse process (DiffPure).

    Nie et al., "Diffusion Models for Adversarial Purification" (ICML 2022, arXiv 2205.07460): noise drowns a small
    perturbation, and the model restores the image, not the perturbation. Differences: the reverse process takes a few
    evenly spaced steps instead of all (Song et al. 2021; `reverse.py`); its variance is that of the DDPM posterior and
    not learned; the model is small and was trained as a denoiser, and it works at every size. Steps whose noise the
    model was not trained for are left out: from the least noisy trained one the process jumps to the estimate of the
    clean image. Peers take a model for 256x256 pixels (guided-diffusion) and t = 5 to 50; some sharpen the result.

    Args:
        t: steps of diffusion, counted as in DiffPure: 1 to the length of the model's table. diffusion-light has the
            1000 of Ho et al. and takes 16 to 171; t = 20, 35, 50, 75 and 100 is noise with a standard deviation of
            .038, .062, .086, .13 and .17 (pixels in [0,1]).
        steps: evaluations of the network in the reverse process; fewer where t leaves fewer. One is the one-shot
            denoising of Carlini et al. (2023), on one draw.
        sampler: ddpm, which draws noise in every step but the last, or ddim, which draws only that of the diffusion.
        m: draws averaged in a deployed score; one in the literature.
        denoiser: a diffusion model: diffusion-light, the path of weights of `robustiqa train diffusion-denoiser`, or an
            own plug-in, `@register_denoiser("name")` on a factory `(sigma) -> OneShotDiffusion(network, alpha_bar,
            sigma)`; it may set `trained_range`. The network is given images of any size, also odd ones: one that takes
            a fixed size has to cut, pad or resize them itself.
        surrogate: gradient that an adaptive attack uses: "full", the exact one through all steps; "one-shot", that of a
            single jump from the same noisy state to the clean image (fewer and larger steps, Lee & Kim, ICCV 2023,
            arXiv 2303.09051), whose memory and backward pass are those of one step; or "identity" (BPDA). `surrogates`
            gives all three.

    The metric sees an image of the same size.
    """

    def __init__(
        self,
        metric: Metric,
        t: int = 20,
        steps: int = 3,
        sampler: Sampler = "ddpm",
        m: int = 1,
        denoiser: str = "diffusion-light",
        surrogate: Surrogate = "full",
    ) -> None:
        super().__init__(metric, m)
        if steps < 1:
            raise BadParameter(f"diffusion-purification[steps={steps}]: expected at least 1")
        for name, value, known in (("sampler", sampler, Sampler), ("surrogate", surrogate, Surrogate)):
            if value not in get_args(known):
                raise BadParameter(f"diffusion-purification[{name}={value}]: expected {' or '.join(get_args(known))}")
        self.model = load_diffusion_model(denoiser).to(metric.device)
        trained = self.model.trained_steps
        if t - 1 not in trained:
            low, high = self.model.trained_range
            raise BadParameter(
                f"diffusion-purification[t={t}]: expected {trained.start + 1} to {trained.stop}, the steps that "
                f"{denoiser!r} has and was trained for (noise of {low:g} to {high:g}, pixels in [0,1])"
            )
        self.moves = moves(self.model.alpha_bar, spaced(trained.start, t - 1, steps), float(sampler == "ddpm"))
        self._follow(surrogate)

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Diffuse, and come back; the gradient is the exact one through all steps."""
        return self._returned(self._diffused(x, rng), rng)

    def draw_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Exact values, gradient of the chosen surrogate."""
        if self._surrogate == "full":
            return self.draw(x, rng)
        z = self._diffused(x, rng)
        with torch.no_grad():
            value = self._returned(z, rng)
        if self._surrogate == "identity":
            return straight_through(value, x)
        return straight_through(value, (self.model.clean(z, self.moves[0].t) + 1) / 2)

    def surrogates(self) -> Sequence[DiffusionPurification]:
        """Itself, and the same purification with the other gradients."""
        others: list[Surrogate] = [name for name in get_args(Surrogate) if name != self._surrogate]
        if len(self.moves) == 1:
            others.remove("one-shot")
        # Copies: an attack asks for the views in every step, and a new one would read its weights again.
        return [self, *(copy.copy(self)._follow(name) for name in others)]

    def _follow(self, surrogate: Surrogate) -> Self:
        # A single step is the jump itself.
        self._surrogate: Surrogate = "full" if surrogate == "one-shot" and len(self.moves) == 1 else surrogate
        self.smooth = self._surrogate == "full"
        return self

    def _diffused(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The state at step t, pixels in [-1,1]."""
        kept = float(self.model.alpha_bar[self.moves[0].t])
        return math.sqrt(kept) * (2 * x - 1) + math.sqrt(1 - kept) * rng.normal(x, 1)[0]

    def _returned(self, z: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The image, pixels in [0,1], that the reverse process makes of the state at step t."""
        for move in self.moves:
            if len(self.moves) > MOST_KEPT and torch.is_grad_enabled() and z.requires_grad:
                z = checkpoint(self._moved, z, move, use_reentrant=False, preserve_rng_state=False)
            else:
                z = self._moved(z, move)
            if move.spread:
                z = z + move.spread * rng.normal(z, 1)[0]
        return (z + 1) / 2

    def _moved(self, z: torch.Tensor, move: Move) -> torch.Tensor:
        """One step of the reverse process, without its noise."""
        return move.of_clean * self.model.clean(z, move.t) + move.of_state * z
