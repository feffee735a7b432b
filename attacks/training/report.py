"""The model card of a trained attack, with its gain on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ...bench.api import DefendedMetric
from ...bench.training.card import Card, command_line, machine, plugin_option, training_seconds
from ...bench.training.pool import Pool, data_name, held_out, open_data
from ..base import Attack
from ..random_noise import RandomNoise
from ..stored import DIRECTIONS
from .config import TrainConfig
from .fit import Fitted

_LEFT_OUT = ("out", "threads", "device", "checkpoint_every", "log_every")

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]


def card(
    config: TrainConfig, fitted: Fitted, attack: Attack, command: str, title: str, say: Callable[[str], None]
) -> Card:
    """The card of a finished training.

    Args:
        config: its settings.
        fitted: what it was about.
        attack: the attack that applies its result.
        command: name of the training, which is also that of its log.
        title: of the card.
        say: prints a line about validation images that are left out.
    """
    watched = held_out(config.data, config.validation)
    results: dict[str, Table] = {}
    if watched:
        pool = Pool(open_data(watched), config.size, say)
        images = pool.centres(config.validation_images)
        known = len(pool.used & fitted.pool.used)
        where = f"centre crops of {config.size} pixels of the first {len(images)} images of `{data_name(watched)}`"
        trained_on = f"; {known} of its images were trained on" if known else ""
        results[f"Mean change of score at {config.threat}, {where}{trained_on}"] = gains(
            fitted.g, images, attack, config
        )
    minutes = training_seconds(Path(config.out) / f"{command}.csv") / 60
    around = "" if config.defense == "none" else f" behind the defence `{config.defense}`"
    return Card(
        title=title,
        purpose=f"Attack in {config.norm} on the metric `{config.metric}`{around}, in both directions, trained at "
        f"eps {config.eps:.4g} (pixels in [0,1]); an attack stretches it to its own budget.",
        command=command_line(command, config, _LEFT_OUT) + plugin_option(config.metric),
        data=[*fitted.pool.about(config.data), f"evaluation only: {data_name(watched) or 'none'}"],
        results=results,
        limits=["made for one metric and defence: on another it is a transfer attack"],
        notes=[
            f"loss: mean of 1 - s q / R over crops and directions, R = {fitted.span:.4g}, the range p99 - p1 of clean "
            "scores of the training crops",
            f"training time {minutes:.1f} min ({config.threads} CPU thread(s)); {machine(config.device)}",
            f"seed {config.seed}",
        ],
        licence="that of whoever trained them (Apache-2.0 for those that come with the package)",
    )


def gains(g: DefendedMetric, images: torch.Tensor, attack: Attack, config: TrainConfig) -> Table:
    """Mean gain of an attack and of random noise on images (N,3,S,S), by direction, in the metric's units."""
    noise = RandomNoise()
    noise.spec = "random-noise"
    device = torch.device(config.device)
    rows = [
        [d, *(float(a(g, images.to(device), config.threat, d, config.seed).gain.mean()) for a in (attack, noise))]
        for d in DIRECTIONS
    ]
    return ("direction", "trained", "random noise"), rows
