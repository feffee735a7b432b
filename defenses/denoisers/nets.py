"""The light U-Net: cheap enough for the thousands of noisy copies that a certificate needs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from ...bench.errors import BadParameter


class _LightUNet(nn.Module):
    """A residual U-Net on pixel-unshuffled images, in the manner of FFDNet (Zhang et al., IEEE TIP 2018).

    Everything runs at half the resolution or below, on activations in channels-last memory order. Any size works: the
    image is mirrored to a multiple of 8 and the result is cut back. About 100 MMAC for 128x128 pixels.

    Args:
        width: channels at half resolution; twice and four times as many at a quarter and an eighth.
        channels: channels of the input.

    Attributes:
        widths: channels of every convolution that a ReLU follows, in the order in which `noise` runs them.
    """

    def __init__(self, width: int, channels: int = 3) -> None:
        super().__init__()
        w2, w4 = 2 * width, 4 * width
        self.first = nn.Conv2d(channels, width, 6, stride=2, padding=2)
        self.down1 = nn.Conv2d(width, w2, 3, stride=2, padding=1)
        self.enter = _convolutions(w2, 1)
        self.down2 = nn.Conv2d(w2, w4, 3, stride=2, padding=1)
        self.coarse = _convolutions(w4, 2)
        self.up2 = nn.Conv2d(w4, w2, 1)
        self.middle = _convolutions(w2, 2)
        self.up1 = nn.Conv2d(w2, width, 1)
        self.fine = _convolutions(width, 3)
        self.last = nn.Conv2d(width, 12, 3, padding=1)
        self.widths = (width, w2, w2, w4, w4, w4, w2, w2, width, width, width)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def noise(self, noisy: torch.Tensor, shifts: Iterator[torch.Tensor] | None = None) -> torch.Tensor:
        """What the network takes for noise, (B,3,H,W), in images of mean about zero.

        Args:
            noisy: (B,channels,H,W), channels last.
            shifts: for each of `widths` a tensor (B,C,1,1), added before the ReLU; None adds nothing.
        """
        height, width = noisy.shape[-2:]
        below, right = -height % 8, -width % 8
        if below or right:
            noisy = F.pad(noisy, (0, right, 0, below), mode="reflect" if min(height, width) > 8 else "replicate")
        half = _relu(self.first(noisy), shifts)
        quarter = _residual(_relu(self.down1(half), shifts), self.enter, shifts)
        eighth = _residual(_relu(self.down2(quarter), shifts), self.coarse, shifts)
        quarter = _residual(quarter + F.interpolate(self.up2(eighth), scale_factor=2.0), self.middle, shifts)
        half = _residual(half + F.interpolate(self.up1(quarter), scale_factor=2.0), self.fine, shifts)
        return _shuffle(self.last(half))[..., :height, :width]


class _Level:
    """What every denoiser knows of the noise: the level at which it is used, and those it was trained for.

    Attributes:
        sigma: the noise's standard deviation in use, pixels in [0,1]; a network that is told the level needs it.
        trained_sigma: the only level of the training; None where there were several, or it is not known.
        trained_range: lowest and highest level of the training.
        trained_metric: metric that it was trained for, a plug-in string; None for an ordinary denoiser.
    """

    sigma: float | None = None
    trained_metric: str | None = None
    trained_sigma: float | None = None
    trained_range: tuple[float, float] = (0.0, float("inf"))

    def _with_level(self, x: torch.Tensor, sigma: torch.Tensor | None) -> torch.Tensor:
        """The image with one more plane, which holds the noise level (FFDNet, Zhang et al., IEEE TIP 2018)."""
        if sigma is None:
            if self.sigma is None:
                raise BadParameter("this denoiser is told the noise level: give sigma, or set its attribute `sigma`")
            sigma = x.new_full((x.shape[0],), self.sigma)
        return torch.cat([x, sigma.to(x)[:, None, None, None].expand(-1, 1, *x.shape[-2:])], dim=1)


class LightDenoiser(_Level, _LightUNet):
    """The U-Net as a denoiser: its output is the input minus the estimated noise.

    Args:
        width: channels at half resolution.
        conditioned: whether it is told the noise level; otherwise it is blind to it.
    """

    concurrent = True

    def __init__(self, width: int = 16, conditioned: bool = False) -> None:
        super().__init__(width, 3 + conditioned)
        self.conditioned = conditioned

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """Denoised images (B,3,H,W) of noisy ones; neither side is clamped to [0,1].

        Args:
            x: noisy images.
            sigma: (B,) noise levels for a conditioned network; None for its attribute `sigma`.
        """
        centred = x - 0.5
        centred = self._with_level(centred, sigma) if self.conditioned else centred
        return x - self.noise(centred.contiguous(memory_format=torch.channels_last))


class DnCNN(_Level, nn.Module):
    """DnCNN (Zhang et al., IEEE TIP 2017): a plain stack of 3x3 convolutions that estimates the noise.

    Without batch norm, which is an affine map at test time and makes training depend on the batch.

    Args:
        depth: convolutions; 17 in the paper.
        width: channels between them; 64 in the paper.
        conditioned: whether it is told the noise level; otherwise it is blind to it.
    """

    concurrent = True

    def __init__(self, depth: int = 17, width: int = 64, conditioned: bool = False) -> None:
        super().__init__()
        if depth < 2:
            raise BadParameter(f"DnCNN with depth {depth}: expected at least 2 convolutions")
        self.conditioned = conditioned
        self.layers = nn.ModuleList(
            nn.Conv2d(width if i else 3 + conditioned, width, 3, padding=1) for i in range(depth - 1)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """Denoised images (B,3,H,W) of noisy ones; the arguments are those of `LightDenoiser.forward`."""
        h = x - 0.5
        h = self._with_level(h, sigma) if self.conditioned else h
        h = h.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            h = F.relu(layer(h), inplace=True)
        return x - self.last(h)


class LightEpsilon(_LightUNet):
    """The U-Net as the noise predictor of a diffusion model (Ho et al., NeurIPS 2020), told the step.

    A small perceptron turns the step's noise level into a shift of every convolution's result: the thresholds of the
    ReLUs, which decide what counts as noise, then follow the level.

    Args:
        alpha_bar: (T,) table of the diffusion, kept in the weights file.
        width: channels at half resolution.
    """

    concurrent = True

    alpha_bar: torch.Tensor

    def __init__(self, alpha_bar: torch.Tensor, width: int = 16) -> None:
        super().__init__(width)
        self.embed = nn.Linear(1, 32)
        self.shift = nn.Linear(32, sum(self.widths))
        self.register_buffer("alpha_bar", alpha_bar.detach().double())

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Estimate of the unit Gaussian noise (B,3,H,W).

        Args:
            z: (B,3,H,W) = sqrt(abar_t) x + sqrt(1 - abar_t) noise, x in [-1,1].
            t: (B,) steps, integers from 0 to T-1.
        """
        kept = self.alpha_bar[t]
        # Log of the noise-to-signal ratio about the middle of the trained range: an input of order one.
        level = (0.5 * torch.log((1 - kept) / kept) + 1.7).to(z.dtype)
        shifts = self.shift(F.silu(self.embed(level[:, None])))[..., None, None].split(self.widths, dim=1)
        halved = (0.5 * kept.rsqrt()).to(z.dtype)[:, None, None, None]
        # The same scale for all steps: an image with values in [-1/2,1/2], plus noise.
        noise = self.noise(z.contiguous(memory_format=torch.channels_last) * halved, iter(shifts))
        # To unit noise: shifts alone could not give the network a gain that spans a factor of ten.
        return noise / (halved * (1 - kept).sqrt().to(z.dtype)[:, None, None, None])


def _convolutions(width: int, number: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(number))


def _relu(fresh: torch.Tensor, shifts: Iterator[torch.Tensor] | None) -> torch.Tensor:
    """ReLU in the memory of a convolution's result, which nothing else needs: saves a pass over memory."""
    return F.relu(fresh if shifts is None else fresh.add_(next(shifts)), inplace=True)


def _residual(x: torch.Tensor, convolutions: nn.ModuleList, shifts: Iterator[torch.Tensor] | None) -> torch.Tensor:
    for conv in convolutions:
        x = x + _relu(conv(x), shifts)
    return x


def _shuffle(x: torch.Tensor) -> torch.Tensor:
    """(B,12,H,W) to (B,3,2H,2W), the channels being (row, column, colour): F.pixel_shuffle is 10 times slower here."""
    batch, _, height, width = x.shape
    blocks = x.permute(0, 2, 3, 1).reshape(batch, height, width, 2, 2, 3).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, 2 * height, 2 * width, 3).permute(0, 3, 1, 2)
