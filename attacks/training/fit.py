"""The steps that all trainings of attacks share: crops, perturbed both ways, and the mean score through the defence."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...bench.api import DefendedMetric, Direction
from ...bench.build import load_defense
from ...bench.errors import BadParameter, Incompatible
from ...bench.metrics import load_metric
from ...bench.registry import identity_of
from ...bench.seeds import Role, Streams, image_keys
from ...bench.training.loop import Identity, run_steps, training_identity
from ...bench.training.plot import plot_log
from ...bench.training.pool import Pool, has_gradient, score_span, training_data
from ..stored import DIRECTIONS
from .config import PLACES, TrainConfig
from .subjects import Descent, Subject


@dataclass(frozen=True)
class Fitted:
    """What a training was about.

    Attributes:
        g: the defended metric.
        pool: the training images.
        span: range of the metric's clean scores, the unit of the loss.
        about: what the file's header says of all of them.
    """

    g: DefendedMetric
    pool: Pool
    span: float
    about: dict[str, Any]


def fit(config: TrainConfig, subject: Subject, raw: bool, stage: str, say: Callable[[str], None]) -> Fitted:
    """Train a subject, or go on where an interrupted training of the same settings stopped.

    The loss of each direction is the mean of 1 - s q / R over a batch: s is 1 for up and -1 for down, q the quality
    through the defence, and R the range of the metric's clean scores. The authors take the declared range, 100.

    Args:
        config: the settings, checked.
        subject: what is trained, in place.
        raw: plain gradient descent instead of Adam.
        stage: name of checkpoint and log.
        say: prints a progress line.

    Raises:
        BadData: data are missing or unusable, a checkpoint is corrupt, or the disk is full.
        BadParameter: impossible settings, the folder holds a run of others, or the loss is not finite.
        Incompatible: there is no gradient through the defended metric.
    """
    g = load_defense(config.defense, load_metric(config.metric, config.device))
    if config.size < g.metric.min_size:
        raise BadParameter(
            f"--size {config.size} is below the {g.metric.min_size} pixels that the metric {g.metric.spec!r} needs: "
            "give a larger --size"
        )
    device = torch.device(config.device)
    data = training_data(config.data)
    pool = Pool(data, config.size, say)
    span = score_span(g.metric, pool, device)
    _needs_gradient(g, pool.centres(2).to(device))
    learner = Descent(subject.to(device).train(), config.rate, raw)

    def step(number: int) -> dict[str, float]:
        crops = pool.crops(config.batch, np.random.default_rng((config.seed, 3, number))).to(device)
        rng = Streams.create(image_keys(crops), Role.SEARCH, config.seed, stage, number)
        losses = {d: loss(g, crops, subject.delta(crops, d), d, rng.fork(), span) for d in DIRECTIONS}
        learner.update(torch.stack(list(losses.values())).sum(), number)
        return {direction: float(value.detach()) for direction, value in losses.items()}

    identity = training_identity(config, PLACES, data=data.content_hash, **_contents(config))
    run_steps(
        learner,
        step,
        steps=config.steps,
        out=Path(config.out),
        stage=stage,
        identity=identity,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        say=say,
    )
    plot_log(Path(config.out), stage)
    return Fitted(g, pool, span, _header(config, g, identity))


def loss(
    g: DefendedMetric, x: torch.Tensor, delta: torch.Tensor, direction: Direction, rng: Streams, span: float
) -> torch.Tensor:
    """Mean of 1 - s q / R for perturbed images x (B,3,S,S): a scalar with its graph."""
    sign = g.metric.sign * (1.0 if direction == "up" else -1.0)
    scores = g.surrogate((x + delta).clamp(0.0, 1.0), rng, 1)
    return (1.0 - sign * scores / span).mean()


def _needs_gradient(g: DefendedMetric, crops: torch.Tensor) -> None:
    """Raise `Incompatible` unless the defended metric has a gradient in the image."""

    def score(x: torch.Tensor) -> torch.Tensor:
        return g.surrogate(x, Streams.create(image_keys(x), Role.SEARCH), 1).mean(0)

    if not g.differentiable or not has_gradient(score, crops):
        raise Incompatible(
            f"{g.metric.spec!r} behind {g.spec!r} has no usable gradient in the image (it is zero, not finite, or cut "
            "off): train for another metric and transfer what comes out"
        )


def _contents(config: TrainConfig) -> dict[str, str]:
    """What metric and defence are, whatever they are called."""
    return {
        "metric": identity_of("metric", config.metric),
        "defense": identity_of("defense", config.defense),
    }


def _header(config: TrainConfig, g: DefendedMetric, identity: Identity) -> dict[str, Any]:
    """What the file says of itself."""
    digests = {k: hashlib.sha256(v.encode()).hexdigest()[:16] for k, v in identity.items() if k.startswith("content ")}
    return {
        "norm": config.norm,
        "eps": config.eps,
        "metric": g.metric.spec,
        "defense": g.spec,
        "settings": {k: v for k, v in identity.items() if k not in digests},
        "robustiqa": importlib.metadata.version("robustiqa"),
        **digests,
    }
