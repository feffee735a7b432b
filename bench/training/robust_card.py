"""The model card of a defence by training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .card import PROCEDURAL, Card, clive_material, command_line, report_tables, training_seconds
from .evaluate import MetricReport
from .metric import PLACES

if TYPE_CHECKING:
    from .robust import RobustTrainConfig

SOURCES = {
    "gradient-norm": "gradient-norm regularisation (Liu et al., CVPR 2024)",
    "adversarial": "adversarial training (Goodfellow et al. 2015; Madry et al. 2018; labels by SSIM: Chistyakova et "
    "al. 2024)",
    "noise": "Gaussian noise augmentation (Cohen et al. 2019)",
}


def robust_card(config: RobustTrainConfig, log: Path, data_hash: str, start: str, report: MetricReport) -> Card:
    """The model card of a finished run with that log; `start` is the digest of the weights that it started from."""
    seconds = training_seconds(log)
    return Card(
        title=log.stem,
        purpose=f"`tiny-iqa` fine-tuned by {SOURCES[config.defense]}: (B,3,H,W) in [0,1] to about 0-100, larger = "
        "better. It is what the defence of that name scores with.",
        command=command_line("metric", config, (*PLACES, "validate_every")),
        data=[
            clive_material(data_hash) + "; with its MOS",
            PROCEDURAL,
            "synthetic distortions of both, made by the training itself; their targets are the scores of the network "
            f"that it starts from, SHA-256 `{start}`",
            "settings were chosen on CLIVE's val split; its test split and the photographs "
            f"({Path(config.photographs).name or 'none'}) are for evaluation only",
        ],
        results=report_tables(report),
        limits=[
            "empirical: no certificate, and an attack of more steps, or a larger budget, gains more",
            "trained on crops of a few hundred rated photographs, from a network that already knew them",
            "those of tiny-iqa",
        ],
        notes=[f"training time on {config.threads} CPU thread(s): {seconds / 60:.1f} min", f"seed {config.seed}"],
    )
