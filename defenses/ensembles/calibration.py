"""What the members of an ensemble score on a stated data set, and the maps that follow from it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from ...bench.api import Metric
from ...bench.datasets import Dataset, load_dataset
from ...bench.errors import BadImage, BadParameter, BadScore
from ...bench.measures import srocc
from .align import MAPS, Align, MonotoneMap

CALIBRATION = "photos[size=128,split=dev,subset=full]"
"""The default: two of the embedded photographs, each as it is and in 30 distorted versions; a test on the split `test`
shows none of them."""
FEW = 20
"""Images below which a map is mostly chance."""
WEAK = 0.3
"""SROCC between member and defended metric below which a common scale means little."""

_SCORES: dict[tuple[str, str], np.ndarray] = {}


def fit_maps(metric: Metric, others: Sequence[Metric], align: Align, calibration: str) -> list[MonotoneMap]:
    """A map for each of `others`, from its quality (sign * score) to that of `metric`.

    A fit that is little worth is warned of: few images, a member that hardly follows the defended metric, or one that
    falls where it rises. It is no error: what the ensemble then computes is well-defined.

    Args:
        metric: the defended metric.
        others: the other members.
        align: kind of the maps.
        calibration: data set as plug-in string.

    Raises:
        BadImage: an image is too small for a member, or cannot be read.
        BadScore: a member returned NaN or infinity.
        BadParameter: fewer than two images, or a member gives all of them one score.
    """
    data = load_dataset(calibration)
    if len(data) < FEW:
        _warn(f"calibration {calibration!r} has {len(data)} images: a map from fewer than {FEW} is mostly chance")
    target = _qualities(metric, data, calibration)
    maps = []
    for other in others:
        member = _qualities(other, data, calibration)
        agreement = srocc(member, target)
        what = f"metric {other.spec!r} follows {metric.spec!r} with SROCC {agreement:.2f} on {calibration!r}"
        if agreement < 0:
            _warn(f"{what}: it falls where the defended one rises, its direction is probably declared wrong")
        elif agreement < WEAK:
            _warn(f"{what}: a common scale means little, give another member")
        maps.append(MAPS[align](member, target))
    return maps


def _qualities(metric: Metric, data: Dataset, calibration: str) -> np.ndarray:
    """(N,) sign * score of every image, computed once a process for the same metric and the same images."""
    key = (_content(metric), data.content_hash)
    if key not in _SCORES:
        _SCORES[key] = _scores(metric, data, calibration)
    return metric.sign * _SCORES[key]


def _scores(metric: Metric, data: Dataset, calibration: str) -> np.ndarray:
    device = metric.device
    try:
        with torch.inference_mode():
            # One by one: sizes differ, and a score must not depend on its neighbours.
            scores = np.array([float(metric(data.load(i)[None].to(device))) for i in range(len(data))])
    except BadImage as error:
        raise BadImage(f"calibration {calibration!r} does not fit the metric {metric.spec!r}: {error}") from error
    if bad := int((~np.isfinite(scores)).sum()):
        raise BadScore(f"metric {metric.spec!r} returned {bad} NaN or infinite of {len(scores)} scores on the "
                       f"calibration {calibration!r}: give other images")  # fmt: skip
    if len(scores) == 0 or np.ptp(scores) == 0:
        raise BadParameter(f"metric {metric.spec!r} gives the {len(scores)} images of the calibration {calibration!r} "
                           "no two different scores: give other images")  # fmt: skip
    return scores


def _content(metric: Metric) -> str:
    """Digest of what a metric computes: the name does not tell, a check may put a toy under it."""
    digest = hashlib.sha256(f"{metric.spec}|{metric.device}".encode())
    for name, module in metric.module.named_modules():
        settings = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)}
        digest.update(f"{name}|{type(module).__module__}.{type(module).__qualname__}|{settings}\n".encode())
    for name, value in (*metric.module.named_parameters(), *metric.module.named_buffers()):
        held = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}|{held.dtype}|{tuple(value.shape)}".encode() + held.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=1)
