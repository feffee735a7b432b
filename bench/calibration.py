"""What metrics score on a stated data set, so that their scales can be compared."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import torch

from .api import Metric
from .datasets import Dataset
from .errors import BadImage, BadParameter, BadScore, counted

FEW = 20
"""Images below which a map is mostly chance."""
WEAK = 0.3
"""SROCC below which a common scale means little."""

_SCORES: dict[tuple[str, str], np.ndarray] = {}


def qualities(metric: Metric, data: Dataset, calibration: str) -> np.ndarray:
    """(N,) sign * score of every image, computed once a process for the same metric and the same images.

    Args:
        metric: the metric.
        data: the images.
        calibration: what the user called them.

    Raises:
        BadImage: an image is too small for the metric, or cannot be read.
        BadScore: the metric returned NaN or infinity.
        BadParameter: fewer than two images, or all of them have one score.
    """
    key = (content_digest(metric), data.content_hash)
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


def content_digest(metric: Metric) -> str:
    """Digest of what a metric computes: the name does not tell, a check may put a toy under it."""
    digest = hashlib.sha256(f"{metric.spec}|{metric.device}".encode())
    for name, module in metric.module.named_modules():
        settings = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)}
        digest.update(f"{name}|{type(module).__module__}.{type(module).__qualname__}|{settings}\n".encode())
    for name, value in (*metric.module.named_parameters(), *metric.module.named_buffers()):
        held = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name}|{held.dtype}|{tuple(value.shape)}".encode() + held.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def warn_of_poor_fit(metric: Metric, target: str, agreement: float, images: int, calibration: str, advice: str) -> None:
    """Warn where a map from the metric's scores to `target` is little worth; it is no error: the map is well-defined.

    Args:
        metric: whose scores are mapped.
        target: to what, in words.
        agreement: SROCC between the metric's quality and the target.
        images: number of images behind it.
        calibration: what the user called them.
        advice: what to do where the metric hardly follows the target.
    """
    if images < FEW:
        _warn(
            f"calibration {calibration!r} has {counted(images, 'image')}: a map from fewer than {FEW} is mostly chance"
        )
    what = f"metric {metric.spec!r} follows {target} with SROCC {agreement:.2f} on {calibration!r}"
    if agreement < 0:
        _warn(f"{what}: it falls where that rises, its direction is probably declared wrong")
    elif agreement < WEAK:
        _warn(f"{what}: a common scale means little, {advice}")


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=1)
