"""One-shot denoising with a diffusion model (Carlini et al., "(Certified!!) Adversarial Robustness for Free!", 2023).

A diffusion model is a denoiser for every noise level at once: its state at step t is sqrt(abar_t) x + sqrt(1 - abar_t)
noise, with x in [-1,1]. Scaled by sqrt(abar_t), an image with Gaussian noise of level sqrt(1 - abar_t) / sqrt(abar_t)
is exactly such a state, and one evaluation of the network gives an estimate of the clean image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ...bench.errors import BadParameter
from .files import DIFFUSION, read_weights, readable
from .nets import LightEpsilon


def linear_alpha_bar(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> torch.Tensor:
    """Table (steps,) float64 of prod(1 - beta), beta rising linearly (Ho et al., NeurIPS 2020, section 4)."""
    if steps < 1 or not 0 < beta_start <= beta_end < 1:
        raise BadParameter(
            f"linear schedule: got {steps} steps and beta {beta_start:g} to {beta_end:g}, expected at least one step "
            "and 0 < beta_start <= beta_end < 1"
        )
    return torch.cumprod(1.0 - torch.linspace(beta_start, beta_end, steps, dtype=torch.float64), 0)


def cosine_alpha_bar(steps: int = 1000, offset: float = 0.008) -> torch.Tensor:
    """Table (steps,) float64 of the cosine schedule (Nichol & Dhariwal, ICML 2021, section 3.2), beta at most .999."""
    if steps < 1 or offset <= 0:
        raise BadParameter(f"cosine schedule: got {steps} steps and offset {offset:g}, expected both to be positive")
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * (math.pi / 2)
    kept = torch.cos(angle).square()
    return torch.cumprod((kept[1:] / kept[:-1]).clamp(min=1 - 0.999), 0)


def checked_alpha_bar(alpha_bar: torch.Tensor) -> torch.Tensor:
    """The table as float64; raises `BadParameter` unless it is (T,), strictly decreasing and inside (0,1)."""
    if alpha_bar.ndim != 1 or not len(alpha_bar):
        raise BadParameter(f"alpha-bar table: got shape {tuple(alpha_bar.shape)}, expected (T,) with at least one step")
    table = alpha_bar.detach().double()
    # Written so that NaN fails both.
    if not bool(((table > 0) & (table < 1)).all()):
        raise BadParameter("alpha-bar table: every entry must lie strictly between 0 and 1")
    if not bool((table[1:] < table[:-1]).all()):
        raise BadParameter("alpha-bar table: it must decrease strictly from step to step")
    return table


def noise_levels(alpha_bar: torch.Tensor) -> torch.Tensor:
    """Noise (T,) of every step for pixels in [0,1]: half of sqrt((1 - abar) / abar), which is for pixels in [-1,1]."""
    return 0.5 * ((1 - alpha_bar) / alpha_bar).sqrt()


class OneShotDiffusion(nn.Module):
    """A denoiser made of any network that predicts a diffusion's noise, for one noise level sigma.

    The certificate of a smoothed defence holds because this module is a fixed function of the Gaussian-noised image:
    the state z that the network gets is an affine function of exactly that image, which is not clamped or rounded
    before, and no noise is drawn in addition, as sampling and DiffPure do.

    The step t is the first whose noise is at least sigma, so the network is told slightly more noise than there is, by
    up to one step of the table. That touches quality alone: the theorem asks nothing of the function.

    Args:
        network: `network(z, t)` with z (B,3,H,W) and t (B,) int64 returns (B,3,H,W), or (B,6,H,W) with a learned
            variance, which is dropped. Pixels are in [-1,1].
        alpha_bar: (T,) table of the products of 1 - beta that the network was trained with.
        sigma: standard deviation of the noise, pixels in [0,1].

    Attributes:
        t: the step, counted from 0.
        alpha_bar: the table, float64.
        trained_sigma: None: the network adapts to sigma.
        trained_range: the noise levels that it was trained for.

    Raises:
        BadParameter: an impossible table, or a sigma that is not positive or beyond the table's last step.
    """

    def __init__(
        self, network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], alpha_bar: torch.Tensor, sigma: float
    ) -> None:
        super().__init__()
        self.concurrent = isinstance(network, nn.Module)  # which is asked itself; another callable cannot be
        table = checked_alpha_bar(alpha_bar)
        levels = noise_levels(table)
        if not sigma > 0:
            raise BadParameter(f"one-shot diffusion: got sigma {sigma:g}, expected a positive number (pixels in [0,1])")
        if sigma > float(levels[-1]):
            raise BadParameter(
                f"one-shot diffusion: got sigma {sigma:g}, but the noisiest of the {len(table)} steps of this "
                f"diffusion model has {float(levels[-1]):.4g} (pixels in [0,1]): take a smaller sigma"
            )
        self.network = network
        self.alpha_bar = table
        self.t = int((levels < sigma).sum())
        self.trained_sigma: float | None = None
        self.trained_range: tuple[float, float] = (0.0, math.inf)

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        """Denoised images (B,3,H,W) in [0,1] of noisy ones, which must not have been clamped.

        Raises:
            BadParameter: the network returned another shape, or values that are not finite.
        """
        return (self.clean(math.sqrt(float(self.alpha_bar[self.t])) * (2 * noisy - 1), self.t) + 1) / 2

    def clean(self, z: torch.Tensor, t: int) -> torch.Tensor:
        """Estimate of the clean image (B,3,H,W), pixels in [-1,1], of a state at any step, counted from 0.

        Args:
            z: (B,3,H,W) = sqrt(abar_t) x + sqrt(1 - abar_t) noise, x in [-1,1].
            t: the step, the same for all images.

        Raises:
            BadParameter: as `forward`.
        """
        kept = float(self.alpha_bar[t])
        epsilon = self._checked(self.network(z, torch.full((len(z),), t, dtype=torch.int64, device=z.device)), z)
        return ((z - math.sqrt(1 - kept) * epsilon) / math.sqrt(kept)).clamp(-1, 1)

    @property
    def trained_steps(self) -> range:
        """The steps, counted from 0, whose noise is in `trained_range`; empty where none is."""
        low, high = self.trained_range
        levels = noise_levels(self.alpha_bar)
        return range(int((levels < low).sum()), int((levels <= high).sum()))

    def _checked(self, epsilon: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        batch, _, *size = z.shape
        if epsilon.shape not in ((batch, 3, *size), (batch, 6, *size)):
            raise BadParameter(
                f"diffusion model: the network returned shape {tuple(epsilon.shape)} for images "
                f"{tuple(z.shape)}, expected 3 channels of noise, or 6 with a learned variance"
            )
        epsilon = epsilon[:, :3]
        # The sum is finite only where every value is: one pass over memory. float32, since float16 overflows.
        if not torch.isfinite(epsilon.detach().sum(dtype=torch.float32)):
            raise BadParameter("diffusion model: the network returned values that are not finite (NaN or infinity)")
        return epsilon


def load_diffusion(path: Path, sigma: float) -> OneShotDiffusion:
    """A one-shot denoiser in evaluation mode, without trainable parameters, from weights of `LightEpsilon`.

    Args:
        path: a .safetensors file that `robustiqa train diffusion-denoiser` wrote: network and alpha-bar table.
        sigma: standard deviation of the noise, pixels in [0,1].

    Raises:
        BadData: the file is missing, corrupt, or of another network.
        BadParameter: sigma is not positive, or beyond the table's last step.
    """
    about, state = read_weights(path, DIFFUSION)
    with readable(path, DIFFUSION):
        # The file says how wide the network is and how long its table.
        try:
            table = checked_alpha_bar(state["alpha_bar"])
        except BadParameter as error:
            raise ValueError(str(error)) from error
        net = LightEpsilon(table, state["first.weight"].shape[0])
        net.load_state_dict(state)
    denoiser = OneShotDiffusion(net, net.alpha_bar, sigma)
    if "low" in about and "high" in about:
        denoiser.trained_range = (float(about["low"]), float(about["high"]))
    return denoiser.eval().requires_grad_(False)
