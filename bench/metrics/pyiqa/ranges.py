"""The nominal scale of a metric of pyiqa: as declared, as measured on photographs, or as the user says."""

from __future__ import annotations

import re

import numpy as np
import torch

from ...api import Metric
from ...datasets import load_dataset
from ...errors import BadData, BadImage, BadParameter

Range = tuple[float, float]
EMPIRICAL = "empirical"
PHOTOGRAPHS = "photos[size=256,subset=quick]"
"""Five photographs in five versions each, from reference to heavily distorted: what a range is measured on."""
PERCENTILES = (1, 99)


def declared_range(text: str) -> Range | None:
    """The range that a metric declares as text such as "~0, ~100"; None if an end is open or there is none.

    "~" before a number says that scores may lie a little beyond it.
    """
    match = re.fullmatch(r"\s*~?\s*(-?[\d.]+)\s*,\s*~?\s*(-?[\d.]+)\s*", text)
    low, high = map(float, match.groups()) if match else (0.0, 0.0)
    return (low, high) if low < high else None


def measured_range(metric: Metric) -> Range:
    """1st and 99th percentile of the scores of `PHOTOGRAPHS`, always the same for the same metric.

    A range of few photographs is no promise: scores go beyond it, and of a metric that was not made for photographs it
    says little.

    Raises:
        BadData: the scores are all equal, not finite, or the metric takes no images of that size.
    """
    dataset = load_dataset(PHOTOGRAPHS)
    try:
        with torch.inference_mode():
            scores = [float(metric(dataset.load(i)[None].to(metric.device))) for i in range(len(dataset))]
    except BadImage as error:
        raise BadData(f"no range of {metric.spec} can be measured on {PHOTOGRAPHS} ({error}): give its score_range=LOW;"
                      "HIGH") from error  # fmt: skip
    low, high = (float(v) for v in np.percentile(scores, PERCENTILES))
    if not (np.isfinite([low, high]).all() and low < high):
        raise BadData(f"{metric.spec} scores {PHOTOGRAPHS} from {low:g} to {high:g}: no range; give its "
                      "score_range=LOW;HIGH")  # fmt: skip
    return low, high


def choose_range(metric: Metric, declared: str, asked: str) -> tuple[Range, bool]:
    """The range of a metric, and whether it was measured.

    Args:
        metric: the metric, whose own range is not looked at.
        declared: what pyiqa declares, as text.
        asked: what the user asks for: "", "empirical", or "LOW;HIGH".

    Raises:
        BadParameter: the user's range cannot be read.
        BadData: none can be measured.
    """
    if asked not in ("", EMPIRICAL):
        given = declared_range(asked.replace(";", ","))
        if given is None:
            raise BadParameter(f"{metric.spec}[score_range={asked}]: expected LOW;HIGH with LOW < HIGH, or {EMPIRICAL}")
        return given, False
    found = None if asked else declared_range(declared)
    return (measured_range(metric), True) if found is None else (found, False)
