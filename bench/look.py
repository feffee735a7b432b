"""What would go wrong after hours, found before: files that are not there, images that are unusable or too small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .datasets import Dataset, load_dataset
from .errors import BadImage, counted
from .metrics import load_metric
from .plan import Plan

SAMPLE = 32
"""Images of a data set that are read; that their files are there is looked up for all."""

SHOWN = 3


def problems(plan: Plan) -> Iterator[str]:
    """What stands in the way of a plan, a sentence each: the data sets, then each metric on them."""
    metrics = {text: load_metric(text) for text in dict.fromkeys(cell.metric for cell in plan.cells)}
    for name in dict.fromkeys(cell.dataset for cell in plan.cells):
        dataset = load_dataset(name)
        missing = dataset.missing()
        if missing:
            yield f"{name}: {len(missing)} of {counted(len(dataset), 'image')} without a file: {_some(missing)}"
        sizes, unusable = _read(dataset, set(missing))
        read = counted(len(sizes) + len(unusable), "image")
        if unusable:
            yield f"{name}: {len(unusable)} of {read} looked at cannot be used: {_some(unusable)}"
        for text in dict.fromkeys(cell.metric for cell in plan.cells if cell.dataset == name):
            least = metrics[text].min_size
            small = [f"{image} ({h} x {w})" for image, (h, w) in sizes.items() if min(h, w) < least]
            if small:
                yield f"{name}: {len(small)} of {read} looked at below the {least} pixels of {text}: {_some(small)}"


def _read(dataset: Dataset, missing: set[str]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Height and width of some images, spread over the set, by id; and the errors of those that cannot be read."""
    there = [index for index, item in enumerate(dataset.items) if item.id not in missing]
    sizes: dict[str, tuple[int, int]] = {}
    unusable: list[str] = []
    places = torch.linspace(0, len(there) - 1, min(SAMPLE, len(there))).round().int().tolist()
    for place in dict.fromkeys(places):
        index = there[place]
        try:
            _, height, width = dataset.load(index).shape
        except BadImage as error:
            unusable.append(str(error))
        else:
            sizes[dataset.items[index].id] = (height, width)
    return sizes, unusable


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
