"""Metrics of pyiqa (IQA-PyTorch) by their names there: an optional package, imported when such a metric is built.

pyiqa is under a noncommercial licence; nothing of it is part of this package.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import Metric
from ..errors import BadData, BadImage
from ..registry import register_metric
from ..sources.declared import loaded_by
from ..sources.table import Source
from .pyiqa.build import build, create
from .pyiqa.needs import missing, needs
from .pyiqa.options import parse_options
from .pyiqa.package import Declared, declared
from .pyiqa.ranges import choose_range, measured_range, remembered_range
from .pyiqa.scores import Found, Scores, picture, probe
from .pyiqa.traits import UNKNOWN


def _lacking(name: str, weights: str = "", options: str = "", **_: object) -> list[Source]:
    """What `robustiqa data fetch --suite` has to bring for a metric: the files that are not on this machine."""
    about = declared(name)
    lacking = missing(about, own_weights=bool(weights), **parse_options(about, options))
    return [loaded_by(f"pyiqa:{name}", n.url, n.path, n.repository.split(" ")[0]) for n in lacking]


@register_metric("pyiqa", sources=_lacking, packages=("pyiqa", "torchvision", "timm"), version=2)
def pyiqa_metric(name: str, weights: str = "", options: str = "", score_range: str = "") -> Metric:
    """A no-reference metric of pyiqa, written `pyiqa:NAME`: `pyiqa:topiq_nr`, `pyiqa:musiq`; needs the extra `pyiqa`.

    Direction and range are those that pyiqa declares. Weights come from pyiqa's cache, or are downloaded by it, and are
    read as pickles, which can run any code: pyiqa's authors are trusted with that. A file of yours is not.
    `robustiqa list metrics --pyiqa` says which metrics work here, and which files the others lack.

    Args:
        name: as pyiqa calls it.
        weights: your own file instead of pyiqa's: a state dict (.safetensors, or `torch.save`), which has to fit to the
            last key; for niqe, ilniqe and nrqm a .mat, for brisque the two tensors of its support vectors. Backbones
            that it overwrites are not fetched.
        options: of the metric's constructor, with `;` between them: `test_sample=5;scale=0.8`. Numbers and switches,
            and the data set that pyiqa's weights were trained on: `pretrained=livec` of dbcnn.
        score_range: empty for the one that pyiqa declares, and a measured one where that has an open end; "empirical"
            for the measured one (see `ranges`); or yours, as `0;100`.

    Raises:
        Absent: pyiqa is not installed, or files are not here and cannot be downloaded.
        BadPlugin: pyiqa is installed and broken.
        BadData: the file of weights does not exist or does not fit.
        BadParameter: an option or a range that cannot be.
        BadScore: a metric that this package does not know gives two scores for one image.
        UnknownName: pyiqa has no such metric of single images.
    """
    about = declared(name)
    chosen = parse_options(about, options)
    net = build(about, chosen, weights)
    spec, known = f"pyiqa:{name}", about.traits
    net.eval().requires_grad_(False)
    found = Found(known.min_size, known.multiple, known.alone, known.gradient, known.clamp)
    if not known.min_size:
        found = probe(net, spec)
    scores = Scores(net, spec, found.multiple, found.alone, found.gradient, found.clamp)
    metric = Metric(scores, spec, lower_better=about.lower_better, min_size=found.min_size,
                    differentiable=found.gradient)  # fmt: skip
    if weights and known.weights != "state":
        _check_file(metric, weights)
    measure = partial(_range, about, chosen, weights)
    metric.score_range, metric.empirical_range = choose_range(metric, about.score_range, score_range, measure)
    return metric


def _range(about: Declared, options: dict[str, Any], weights: str, metric: Metric) -> tuple[float, float]:
    """The measured range of a metric; anew each time for a network that is not known, which may read any file."""
    if about.traits is UNKNOWN:
        return measured_range(metric)
    files = [Path(weights)] if weights else []
    files += [need.path for need in needs(about, **options) if need.path.is_file()]
    return remembered_range(metric, str(sorted(options.items())), files)


def _check_file(metric: Metric, weights: str) -> None:
    """Raise `BadData` unless a file whose content nobody has looked at gives a score."""
    try:
        with torch.no_grad():
            score = metric(picture(2 * metric.min_size))
    except BadImage as error:
        raise BadData(f"weights {weights!r} do not fit {metric.spec} ({error}): give others") from error
    if not bool(torch.isfinite(score).all()):
        raise BadData(f"weights {weights!r} give {metric.spec} a score of {float(score)}: give others")


class Difference(nn.Module):
    """A full-reference measure of pyiqa that is 0 for equal images: LPIPS, DISTS; without gradients of its own.

    Args:
        name: as pyiqa calls it: "lpips", "dists".

    Raises:
        Absent: pyiqa is not installed, or the weights are not here and cannot be downloaded.
        BadPlugin: pyiqa is installed and broken.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = create(name, list, list, {}).eval().requires_grad_(False)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B,) distances of images (B,3,H,W) in [0,1]."""
        return self.net(z.clone(), x.clone()).reshape(-1)  # clones as in `Scores`
