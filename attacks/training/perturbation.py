"""Training of a universal perturbation (Shumitskaya et al., BMVC 2022, arXiv 2211.00366, and their later code)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ...bench.training.loop import save_weights, threads
from ..stored import DIRECTIONS, TILE
from ..universal import Uap
from .config import PerturbationTrainConfig, check
from .fit import fit
from .report import card
from .subjects import FromNoise, Subject, Tiles


def train_perturbation(config: PerturbationTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a universal perturbation in both directions, or go on where an interrupted run stopped.

    The three ways are those of the authors' code. Optimised: Adam on the perturbation, clamped to the ball after every
    step. Cumulative: raw gradients are added up, clamped likewise. Generative: Adam on a U-Net that makes it from fixed
    noise, tanh times eps. All at a constant rate, over random crops (theirs: the centre of 256 pixels, batch 4, or 1
    for cumulative).

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the perturbation, `OUT/perturbation.safetensors`, with tiles `up` and `down` (3,S,S) in half precision;
        beside it lie the model card, a checkpoint, the log `perturbation.csv` and its plot.

    Raises:
        BadData: data are missing or unusable, a checkpoint is corrupt, or the disk is full.
        BadParameter: impossible settings, the folder holds a run of others, or the loss is not finite.
        Incompatible: there is no gradient through the defended metric.
    """
    check(config)
    subject: Subject
    if config.kind == "generative":
        subject = FromNoise(config.width, config.threat, config.seed, config.size)
    else:
        subject = Tiles(config.size, config.threat)
    with threads(config.threads):
        fitted = fit(config, subject, config.kind == "cumulative", "perturbation", say)
        about = {"kind": TILE, "method": config.kind, **fitted.about}
        path = save_weights(_Saved(subject), Path(config.out) / "perturbation.safetensors", about)
        title = f"{config.kind} universal perturbation for {config.metric}, {config.norm}"
        attack = Uap(str(path))
        attack.spec = "uap"
        card(config, fitted, attack, "perturbation", title, say).write(path)
    return path


class _Saved(nn.Module):
    """The tiles under the names that they have in the file."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        with torch.no_grad():
            for direction in DIRECTIONS:
                self.register_buffer(direction, subject.delta(torch.empty(0), direction)[0].half())
