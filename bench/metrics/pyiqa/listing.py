"""What `robustiqa list metrics --pyiqa` shows: every no-reference metric of pyiqa, and whether it works."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...errors import RobustIQAError
from .needs import missing
from .package import MANY_IMAGES, Declared, declared, module_of, names
from .ranges import declared_range
from .scores import picture
from .traits import UNKNOWN

Row = dict[str, Any]


def rows(build: bool = False) -> list[Row]:
    """One row a metric, told without building any of them, which takes seconds.

    Args:
        build: build those that have all their files, one after the other, and score a picture.

    Returns:
        `name`, `usable`, `why` it is not, `missing` (files: url, path, and the repository of the Hugging Face hub),
        `lower_better`, `range` (low and high, None where it has to be measured), `min_size` and `multiple` in pixels
        and `gradient` (None where only trying tells), `note`; and with `build` the `seconds` and `score` of a picture.

    Raises:
        Absent: pyiqa is not installed.
        BadPlugin: it is installed and cannot be imported.
    """
    return [_row(name, build) for name in names()]


def _row(name: str, build: bool) -> Row:
    if name in MANY_IMAGES:
        return {"name": name, "usable": False, "why": f"not a metric of one image: {MANY_IMAGES[name]}", "missing": []}
    about = declared(name)
    traits = about.traits
    known = traits is not UNKNOWN
    ends = declared_range(about.score_range)
    row = {
        "name": name,
        "usable": True,
        "why": "",
        "missing": [],
        "lower_better": about.lower_better,
        "range": None if ends is None else list(ends),
        "min_size": traits.min_size or None,
        "multiple": traits.multiple if known else None,
        "gradient": traits.gradient if known else None,
        "note": traits.note,
    }
    why = _why_not(about, row)
    if why:
        return row | {"usable": False, "why": why}
    return row | _built(name, traits.min_size) if build else row


def _why_not(about: Declared, row: Row) -> str:
    """Why a metric does not work here, or ""; notes the files that it lacks."""
    if about.traits.never:
        return about.traits.never
    if about.traits is UNKNOWN:
        return ""
    try:
        module_of(about)
        lacking = missing(about)
    except RobustIQAError as error:
        return str(error)
    row["missing"] = [{"url": n.url, "path": str(n.path), "repository": n.repository} for n in lacking]
    if not lacking:
        return ""
    return f"not here: {', '.join(need.name for need in lacking)}"


def _built(name: str, min_size: int) -> Row:
    """What comes of building a metric and scoring a picture with it."""
    from .. import load_metric  # the registry imports the adapter, which imports this package

    began = time.perf_counter()
    try:
        metric = load_metric(f"pyiqa:{name}")
        with torch.inference_mode():
            score = float(metric(picture(max(min_size, metric.min_size))))
    except RobustIQAError as error:
        return {"usable": False, "why": str(error)}
    return {"seconds": round(time.perf_counter() - began, 2), "score": score}
