"""The nominal scale of a metric of pyiqa: as declared, as measured on photographs, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ...api import Metric
from ...cache import remembered
from ...calibration import content_digest
from ...datasets import load_dataset
from ...errors import BadData, BadImage, BadParameter
from ...registry import code_digest, package_versions, version_of
from ...sources.places import digest_of

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


def remembered_range(metric: Metric, settings: str, files: Sequence[Path]) -> Range:
    """`measured_range`, measured once where there is a cache (`ROBUSTIQA_CACHE`): it may take minutes.

    What is kept belongs to the very network and weights, in memory and in the files, the settings, the photographs, and
    the versions of the code and of the packages that score.

    Args:
        metric: the metric.
        settings: text that says how it was built.
        files: what it reads besides what is in its state dict.
    """
    packages = [f"{name} {version_of(name)}" for name in ("pyiqa", "torchvision", "timm", "transformers")]
    photographs = load_dataset(PHOTOGRAPHS).content_hash
    weights = [content_digest(metric), *map(digest_of, files)]
    parts = [settings, *weights, photographs, PERCENTILES, code_digest(), *packages, *package_versions()]
    low, high = remembered("|".join(map(str, parts)), lambda: measured_range(metric))
    return low, high


def choose_range(
    metric: Metric, declared: str, asked: str, measure: Callable[[Metric], Range] = measured_range
) -> tuple[Range, bool]:
    """The range of a metric, and whether it was measured.

    Args:
        metric: the metric, whose own range is not looked at.
        declared: what pyiqa declares, as text.
        asked: what the user asks for: "", "empirical", or "LOW;HIGH".
        measure: gives what has to be measured.

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
    return (measure(metric), True) if found is None else (found, False)
