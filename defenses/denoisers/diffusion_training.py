"""Training of a small noise predictor for one-shot diffusion denoising, on licence-clean images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ...bench.errors import BadParameter
from ...bench.training.card import PROCEDURAL, Card, clive_material, command_line, training_seconds
from ...bench.training.loop import Learner, initialise, run_steps, save_weights, threads, training_identity
from ...bench.training.sources import clive_photographs, crop, pick, procedural, shrink
from . import load_denoiser
from .diffusion import OneShotDiffusion, linear_alpha_bar, noise_levels
from .evaluate import DenoiserReport, evaluate_denoiser
from .files import DIFFUSION
from .nets import LightDenoiser, LightEpsilon

PLACES = ("data_root", "photographs", "out", "threads", "checkpoint_every", "log_every")
"""Settings that change no weight; all others are part of a checkpoint's identity."""

EVALUATED = (0.06, 0.12, 0.18, 0.25)
"""Noise levels of the card, pixels in [0,1]: those that the certificates are made for."""


@dataclass(frozen=True)
class DiffusionTrainConfig:
    """Settings of `train_diffusion_denoiser`; the defaults reproduce the shipped weights.

    Attributes:
        data_root: folder of the CLIVE release; empty means $ROBUSTIQA_DATA/clive.
        photographs: folder of held-out photographs for the evaluation (JPEG or PNG); empty skips it.
        out: folder of the weights, the model card, checkpoints and logs.
        start: light denoiser for one level to start from, a name or a path; empty starts from random weights.
        low: least noise to be trained, standard deviation for pixels in [0,1].
        high: largest noise to be trained.
        seed: seed of everything random.
        threads: CPU threads of torch; one is the most robust on a shared machine.
        width: channels of the network at half resolution.
        crop: side of the training crops in pixels, a multiple of 8.
        batch: crops in a batch.
        steps: number of steps.
        lr: largest learning rate.
        limit: use only so many CLIVE images (trials); 0 uses all.
        checkpoint_every: steps between checkpoints; a multiple of log_every.
        log_every: steps between log rows.
    """

    data_root: str = ""
    photographs: str = ""
    out: str = "runs/train-diffusion-denoiser"
    start: str = "light-s0.12"
    low: float = 0.03
    high: float = 0.3
    seed: int = 0
    threads: int = 1
    width: int = 16
    crop: int = 96
    batch: int = 16
    steps: int = 10000
    lr: float = 1.5e-3
    limit: int = 0
    checkpoint_every: int = 1000
    log_every: int = 200


def train_diffusion_denoiser(config: DiffusionTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a `LightEpsilon`, or continue where an interrupted run of the same settings stopped.

    A step of the linear schedule is drawn for each crop, uniformly from those with noise in [low, high]. The loss is
    the squared error of the one-shot estimate, divided by the noise level: that makes the levels count about equally,
    since the error of a good denoiser grows about as the level does.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/diffusion-light.safetensors`; beside it lie card, checkpoints and the CSV log.

    Raises:
        BadData: CLIVE is missing, or a checkpoint or the weights to start from are corrupt.
        BadParameter: impossible settings, or the folder holds a run of others.
    """
    table = linear_alpha_bar()
    levels = noise_levels(table)
    allowed = torch.nonzero((levels >= config.low) & (levels <= config.high)).flatten()
    if config.checkpoint_every % config.log_every or config.crop % 8 or config.crop < 32 or not len(allowed):
        raise BadParameter(
            "training settings: checkpoint_every must be a multiple of log_every, crop a multiple of 8 from 32 on, "
            f"and some step of the diffusion must have noise in [low, high], which are {config.low:g} and "
            f"{config.high:g}"
        )
    net = _beginning(LightEpsilon(table, config.width), config)
    photographs, _, data_hash = clive_photographs(config.data_root, "train", config.limit)
    identity = training_identity(config, PLACES, data=data_hash)
    clean = clean_images(photographs, config.crop, config.seed)
    learner = Learner(net.train(), steps=config.steps, lr=config.lr, weight_decay=1e-4, average=0.999)

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 3, number))
        x, noise = clean_and_noise(clean, config.crop, config.batch, rng)
        t = allowed[torch.from_numpy(rng.integers(len(allowed), size=config.batch))]
        kept, level = table[t].float()[:, None, None, None], levels[t].float()
        epsilon = net(kept.sqrt() * (2 * x - 1) + (1 - kept).sqrt() * noise, t)
        # One-shot estimate minus clean image, pixels in [0,1]: level times the error of the noise.
        errors = level.square() * (epsilon - noise).square().mean((1, 2, 3))
        loss = (errors / level).mean()
        learner.update(10.0 * loss, number)
        return {"loss": float(loss.detach()), "mse": float(errors.detach().mean())}

    with threads(config.threads):
        run_steps(
            learner,
            step,
            steps=config.steps,
            out=Path(config.out),
            stage="diffusion",
            identity=identity,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            say=say,
        )
    net.load_state_dict(learner.ema)
    about = {"kind": DIFFUSION, "low": config.low, "high": config.high}
    weights = save_weights(net, Path(config.out) / "diffusion-light.safetensors", about)
    diffusion_card(config, data_hash, evaluate_diffusion(net.eval(), config)).write(weights)
    return weights


class LevelReport(NamedTuple):
    """One noise level: the step of the diffusion, PSNR by it, and PSNR by the light denoiser of that level, if any."""

    sigma: float
    t: int
    diffusion: DenoiserReport
    light: DenoiserReport | None


def evaluate_diffusion(net: LightEpsilon, config: DiffusionTrainConfig) -> list[LevelReport]:
    """Measure one-shot denoising at the levels `EVALUATED`; nothing where the config names no photographs.

    The light denoiser's output is clamped to [0,1] here, as one-shot diffusion clamps its own.
    """
    light = load_denoiser("light-s0.12", 0.12)
    reports: list[LevelReport] = []
    for sigma in EVALUATED:
        denoiser = OneShotDiffusion(net, net.alpha_bar, sigma)
        diffusion = evaluate_denoiser(denoiser, sigma, config.photographs)
        if diffusion is None:
            return []
        other = None
        if sigma == light.trained_sigma:
            other = evaluate_denoiser(nn.Sequential(light, nn.Hardtanh(0, 1)), sigma, config.photographs)
        reports.append(LevelReport(sigma, denoiser.t, diffusion, other))
    return reports


def diffusion_card(config: DiffusionTrainConfig, data_hash: str, reports: Sequence[LevelReport]) -> Card:
    """The model card of a finished run."""
    minutes = training_seconds(Path(config.out) / "diffusion.csv") / 60
    results: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}
    if reports:
        n = reports[0].diffusion.n
        results[f"PSNR in dB, mean over {n} held-out photographs at half size (95 % bootstrap interval)"] = (
            ("sigma", "step t", "noisy", "diffusion-light", "light-s0.12, clamped"),
            [
                [
                    f"{r.sigma:g}",
                    r.t,
                    f"{r.diffusion.noisy.value:.2f}",
                    "{:.2f} [{:.2f}, {:.2f}]".format(*r.diffusion.denoised),
                    "{:.2f} [{:.2f}, {:.2f}]".format(*r.light.denoised) if r.light else "",
                ]
                for r in reports
            ],
        )
    start = f"the weights of `{config.start}`" if config.start else "random weights"
    return Card(
        title="diffusion-light",
        purpose="Light residual U-Net that predicts the noise of a diffusion model (linear schedule, 1000 steps; the "
        "table is in the file) at its low-noise steps, for one-shot denoising before a metric (Carlini et al. 2023).",
        command=command_line("diffusion-denoiser", config, PLACES),
        data=[
            clive_material(data_hash) + "; reduced 1.5 to 3 times",
            PROCEDURAL,
            f"evaluation only: held-out photographs ({Path(config.photographs).name or 'none'})",
        ],
        results=results,
        limits=[
            f"trained for noise of standard deviation {config.low:g} to {config.high:g} (pixels in [0,1]): outside, a "
            "certificate still holds, but the images suffer",
            "a denoiser, not a generator: the noisier steps of the diffusion are untrained, so it cannot make images",
            "small, for speed: the large diffusion models of the paper remove noise better, at a far higher cost",
        ],
        notes=[
            f"training time on {config.threads} CPU thread(s): {minutes:.1f} min, starting from {start}",
            f"seed {config.seed}",
        ],
    )


def _beginning(net: LightEpsilon, config: DiffusionTrainConfig) -> LightEpsilon:
    """The network before the first step: at every noise level the denoiser that it starts from."""
    initialise(net, config.seed)
    with torch.no_grad():
        net.shift.weight.zero_()
        if not config.start:
            net.last.weight.mul_(0.1)  # starts near zero noise
            return net
        light = load_denoiser(config.start, config.high)
        if not isinstance(light, LightDenoiser) or light.widths != net.widths:
            raise BadParameter(f"start {config.start!r}: expected a light denoiser of width {config.width}")
        net.load_state_dict(light.state_dict(), strict=False)
    return net


def clean_images(photographs: list[np.ndarray], side: int, seed: int) -> list[np.ndarray]:
    """Each photograph reduced 1.5, 2 and 3 times, which removes most of its own noise, and procedural images.

    Args:
        photographs: (H,W,3) uint8 each.
        side: side of the training crops in pixels; images below it are left out.
        seed: seed of the procedural images.
    """
    images = [shrink(image, factor) for image in photographs for factor in (1.5, 2.0, 2.0, 3.0)]
    rng = np.random.default_rng((seed, 4))
    images += [procedural(rng, 2 * side) for _ in range(len(images) // 8)]
    return [image for image in images if min(image.shape[:2]) >= side]


def clean_and_noise(
    images: list[np.ndarray], side: int, batch: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops (B,3,side,side) in [0,1], flipped and turned, and unit Gaussian noise of the same shape."""
    crops = np.stack([_oriented(crop(pick(images, rng), side, rng), rng) for _ in range(batch)])
    clean = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255.0)
    return clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))


def _oriented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the four quarter turns."""
    return np.rot90(image, int(rng.integers(4)))
