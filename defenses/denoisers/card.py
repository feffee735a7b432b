"""The model card of a trained denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bench.training.card import Card, command_line, machine, plugin_option, training_seconds
from .config import DenoiserTrainConfig
from .evaluate import DenoiserReport
from .losses import terms_of

_LEFT_OUT = ("out", "threads", "device", "checkpoint_every", "log_every", "validate_every")


def denoiser_card(
    config: DenoiserTrainConfig,
    start: str,
    data: Sequence[str],
    span: float,
    report: DenoiserReport | None,
    validation: tuple[str, dict[str, dict[str, float]]] | None,
    memory: str,
) -> Card:
    """The card of a finished run.

    Args:
        config: its settings.
        start: denoiser that it started from; empty for random weights.
        data: lines about what it was trained on.
        span: range of the metric's clean scores, the unit of scores in the loss.
        report: PSNR on held-out photographs.
        validation: what the figures of the validation were measured on, and those of the start and the end.
        memory: peak memory of the run, in words.
    """
    terms = terms_of(config.loss)
    minutes = training_seconds(Path(config.out) / "denoiser.csv") / 60
    noise = f"{config.sigma_low:g} to {config.sigma:g}" if config.sigma_low else f"{config.sigma:g}"
    results: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}
    if report is not None:
        results[f"PSNR in dB, mean over {report.n} photographs at half size (95 % bootstrap interval)"] = (
            ("sigma", "noisy", "denoised"),
            [[config.sigma, f"{report.noisy.value:.2f}", "{:.2f} [{:.2f}, {:.2f}]".format(*report.denoised)]],
        )
    if validation is not None:
        where, figures = validation
        columns = ("", *figures["trained"])
        results[f"Behind noise and denoiser, {where}"] = (columns, [[k, *v.values()] for k, v in figures.items()])
    formula = " + ".join(f"{config.weights[t]:g} {t}" for t in terms)
    unit = f"; scores in units of {span:.4g}, the range p99 - p1 of clean scores of the training crops"
    others = "" if terms == ("mse",) else unit
    margin = f"; margin {config.margin:g}, pairs ordered by {config.rank_by}" if "rank" in terms else ""
    purpose = "any metric" if terms == ("mse",) else f"the metric `{config.metric}`, whose weights did not move"
    return Card(
        title=f"{config.net} denoiser, sigma {noise}, loss {config.loss}",
        purpose=f"Denoiser for white Gaussian noise of standard deviation {noise} (pixels in [0,1], not clamped), for "
        f"median smoothing of {purpose}.",
        command=command_line("denoiser", config, _LEFT_OUT) + plugin_option(config.metric),
        data=data,
        results=results,
        limits=[
            f"made for sigma {noise}: weaker noise is over-smoothed, stronger noise is left in",
            *(() if terms == ("mse",) else ("made for one metric; behind another it is an ordinary denoiser at best",)),
        ],
        notes=[
            f"loss: {formula}{margin}{others}",
            f"training time {minutes:.1f} min ({config.threads} CPU thread(s), {config.precision}), {memory}; "
            f"{machine(config.device)}",
            f"seed {config.seed}; starts from {start or 'random weights'}",
        ],
        licence="that of whoever trained them (Apache-2.0 for those that come with the package)",
    )
