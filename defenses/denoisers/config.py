"""Settings of the training of a denoiser, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass

from ...bench.errors import BadParameter
from ...bench.training.pool import held_out
from .choose import AUTO, ordinary
from .losses import STABILITY, terms_of

NETS = ("unet", "dncnn", "dncnn-light")
PRECISIONS = ("float32", "bfloat16", "bfloat16-all")

PLACES = ("metric", "data", "validation", "start", "photographs", "out", "threads", "device", "checkpoint_every",
          "log_every", "validate_every")  # fmt: skip
"""Settings that are no part of a checkpoint's identity, because they change no weight but for rounding, or because what
they name counts by its content."""


@dataclass(frozen=True)
class DenoiserTrainConfig:
    """Settings of `train_denoiser`.

    Attributes:
        metric: the metric, whose weights stay as they are; a plug-in string.
        sigma: standard deviation of the Gaussian noise, for pixels in [0,1].
        sigma_low: if above 0, noise levels are drawn between it and sigma.
        loss: terms of the loss: mse, mse+target, mse+target+rank (the method), or stability (target alone); +spread, a
            variant of ours, punishes the difference of two noisy copies' scores.
        data: images to train on: a data set as a plug-in string, or a folder; human scores are used where it has some.
        validation: data set or folder that is watched during training; empty for none; auto: the split val where data
            names the split train.
        photographs: folder of held-out photographs for the PSNR on the card (JPEG or PNG); empty skips it.
        out: folder of the weights, the model card, checkpoints, logs and the plot.
        net: unet, dncnn, or dncnn-light.
        width: channels of the network; 0 for its own: unet 16, dncnn 64, dncnn-light 16.
        conditioned: whether the network is told the noise level.
        start: denoiser of the same network to start from, a shipped name or a file; empty starts from random weights;
            auto: the ordinary light denoiser of the nearest level where the network is the same, otherwise random.
        image_weight: weight a of the image loss (mean squared error of pixels in [0,1]).
        target_weight: weight b of the target loss (scores in units of the metric's range).
        rank_weight: weight c of the ranking loss (the same units).
        spread_weight: weight of the spread of scores under noise (the same units).
        margin: margin of the ranking loss, in units of the metric's range.
        rank_by: truth, what the data set says (clean scores where it says nothing), or score, clean scores only.
        distort: share of a batch that is distorted crops, with clean scores as truth.
        seed: seed of everything random.
        crop: side of the training crops in pixels, a multiple of 8.
        batch: crops in a batch.
        steps: number of steps.
        lr: largest learning rate, of a cosine schedule.
        ema: decay of the moving average of the weights, which is what is saved.
        precision: float32; bfloat16: the denoiser in mixed precision (GPUs, processors with bfloat16 instructions);
            bfloat16-all: the metric too, which rounds scores to about half a percent of a 0-100 scale.
        threads: CPU threads of torch; one is the most robust on a shared machine.
        device: torch device.
        validation_images: use the first images of the validation set; 0 uses all.
        validation_draws: noisy copies of each validation image.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints, which an interrupted training goes on from; a multiple of
            --log-every.
        log_every: steps between log rows.
    """

    metric: str = "tiny-iqa"
    sigma: float = 0.12
    sigma_low: float = 0.0
    loss: str = "mse+target+rank"
    data: str = "clive[split=train]"
    validation: str = AUTO
    photographs: str = ""
    out: str = "runs/train-denoiser"
    net: str = "unet"
    width: int = 0
    conditioned: bool = False
    start: str = AUTO
    image_weight: float = 100.0
    target_weight: float = 1.0
    rank_weight: float = 0.3
    spread_weight: float = 0.5
    margin: float = 0.05
    rank_by: str = "truth"
    distort: float = 0.25
    seed: int = 0
    crop: int = 256
    batch: int = 8
    steps: int = 1000
    lr: float = 3e-4
    ema: float = 0.998
    precision: str = "float32"
    threads: int = 1
    device: str = "cpu"
    validation_images: int = 32
    validation_draws: int = 3
    validate_every: int = 250
    checkpoint_every: int = 50
    log_every: int = 50

    @property
    def watched(self) -> str:
        """The data set or folder of the validation; empty for none."""
        return held_out(self.data, self.validation)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term."""
        return {"mse": self.image_weight, "target": self.target_weight, "rank": self.rank_weight,
                "spread": self.spread_weight}  # fmt: skip


def checked(config: DenoiserTrainConfig) -> tuple[str, ...]:
    """The terms of the loss; raises `BadParameter` for settings that cannot be meant."""
    _check_numbers(config)
    if config.crop % 8:
        raise BadParameter(f"--crop {config.crop}: expected a multiple of 8")
    if config.checkpoint_every % config.log_every:
        raise BadParameter(
            f"--checkpoint-every {config.checkpoint_every}: expected a multiple of --log-every, {config.log_every}"
        )
    if not (0 < config.sigma <= 1 and 0 <= config.sigma_low < config.sigma):
        raise BadParameter(
            f"noise levels sigma={config.sigma:g}, sigma_low={config.sigma_low:g}: expected 0 < sigma <= 1 in [0,1] "
            "pixel units, and sigma_low below it"
        )
    for name, allowed in (("net", NETS), ("rank_by", ("truth", "score")), ("precision", PRECISIONS)):
        if getattr(config, name) not in allowed:
            raise BadParameter(f"{name} {getattr(config, name)!r}: expected one of {', '.join(allowed)}")
    terms = terms_of(config.loss)
    if config.loss == STABILITY and not beginning(config):
        raise BadParameter(
            "loss 'stability' says nothing about pixels: give --start, a denoiser that was trained with mse"
        )
    return terms


def _check_numbers(config: DenoiserTrainConfig) -> None:
    """Raise `BadParameter` for a number outside its range; NaN is outside every one."""
    ranges: dict[str, tuple[float, float]] = {
        "batch": (2, 1e6), "crop": (32, 1e5), "steps": (1, 1e9), "log_every": (1, 1e9), "checkpoint_every": (1, 1e9),
        "threads": (1, 1e4), "validate_every": (0, 1e9), "validation_images": (0, 1e9), "validation_draws": (2, 1e6),
        "width": (0, 4096), "seed": (0, 2**31), "lr": (1e-12, 1), "distort": (0, 1), "ema": (0, 1 - 1e-9),
        "margin": (0, 1e6), "image_weight": (0, 1e9), "target_weight": (0, 1e9), "rank_weight": (0, 1e9),
        "spread_weight": (0, 1e9),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            option = name.replace("_", "-")
            raise BadParameter(f"--{option} {getattr(config, name)}: expected a number from {low:g} to {high:g}")


def beginning(config: DenoiserTrainConfig) -> str:
    """Name or file of the denoiser to start from; empty for random weights."""
    if config.start != AUTO:
        return config.start
    light = config.net == "unet" and config.width in (0, 16) and not config.conditioned
    return ordinary(config.sigma) if light else ""
