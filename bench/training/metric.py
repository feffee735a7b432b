"""Training of `tiny-iqa`: first on synthetic distortions (kind, strength, order), then also on CLIVE's human scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import BadParameter
from ..metrics.tiny_iqa import TinyIQA
from .card import PROCEDURAL, Card, clive_material, command_line, report_tables, training_times
from .evaluate import MetricReport, evaluate_metric
from .loop import Identity, Learner, initialise, run_steps, save_weights, threads, training_identity
from .losses import rated_losses, rated_sum, synthetic_losses, synthetic_sum
from .sources import clive_photographs
from .synthetic import TRAINING_KINDS, VERSIONS, Groups, make_groups
from .views import batch, group_statistics, rated_statistics

SECOND_STAGE = (
    "mos_steps",
    "mos_batch",
    "mos_views",
    "mos_crops",
    "mos_groups",
    "mos_lr",
    "dropout",
    "group_weight",
    "weight_decay",
)
"""Settings of the second stage: the first one's checkpoint does not depend on them."""

PLACES = ("data_root", "out", "threads", "checkpoint_every", "log_every", "photographs")
"""Settings that change no weight; all others are part of a checkpoint's identity."""


@dataclass(frozen=True)
class MetricTrainConfig:
    """Settings of `train_metric`; the defaults reproduce the shipped weights.

    Attributes:
        data_root: folder of the CLIVE release; empty means $ROBUSTIQA_DATA/clive.
        photographs: folder of held-out photographs for the evaluation (JPEG or PNG); empty skips that part.
        out: folder of the weights, the model card, checkpoints and logs.
        seed: seed of everything random.
        threads: CPU threads of torch; one is the most robust on a shared machine.
        groups: crops in the synthetic pool, each in four versions.
        crop: side of the synthetic crops in pixels.
        synthetic_steps: steps of the first stage.
        synthetic_batch: groups in a batch of the first stage.
        synthetic_lr: largest learning rate of the first stage.
        mos_steps: steps of the second stage; 0 skips it.
        mos_batch: views of CLIVE images in a batch of the second stage.
        mos_views: random crops of each CLIVE image, beside the whole image and its mirror image.
        mos_crops: smallest and largest side of these crops in pixels.
        mos_groups: synthetic groups in a batch of the second stage.
        mos_lr: largest learning rate of the second stage.
        dropout: share of pooled statistics that are dropped in the second stage.
        group_weight: weight of the synthetic order in the second stage.
        weight_decay: AdamW's decay in the second stage.
        limit: use only so many CLIVE images (trials); 0 uses all.
        checkpoint_every: steps between checkpoints; a multiple of log_every.
        log_every: steps between log rows.
    """

    data_root: str = ""
    photographs: str = ""
    out: str = "runs/train-metric"
    seed: int = 0
    threads: int = 1
    groups: int = 6000
    crop: int = 128
    synthetic_steps: int = 5000
    synthetic_batch: int = 12
    synthetic_lr: float = 2e-3
    mos_steps: int = 1000
    mos_batch: int = 64
    mos_views: int = 10
    mos_crops: tuple[int, ...] = (256, 480)
    mos_groups: int = 24
    mos_lr: float = 3e-3
    dropout: float = 0.3
    group_weight: float = 2.0
    weight_decay: float = 0.05
    limit: int = 0
    checkpoint_every: int = 500
    log_every: int = 100


class Pretrainer(nn.Module):
    """`TinyIQA` with batch norm and two auxiliary heads (kind, strength for each kind); all are dropped on export."""

    def __init__(self) -> None:
        super().__init__()
        self.core = TinyIQA()
        self.norms = nn.ModuleList(nn.BatchNorm2d(_out_channels(conv)) for conv in self.core.convs)
        self.kind = nn.Linear(self.core.n_features, len(TRAINING_KINDS))
        self.strength = nn.Linear(self.core.n_features, len(TRAINING_KINDS))

    def losses(self, images: torch.Tensor, groups: Groups, index: np.ndarray) -> dict[str, torch.Tensor]:
        """The four losses on images (G*VERSIONS,3,S,S) of the groups at `index`."""
        features = self.core.features(images, list(self.norms))
        return synthetic_losses(features, self.core.score(features), self.kind, self.strength, groups, index)

    def folded(self) -> TinyIQA:
        """A copy of the core with each batch norm's running statistics folded into its convolution."""
        net = TinyIQA()
        net.load_state_dict(self.core.state_dict())
        with torch.no_grad():
            for conv, norm in zip(net.convs, self.norms, strict=True):
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                assert conv.bias is not None
                assert norm.running_mean is not None
                assert norm.running_var is not None
                gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                conv.weight.mul_(gain[:, None, None, None])
                conv.bias.sub_(norm.running_mean).mul_(gain).add_(norm.bias)
        return net.eval()


def train_metric(config: MetricTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train `tiny-iqa`, or continue where an interrupted run of the same settings stopped.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/tiny-iqa.safetensors`; beside it lie the model card, checkpoints and CSV logs.

    Raises:
        BadData: CLIVE is missing or a checkpoint is corrupt.
        BadParameter: impossible settings, or the folder holds a run of others.
    """
    check_settings(config)
    out = Path(config.out)
    photographs, mos, data_hash = clive_photographs(config.data_root, "train", config.limit)
    with threads(config.threads):
        say(f"making {config.groups} groups of {VERSIONS} versions from {len(photographs)} photographs")
        groups = make_groups(photographs, config.groups, config.crop, config.seed)
        # Trials of the second stage share one first stage.
        first = training_identity(config, PLACES + SECOND_STAGE, data=data_hash)
        net = _synthetic_stage(config, groups, first, say)
        if config.mos_steps:
            second = training_identity(config, PLACES, data=data_hash)
            net = _mos_stage(config, net, groups, photographs, mos, second, say)
        weights = save_weights(net, out / "tiny-iqa.safetensors")
        say("evaluating")
        report = evaluate_metric(net, config.data_root, config.photographs, ("val", "test"), seed=config.seed)
    metric_card(config, data_hash, report).write(weights)
    return weights


def check_settings(config: MetricTrainConfig) -> None:
    """Raise `BadParameter` for settings that cannot work together."""
    wrong = {
        "checkpoint_every must be a multiple of log_every": config.checkpoint_every % config.log_every,
        "mos_crops must be two sizes such as 256,480": len(config.mos_crops) != 2,
        "crops must have at least 64 pixels": min(config.crop, *config.mos_crops) < 64,
        "groups must be at least synthetic_batch": config.groups < config.synthetic_batch,
        "synthetic_steps must be positive": config.synthetic_steps < 1,
        "dropout must be in [0,1)": not 0.0 <= config.dropout < 1.0,
    }
    for message, broken in wrong.items():
        if broken:
            raise BadParameter(f"training settings: {message}")


def metric_card(config: MetricTrainConfig, data_hash: str, report: MetricReport) -> Card:
    """The model card of a finished run."""
    return Card(
        title="tiny-iqa",
        purpose="Compact no-reference image quality: (B,3,H,W) in [0,1] to about 0-100, larger = better. It exists to "
        "be attacked and defended; it is not robust by itself.",
        command=command_line("metric", config, PLACES),
        data=[
            clive_material(data_hash) + "; with its MOS",
            PROCEDURAL,
            "synthetic distortions of both, made by the training itself",
            f"evaluation only: CLIVE's val and test splits; photographs ({Path(config.photographs).name or 'none'})",
        ],
        results=report_tables(report),
        limits=[
            "trained on a few hundred rated photographs of one data set: the intervals say how far that generalises",
            "orders versions of one photograph far better than different photographs: see the two columns of levels",
            "sees about 90 pixels of context: no semantics, and no judgement of composition or faces",
            "near-pristine photographs of unusual content (fog, night, bokeh) can score low",
        ],
        notes=[training_times(config.out, config.threads), f"seed {config.seed}"],
    )


def _synthetic_stage(
    config: MetricTrainConfig, groups: Groups, identity: Identity, say: Callable[[str], None]
) -> TinyIQA:
    """Stage 1: kind, strength, pseudo-quality and order of synthetic distortions."""
    net = Pretrainer()
    initialise(net, config.seed)
    learner = Learner(net, steps=config.synthetic_steps, lr=config.synthetic_lr, weight_decay=1e-3, average=0.998)

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 1, number))
        index = rng.choice(len(groups.images), config.synthetic_batch, replace=False)
        losses = net.train().losses(batch(groups.images[index], rng), groups, index)
        learner.update(synthetic_sum(losses), number)
        return {k: float(v.detach()) for k, v in losses.items()}

    run_steps(
        learner,
        step,
        steps=config.synthetic_steps,
        out=Path(config.out),
        stage="synthetic",
        identity=identity,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        say=say,
    )
    net.load_state_dict(learner.ema)
    return net.eval().folded()


def _mos_stage(
    config: MetricTrainConfig,
    net: TinyIQA,
    groups: Groups,
    photographs: list[np.ndarray],
    mos: np.ndarray,
    identity: Identity,
    say: Callable[[str], None],
) -> TinyIQA:
    """Stage 2: a new head for CLIVE's human scores, with the synthetic order kept alive.

    The convolutions stay as they are: training them on some 400 rated images as well lowered the correlation on images
    that were left out (SROCC about .60 against .63). So all statistics are computed once and the stage takes seconds.
    """
    say(f"computing the statistics of {len(photographs)} photographs and {len(groups.images)} groups")
    rated = rated_statistics(net.features, photographs, config.mos_views, config.mos_crops, config.seed)
    synthetic = group_statistics(net.features, groups)
    centre, spread = rated[:, 0].mean(0), rated[:, 0].std(0) + 1e-3
    rated, synthetic = (rated - centre) / spread, (synthetic - centre) / spread
    head = TinyIQA()
    initialise(head, config.seed + 1)
    head.convs.requires_grad_(False)
    learner = Learner(
        head.train(), steps=config.mos_steps, lr=config.mos_lr, weight_decay=config.weight_decay, average=0.995
    )
    truth, strengths, targets = (
        torch.from_numpy(mos),
        torch.from_numpy(groups.strengths),
        torch.from_numpy(groups.targets),
    )

    def step(number: int) -> dict[str, float]:
        rng = np.random.default_rng((config.seed, 2, number))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(0, len(rated), config.mos_batch)
        features = rated[chosen, rng.integers(0, rated.shape[1], config.mos_batch)]
        keep = torch.rand(features.shape, generator=generator) >= config.dropout
        scores, target = head.score(features * keep / (1.0 - config.dropout)), truth[chosen]
        index = rng.integers(0, len(synthetic), config.mos_groups)
        versions = head.score(synthetic[index].flatten(0, 1)).view(-1, VERSIONS)
        losses = rated_losses(scores, target, versions, strengths[index], targets[index])
        learner.update(rated_sum(losses, config.group_weight), number)
        return {k: float(v.detach()) for k, v in losses.items()}

    run_steps(
        learner,
        step,
        steps=config.mos_steps,
        out=Path(config.out),
        stage="mos",
        identity=identity,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        say=say,
    )
    head.load_state_dict(learner.ema)
    with torch.no_grad():  # the head saw standardised statistics; its first layer takes the standardisation in
        net.hidden.weight.copy_(head.hidden.weight / spread)
        net.hidden.bias.copy_(head.hidden.bias - net.hidden.weight @ centre)
        net.out.load_state_dict(head.out.state_dict())
    return net.eval()


def _out_channels(conv: nn.Module) -> int:
    assert isinstance(conv, nn.Conv2d)
    return conv.out_channels
