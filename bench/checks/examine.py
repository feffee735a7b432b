"""All reliability checks of a defended metric on images of a data set."""

from __future__ import annotations

import torch

from ..api import DefendedMetric
from ..datasets import Dataset
from .ladder import climb
from .metric import metric_contract
from .probes import probe
from .reliability import Finding


def examine(
    g: DefendedMetric, dataset: Dataset, images: int, ladder: bool = True, seed: int = 0, device: str = "cpu"
) -> list[Finding]:
    """Findings in the order of their numbers; those of the metric itself come with the defence `none`.

    Args:
        g: the defended metric.
        dataset: where the images are from; they are spread over it, because neighbours are often versions of one
            photograph. Those of another size than the first are left out.
        images: how many.
        ladder: whether to run the ladder of attacks (checks 8 to 11) as well.
        seed: base seed of all random streams.
        device: torch device.

    Raises:
        BadData, BadImage: an image cannot be read.
        BadScore: the metric fails on an image.
    """
    places = torch.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().int().tolist()
    loaded = [dataset.load(i) for i in dict.fromkeys(places)]
    x = torch.stack([image for image in loaded if image.shape == loaded[0].shape]).to(device)
    found = probe(g, x, seed) + (climb(g, x, seed) if ladder else [])
    if g.spec == "none":
        found += metric_contract(g.metric, x, seed)
    return sorted(found, key=lambda f: f.rule.number)
