"""Training of a denoiser for a frozen metric: image, target and ranking loss (arXiv 2411.12575)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...bench.api import Metric
from ...bench.datasets import Dataset
from ...bench.errors import BadData, BadParameter, Incompatible
from ...bench.metrics import load_metric
from ...bench.registry import identity_of
from ...bench.training.card import peak_memory
from ...bench.training.loop import Identity, Learner, initialise, run_steps, save_weights, threads, training_identity
from ...bench.training.plot import plot_log
from ...bench.training.pool import data_name, has_gradient, open_data, score_span, training_data
from . import DENOISERS, load_denoiser
from .card import denoiser_card
from .config import PLACES, DenoiserTrainConfig, beginning, checked
from .evaluate import Validation, evaluate_denoiser
from .files import DENOISER
from .losses import image_loss, rank_loss, spread_loss, target_loss
from .material import Batch, Material
from .nets import DnCNN, LightDenoiser


def train_denoiser(config: DenoiserTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train a denoiser, or continue where an interrupted run of the same settings stopped.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights, `OUT/denoiser.safetensors`; beside it lie the model card, a checkpoint, the logs
        `denoiser.csv` and `denoiser-validation.csv`, and their plot.

    Raises:
        BadData: data are missing or unusable, a checkpoint is corrupt, or the disk is full.
        BadParameter: impossible settings, the folder holds a run of others, or the loss is not finite.
        Incompatible: the loss needs a gradient that the metric does not have.
    """
    terms = checked(config)
    loaded = load_metric(config.metric, config.device)
    if config.crop < loaded.min_size:
        raise BadParameter(
            f"--crop {config.crop} is below the {loaded.min_size} pixels that the metric {loaded.spec!r} needs: give a "
            "larger --crop"
        )
    if config.photographs and not Path(config.photographs).is_dir():
        raise BadData(f"--photographs {config.photographs!r} is no folder: give one with JPEG or PNG files")
    metric = quality(loaded)
    device = torch.device(config.device)
    with threads(config.threads):
        data = training_data(config.data)
        material = Material(data, config.crop, config.batch, config.distort, say)
        span = score_span(metric, material, device)
        if set(terms) - {"mse"}:
            _needs_gradient(loaded, material.centres(2).to(device))
        watch = _validation(config, metric, device)
        known = len(material.used.intersection(watch.pixels)) if watch else 0
        if watch and known:
            say(f"note: {known} of {len(watch)} validation images are trained on: their figures prove nothing")
        identity = _identity(config, data, watch)
        net = _network(config).to(device)
        learner = Learner(net.train(), steps=config.steps, lr=config.lr, weight_decay=1e-4, average=config.ema)
        levels = (config.sigma_low or config.sigma, config.sigma)
        by_score = config.rank_by == "score"
        denoise = _Cast(net, config.precision != "float32")
        judge = _Cast(metric, config.precision == "bfloat16-all")

        weights = config.weights

        def step(number: int) -> dict[str, float]:
            drawn = material.batch(np.random.default_rng((config.seed, 3, number)), levels)
            batch = Batch(*(part.to(device) for part in drawn))
            losses = denoiser_losses(denoise, judge, batch, terms, span, config.margin, by_score)
            learner.update(torch.stack([weights[k] * losses[k] for k in terms]).sum(), number)
            return {k: float(v.detach()) for k, v in losses.items()}

        measured: dict[int, dict[str, float]] = {}

        def validate(done: int) -> dict[str, float]:
            assert watch is not None
            measured[done] = watch(_averaged(net, learner, config))
            return measured[done]

        run_steps(
            learner,
            step,
            steps=config.steps,
            out=Path(config.out),
            stage="denoiser",
            identity=identity,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            say=say,
            validate=validate if watch else None,
            validate_every=config.validate_every,
        )
        final = _averaged(net, learner, config)
        path = save_weights(final, Path(config.out) / "denoiser.safetensors", _header(config))
        plot_log(Path(config.out), "denoiser")
        report = evaluate_denoiser(final, config.sigma, config.photographs)
    denoiser_card(
        config,
        beginning(config),
        _about(config, material),
        span,
        report,
        _figures(config, watch, final, known, measured),
        peak_memory(device),
    ).write(path)
    return path


def denoiser_losses(
    net: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    metric: Callable[[torch.Tensor], torch.Tensor],
    batch: Batch,
    terms: tuple[str, ...],
    span: float,
    margin: float,
    by_score: bool = False,
) -> dict[str, torch.Tensor]:
    """The unweighted terms of the loss; those that need the metric only where they are asked for.

    Args:
        net: the denoiser, called with noisy images and noise levels.
        metric: (B,3,H,W) to qualities (B,), larger = better, differentiable, frozen.
        batch: clean crops, noise and truth.
        terms: out of `losses.TERMS`; "mse" is always among the results, for the log.
        span: range of the metric's clean scores, the unit of scores here.
        margin: margin of the ranking loss in that unit.
        by_score: order images by their clean scores even where they have a human one.

    Returns:
        scalars by name.
    """
    # Not clamped: smoothing adds its noise to the raw image, and the denoiser has to see exactly that.
    noisy = batch.clean + batch.level[:, None, None, None] * batch.noise
    denoised = net(noisy, batch.level)
    losses = {"mse": image_loss(denoised, batch.clean)}
    if terms == ("mse",):
        return losses
    with torch.no_grad():
        target = metric(batch.clean) / span
    scores = metric(denoised) / span
    if "target" in terms:
        losses["target"] = target_loss(scores, target)
    if "rank" in terms:
        rated = torch.isfinite(batch.truth)
        if by_score:
            rated = torch.zeros_like(rated)
        truth = torch.where(rated, batch.truth, target)
        groups = [torch.nonzero(rated).flatten(), torch.nonzero(~rated).flatten()]
        losses["rank"] = rank_loss(scores, truth, margin, groups)
    if "spread" in terms:
        opposite = batch.clean - batch.level[:, None, None, None] * batch.noise
        losses["spread"] = spread_loss(scores, metric(net(opposite, batch.level)) / span)
    return losses


def quality(metric: Metric) -> nn.Module:
    """The metric as a quality, larger = better."""
    return metric if not metric.lower_better else _Negated(metric)


class _Negated(nn.Module):
    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.metric(x)


_NETS: dict[str, Callable[[int, bool], LightDenoiser | DnCNN]] = {
    "unet": lambda width, conditioned: LightDenoiser(width or 16, conditioned),
    "dncnn": lambda width, conditioned: DnCNN(17, width or 64, conditioned),
    "dncnn-light": lambda width, conditioned: DnCNN(8, width or 16, conditioned),
}


def _network(config: DenoiserTrainConfig) -> LightDenoiser | DnCNN:
    """The network before the first step."""
    net = _NETS[config.net](config.width, config.conditioned)
    name = beginning(config)
    if not name:
        initialise(net, config.seed)
        with torch.no_grad():
            net.last.weight.mul_(0.1)  # starts near the identity
        return net
    start = load_denoiser(name, config.sigma)
    shapes = {k: v.shape for k, v in net.state_dict().items()}
    if type(start) is not type(net) or {k: v.shape for k, v in start.state_dict().items()} != shapes:
        raise BadParameter(f"start {name!r} is another network than {config.net} of this width: give another")
    net.load_state_dict(start.state_dict())
    return net


def _averaged(net: LightDenoiser | DnCNN, learner: Learner, config: DenoiserTrainConfig) -> nn.Module:
    """The network with the moving average of its weights, at the level that it is used at."""
    other = copy.deepcopy(net)
    other.load_state_dict(learner.ema)
    other.sigma = config.sigma
    return other.eval().requires_grad_(False)


def _needs_gradient(metric: Metric, crops: torch.Tensor) -> None:
    """Raise `Incompatible` unless the metric has a gradient in the image."""
    if not has_gradient(metric, crops):
        raise Incompatible(
            f"metric {metric.spec!r} has no usable gradient in the image (it is zero, not finite, or cut off): a "
            "denoiser can be trained for it with --loss mse only"
        )


def _validation(config: DenoiserTrainConfig, metric: nn.Module, device: torch.device) -> Validation | None:
    if not (config.watched and config.validate_every):
        return None
    data = open_data(config.watched)
    return Validation(data, metric, config.sigma, config.validation_images, config.validation_draws, device)


def _identity(config: DenoiserTrainConfig, data: Dataset, watch: Validation | None) -> Identity:
    """All that decides the weights and the logs: settings, pixels, and what metric and start are."""
    start = beginning(config)
    file = Path(start) if Path(start).is_file() else DENOISERS.get(start)
    return training_identity(
        config,
        PLACES,
        data=data.content_hash,
        metric=identity_of("metric", config.metric),
        start=hashlib.sha256(file.read_bytes()).hexdigest() if file else start,
        validation=watch.content_hash if watch else "",
    )


def _about(config: DenoiserTrainConfig, material: Material) -> list[str]:
    """Lines of the card about what was trained on."""
    lines = material.about(config.data)
    if config.distort:
        lines.append(
            f"{config.distort:.0%} of the crops reduced 1 to 2 times and distorted at random, by the kinds of the "
            "data set `photos`, with clean scores as truth"
        )
    where = Path(config.photographs).name or "none"
    return [*lines, f"evaluation only: validation {data_name(config.watched) or 'none'}, photographs {where}"]


def _figures(
    config: DenoiserTrainConfig,
    watch: Validation | None,
    final: nn.Module,
    known: int,
    measured: Mapping[int, dict[str, float]],
) -> tuple[str, dict[str, dict[str, float]]] | None:
    """What the validation was measured on (`known` images were trained on), and the finished denoiser's figures."""
    if watch is None:
        return None
    where = (
        f"first {len(watch)} images of `{data_name(config.watched)}`, median of {config.validation_draws} draws, "
        f"correlations to {watch.truth_name}"
    )
    # A continued run has not measured its start, nor a finished one its end.
    begun = measured.get(0) or watch(_beginning(config, next(final.parameters()).device))
    figures = {"start": begun, "trained": measured.get(config.steps) or watch(final)}
    return where + (f"; {known} of them were trained on" if known else ""), figures


def _beginning(config: DenoiserTrainConfig, device: torch.device) -> nn.Module:
    """The network before the first step, at the level that it is used at."""
    start = _network(config).to(device).eval()
    start.sigma = config.sigma
    return start


class _Cast(nn.Module):
    """A network in mixed precision, if asked for; its result is in single precision at least."""

    def __init__(self, net: nn.Module, mixed: bool) -> None:
        super().__init__()
        self.net, self.mixed = net, mixed

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            found = self.net(x, *more)
        return found if found.dtype == torch.float64 else found.float()


def _header(config: DenoiserTrainConfig) -> dict[str, object]:
    """What the weights file says of itself."""
    net = "dncnn" if config.net.startswith("dncnn") else config.net
    about: dict[str, object] = {"kind": DENOISER, "net": net, "sigma": config.sigma, "loss": config.loss}
    if config.sigma_low:
        about["low"] = config.sigma_low
    if config.loss != "mse":
        about["metric"] = config.metric
    return about
