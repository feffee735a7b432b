"""Training of `lip-iqa` and `ibp-iqa`: the scores of `tiny-iqa`, human scores, and a certificate to keep small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import BadParameter
from ..metrics.tiny_iqa import tiny_iqa
from .certificates import certified_card
from .evaluate import evaluate_metric
from .loop import Identity, Learner, run_steps, save_weights, threads, training_identity
from .losses import rated_losses, rated_sum
from .metric import PLACES, SECOND_STAGE, MetricTrainConfig, check_settings
from .sources import clive_photographs
from .synthetic import VERSIONS, Groups, make_groups
from .trainees import IbpTrainee, LipTrainee, Trainee
from .views import batch, group_statistics, rated_statistics, tensor

TRAINEES: dict[str, type[LipTrainee] | type[IbpTrainee]] = {"lip-iqa": LipTrainee, "ibp-iqa": IbpTrainee}
RAMP = 0.4
"""Share of the first stage in which the certificate's weight and radius rise from zero."""


@dataclass(frozen=True)
class CertifiedTrainConfig(MetricTrainConfig):
    """Settings of `train_certified_metric`; the defaults reproduce `lip-iqa`, the options on its card `ibp-iqa`.

    Attributes:
        net: lip-iqa (l2, Lipschitz constant) or ibp-iqa (l_inf, intervals).
        penalty: weight of the certificate's size in the first stage; more gives a tighter, but coarser metric.
        mos_penalty: the same in the second stage; trials of it share one first stage.
        eps: l_inf radius at which the intervals of ibp-iqa are kept narrow, in units of 1/255.
    """

    out: str = "runs/train-certified"
    synthetic_steps: int = 2400
    synthetic_batch: int = 8
    synthetic_lr: float = 4e-3
    mos_steps: int = 600
    mos_groups: int = 16
    mos_lr: float = 1e-3
    dropout: float = 0.0
    group_weight: float = 1.0
    net: str = "lip-iqa"
    penalty: float = 0.005
    mos_penalty: float = 0.1
    eps: float = 1.0


def train_certified_metric(config: CertifiedTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a certified metric, or continue where an interrupted run of the same settings stopped.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/NET.safetensors`; beside it lie the model card, checkpoints and CSV logs.

    Raises:
        BadData: CLIVE is missing or a checkpoint is corrupt.
        BadParameter: impossible settings, a missing package, or the folder holds a run of others.
    """
    check_settings(config)
    if config.net not in TRAINEES:
        raise BadParameter(f"training settings: net must be one of {', '.join(TRAINEES)}")
    trainee = TRAINEES[config.net](config.seed)
    photographs, mos, data_hash = clive_photographs(config.data_root, "train", config.limit)
    with threads(config.threads):
        say(f"making {config.groups} groups of {VERSIONS} versions from {len(photographs)} photographs")
        groups = make_groups(photographs, config.groups, config.crop, config.seed)
        first = training_identity(config, PLACES + SECOND_STAGE + ("mos_penalty",), data=data_hash)
        _synthetic_stage(config, trainee, groups, first, say)
        if config.mos_steps:
            second = training_identity(config, PLACES, data=data_hash)
            _mos_stage(config, trainee, groups, photographs, mos, second, say)
        net = trainee.exported()
        weights = save_weights(net, Path(config.out) / f"{config.net}.safetensors")
        say("evaluating")
        report = evaluate_metric(net, config.data_root, config.photographs, ("val", "test"), seed=config.seed)
        certified_card(config, net, data_hash, report).write(weights)
    return weights


def _synthetic_stage(
    config: CertifiedTrainConfig,
    trainee: Trainee,
    groups: Groups,
    identity: Identity,
    say: Callable[[str], None],
) -> None:
    """Stage 1: the whole network follows the scores that `tiny-iqa` gives to crops and their distorted versions.

    A teacher says more than the strength of a distortion: it also tells the untouched crops apart.
    """
    say(f"scoring {groups.strengths.size} crops with tiny-iqa")
    teacher = tiny_iqa()
    with torch.no_grad():
        truth = torch.cat([teacher(tensor(images)) for images in groups.images]).view(-1, VERSIONS)
    strengths, targets = torch.from_numpy(groups.strengths), torch.from_numpy(groups.targets)
    learner = Learner(trainee, steps=config.synthetic_steps, lr=config.synthetic_lr, weight_decay=1e-3, average=0.995)

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 1, number))
        index = rng.choice(len(groups.images), config.synthetic_batch, replace=False)
        images = batch(groups.images[index], rng)
        scores = trainee.train()(images)
        losses = rated_losses(
            scores, truth[index].flatten(), scores.view(-1, VERSIONS), strengths[index], targets[index]
        )
        ramp = min(1.0, number / (RAMP * config.synthetic_steps))
        # One version of each group is enough for the certificate, which takes twice the time of a score.
        losses["penalty"] = trainee.penalty(
            *trainee.ends(images[number % VERSIONS :: VERSIONS], ramp * config.eps / 255)
        )
        learner.update(rated_sum(losses, 1.0) + config.penalty * ramp * losses["penalty"], number)
        return {k: float(v.detach()) for k, v in losses.items()}

    _run(config, learner, step, "synthetic", config.synthetic_steps, identity, say)
    trainee.load_state_dict(learner.ema)
    # The next stage clips the norm of all gradients: the last ones of this stage would count, unless it was resumed.
    trainee.eval().zero_grad()


def _mos_stage(
    config: CertifiedTrainConfig,
    trainee: Trainee,
    groups: Groups,
    photographs: list[np.ndarray],
    mos: np.ndarray,
    identity: Identity,
    say: Callable[[str], None],
) -> None:
    """Stage 2: the head goes on with CLIVE's human scores; the rest stays, so its statistics are computed once."""
    say(f"computing the statistics of {len(photographs)} photographs and {len(groups.images)} groups")
    rated = rated_statistics(trainee.features, photographs, config.mos_views, config.mos_crops, config.seed)
    synthetic = group_statistics(trainee.features, groups)
    with torch.no_grad():
        pairs = [trainee.ends(tensor(photograph), config.eps / 255) for photograph in photographs]
    lo, hi = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    trainee.requires_grad_(False)
    for layer in trainee.head():
        layer.requires_grad_(True)
    learner = Learner(
        trainee, steps=config.mos_steps, lr=config.mos_lr, weight_decay=config.weight_decay, average=0.995
    )
    truth, strengths, targets = (torch.from_numpy(a) for a in (mos, groups.strengths, groups.targets))

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 2, number))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(0, len(rated), config.mos_batch)
        features = rated[chosen, rng.integers(0, rated.shape[1], config.mos_batch)]
        keep = (torch.rand(features.shape, generator=generator) >= config.dropout) / (1.0 - config.dropout)
        index = rng.integers(0, len(synthetic), config.mos_groups)
        versions = trainee.score(synthetic[index].flatten(0, 1)).view(-1, VERSIONS)
        losses = rated_losses(trainee.score(features, keep), truth[chosen], versions, strengths[index], targets[index])
        losses["penalty"] = trainee.penalty(lo[chosen], hi[chosen])
        learner.update(rated_sum(losses, config.group_weight) + config.mos_penalty * losses["penalty"], number)
        return {k: float(v.detach()) for k, v in losses.items()}

    _run(config, learner, step, "mos", config.mos_steps, identity, say)
    trainee.load_state_dict(learner.ema)
    trainee.eval()


def _run(
    config: CertifiedTrainConfig,
    learner: Learner,
    step: Callable[[int], dict[str, float]],
    stage: str,
    steps: int,
    identity: Identity,
    say: Callable[[str], None],
) -> None:
    run_steps(
        learner,
        step,
        steps=steps,
        out=Path(config.out),
        stage=stage,
        identity=identity,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        say=say,
    )
