"""Training of FACPA's generator (Shumitskaya et al., Tiny Papers at ICLR 2023, arXiv 2305.15544)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...bench.training.loop import save_weights, threads
from ..stored import GENERATOR
from ..universal import Facpa
from .config import GeneratorTrainConfig, check
from .fit import fit
from .report import card
from .subjects import FromImage


def train_generator(config: GeneratorTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a network that perturbs an image in one forward, in both directions, or go on where a run stopped.

    Adam at a constant rate on a U-Net, tanh times eps, over random crops (the authors': the centre of 256 pixels,
    batch 4, 200 epochs).

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/generator.safetensors`, in half precision, with the prefixes `up.` and `down.`; beside
        it lie the model card, a checkpoint, the log `generator.csv` and its plot.

    Raises:
        BadData: data are missing or unusable, a checkpoint is corrupt, or the disk is full.
        BadParameter: impossible settings, the folder holds a run of others, or the loss is not finite.
        Incompatible: there is no gradient through the defended metric.
    """
    check(config)
    subject = FromImage(config.width, config.threat, config.seed)
    with threads(config.threads):
        fitted = fit(config, subject, False, "generator", say)
        about = {"kind": GENERATOR, **fitted.about}
        path = save_weights(subject.nets.half(), Path(config.out) / "generator.safetensors", about)
        title = f"FACPA generator for {config.metric}, {config.norm}"
        attack = Facpa(str(path))
        attack.spec = "facpa"
        card(config, fitted, attack, "generator", title, say).write(path)
    return path
