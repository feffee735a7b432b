"""Training of a denoiser with plain mean squared error, on licence-clean images, for one noise level."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...bench.errors import BadParameter
from ...bench.images import from_uint8
from ...bench.training.card import PROCEDURAL, Card, clive_material, command_line, training_seconds
from ...bench.training.evaluate import Estimate, bootstrap, half_size_photographs
from ...bench.training.loop import Learner, initialise, run_steps, save_weights, settings_digest, threads
from ...bench.training.sources import clive_photographs, crop, pick, procedural, shrink
from .files import DENOISER
from .nets import LightDenoiser

PLACES = ("data_root", "photographs", "out", "threads", "checkpoint_every", "log_every")
"""Settings that change no weight; all others are part of a checkpoint's identity."""


@dataclass(frozen=True)
class DenoiserTrainConfig:
    """Settings of `train_denoiser`; the defaults reproduce the shipped weights.

    Attributes:
        data_root: folder of the CLIVE release; empty means $ROBUSTIQA_DATA/clive.
        photographs: folder of held-out photographs for the evaluation (JPEG or PNG); empty skips it.
        out: folder of the weights, the model card, checkpoints and logs.
        sigma: standard deviation of the Gaussian noise, for pixels in [0,1].
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
    out: str = "runs/train-denoiser"
    sigma: float = 0.12
    seed: int = 0
    threads: int = 1
    width: int = 16
    crop: int = 96
    batch: int = 16
    steps: int = 12000
    lr: float = 2e-3
    limit: int = 0
    checkpoint_every: int = 1000
    log_every: int = 200


def train_denoiser(config: DenoiserTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a `LightDenoiser`, or continue where an interrupted run of the same settings stopped.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/denoiser-light-sSIGMA.safetensors`; beside it lie card, checkpoints and the CSV log.

    Raises:
        BadData: CLIVE is missing or a checkpoint is corrupt.
        BadParameter: impossible settings, or the folder holds a run of others.
    """
    if config.checkpoint_every % config.log_every or config.crop % 8 or config.crop < 32 or config.sigma <= 0:
        raise BadParameter(
            "training settings: checkpoint_every must be a multiple of log_every, crop a multiple of 8 from 32 on, "
            "and sigma positive"
        )
    photographs, _, data_hash = clive_photographs(config.data_root, "train", config.limit)
    digest = hashlib.sha256((settings_digest(config, PLACES) + data_hash).encode()).hexdigest()
    clean = clean_images(photographs, config.crop, config.seed)
    net = LightDenoiser(config.width)
    initialise(net, config.seed)
    with torch.no_grad():
        net.last.weight.mul_(0.1)  # starts near the identity
    learner = Learner(net.train(), steps=config.steps, lr=config.lr, weight_decay=1e-4, average=0.999)

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 3, number))
        target, noise = clean_and_noise(clean, config.crop, config.batch, rng)
        # Not clamped: smoothing adds its noise to the raw image, and the denoiser has to see exactly that.
        loss = F.mse_loss(net(target + config.sigma * noise), target)
        learner.update(100.0 * loss, number)
        return {"mse": float(loss.detach())}

    with threads(config.threads):
        run_steps(
            learner,
            step,
            steps=config.steps,
            out=Path(config.out),
            stage="denoiser",
            digest=digest,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            say=say,
        )
    net.load_state_dict(learner.ema)
    weights = save_weights(
        net,
        Path(config.out) / f"denoiser-light-s{config.sigma:g}.safetensors",
        {"kind": DENOISER, "sigma": config.sigma},
    )
    denoiser_card(config, data_hash, evaluate_denoiser(net, config.sigma, config.photographs)).write(weights)
    return weights


class DenoiserReport(NamedTuple):
    """PSNR in dB, mean over `n` held-out photographs at half size: of the noisy images and of the denoised ones."""

    n: int
    noisy: Estimate
    denoised: Estimate


def evaluate_denoiser(
    net: nn.Module, sigma: float, photographs: str, n_photographs: int = 100, seed: int = 0
) -> DenoiserReport | None:
    """Measure a denoiser on held-out photographs (JPEG or PNG) at half size; None where no folder is given.

    Noise is added to pixels in [0,1] without clamping, and the output is not clamped either.
    """
    if not photographs:
        return None
    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[float, float]] = []
    for image in half_size_photographs(photographs, n_photographs):
        clean = from_uint8(image)[None]
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        with torch.no_grad():
            rows.append((_psnr(noisy, clean), _psnr(net(noisy), clean)))
    table = np.array(rows)
    noisy_psnr, denoised = (bootstrap(len(table), lambda i, c=c: float(table[i, c].mean()), seed) for c in (0, 1))
    return DenoiserReport(len(table), noisy_psnr, denoised)


def denoiser_card(config: DenoiserTrainConfig, data_hash: str, report: DenoiserReport | None) -> Card:
    """The model card of a finished run."""
    minutes = training_seconds(Path(config.out) / "denoiser.csv") / 60
    results: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}
    if report is not None:
        results[f"PSNR in dB, mean over {report.n} held-out photographs at half size (95 % bootstrap interval)"] = (
            ("sigma", "noisy", "denoised"),
            [[config.sigma, f"{report.noisy.value:.2f}", "{:.2f} [{:.2f}, {:.2f}]".format(*report.denoised)]],
        )
    return Card(
        title=f"denoiser-light-s{config.sigma:g}",
        purpose=f"Light residual U-Net that removes white Gaussian noise of standard deviation {config.sigma:g} "
        "(pixels in [0,1], not clamped), for denoised smoothing.",
        command=command_line("denoiser", config, PLACES),
        data=[
            clive_material(data_hash) + "; reduced 1.5 to 3 times",
            PROCEDURAL,
            f"evaluation only: held-out photographs ({Path(config.photographs).name or 'none'})",
        ],
        results=results,
        limits=[
            f"made for sigma {config.sigma:g} alone: weaker noise is over-smoothed, stronger noise is left in",
            "small, for speed: larger networks (DnCNN, DRUNet) remove noise better",
        ],
        notes=[f"training time on {config.threads} CPU thread(s): {minutes:.1f} min", f"seed {config.seed}"],
    )


def _psnr(image: torch.Tensor, clean: torch.Tensor) -> float:
    return -10.0 * float(torch.log10(F.mse_loss(image, clean)))


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
