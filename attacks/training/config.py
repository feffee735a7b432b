"""Settings of the trainings of attacks, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass

from ...bench.api import Threat
from ...bench.errors import BadParameter
from ...bench.training.pool import AUTO
from ..stored import METHODS

PLACES = ("metric", "defense", "data", "validation", "out", "threads", "device", "checkpoint_every", "log_every")
"""Settings that are no part of a checkpoint's identity, because they change no weight but for rounding, or because what
they name counts by its content."""

_ADAM = 1e-3
_RATES = {"optimised": _ADAM, "cumulative": 1.0, "generative": _ADAM}


@dataclass(frozen=True)
class AttackTrainConfig:
    """What the trainings of attacks share.

    Attributes:
        metric: the metric to attack; a plug-in string.
        defense: the defence around it; a randomised one is attacked by the mean over fresh draws (EOT), one a step and
            image.
        norm: linf or l2.
        eps: budget of the training, pixels in [0,1], a number or a fraction; an attack stretches the result to its own.
        data: images to train on: a data set as a plug-in string, or a folder.
        validation: data set or folder that the card's figures are measured on; empty for none; auto: the split val
            where data names the split train.
        seed: seed of everything random.
        batch: crops in a batch.
        steps: number of steps.
        threads: CPU threads of torch; one is the most robust on a shared machine.
        device: torch device.
        validation_images: use the first images of the validation set.
        checkpoint_every: steps between checkpoints, which an interrupted training goes on from; a multiple of
            --log-every.
        log_every: steps between log rows.
    """

    metric: str = "tiny-iqa"
    defense: str = "none"
    norm: str = "linf"
    eps: float = 10 / 255
    data: str = "clive[split=train]"
    validation: str = AUTO
    seed: int = 0
    batch: int = 8
    steps: int = 500
    threads: int = 1
    device: str = "cpu"
    validation_images: int = 32
    checkpoint_every: int = 50
    log_every: int = 50

    @property
    def threat(self) -> Threat:
        """Norm and budget."""
        return Threat(self.norm, self.eps)  # pyright: ignore[reportArgumentType]  # checked by `Threat`


@dataclass(frozen=True)
class PerturbationTrainConfig(AttackTrainConfig):
    """Settings of `train_perturbation`.

    Attributes:
        kind: optimised (Adam on the perturbation), cumulative (the sum of raw gradients), or generative (a U-Net makes
            it from fixed noise).
        size: side of the perturbation, and of the training crops, in pixels; a multiple of 8.
        lr: learning rate; 0 for the kind's own, .001, and 1 for cumulative.
        width: channels of the U-Net of the kind generative.
        out: folder of the perturbation, the model card, checkpoints and logs.
    """

    kind: str = "optimised"
    size: int = 128
    lr: float = 0.0
    width: int = 16
    out: str = "runs/train-perturbation"

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.lr or _RATES[self.kind]


@dataclass(frozen=True)
class GeneratorTrainConfig(AttackTrainConfig):
    """Settings of `train_generator`.

    Attributes:
        size: side of the training crops in pixels, a multiple of 8; the network then takes any size.
        lr: learning rate of Adam.
        width: channels of the U-Net at half resolution.
        out: folder of the network's weights, the model card, checkpoints and logs.
    """

    size: int = 128
    lr: float = _ADAM
    width: int = 16
    out: str = "runs/train-generator"

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.lr


TrainConfig = PerturbationTrainConfig | GeneratorTrainConfig


def check(config: TrainConfig) -> None:
    """Raise `BadParameter` for settings that cannot be meant; NaN is outside every range."""
    ranges: dict[str, tuple[float, float]] = {
        "batch": (1, 1e6), "steps": (1, 1e9), "size": (8, 1e5), "width": (1, 4096), "seed": (0, 2**31),
        "threads": (1, 1e4), "log_every": (1, 1e9), "checkpoint_every": (1, 1e9), "validation_images": (1, 1e9),
        "lr": (0, 1e9),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            option = name.replace("_", "-")
            raise BadParameter(f"--{option} {getattr(config, name)}: expected a number from {low:g} to {high:g}")
    if config.size % 8:
        raise BadParameter(f"--size {config.size}: expected a multiple of 8")
    if config.checkpoint_every % config.log_every:
        raise BadParameter(
            f"--checkpoint-every {config.checkpoint_every}: expected a multiple of --log-every, {config.log_every}"
        )
    if isinstance(config, PerturbationTrainConfig) and config.kind not in METHODS:
        raise BadParameter(f"kind {config.kind!r}: expected one of {', '.join(METHODS)}")
    if config.rate == 0:
        raise BadParameter("--lr 0: expected a rate above 0")
    if config.threat.eps == 0:
        raise BadParameter("--eps 0: expected a budget above 0, pixels in [0,1]")
