"""How much chance is in the score of a randomised defence? A table in Markdown; some twenty minutes on a core.

    python examples/measure_randomness.py                    every built-in one
    python examples/measure_randomness.py 'random-crop[share=0.5]' 'chain[steps=random-flip;jpeg]'

Each row: the deployed score on the photographs over 20 fresh evaluation seeds, with one draw and with eight.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric
from robustiqa.bench.measures import srocc
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.bench.spec import Spec, parse_spec
from robustiqa.defenses import load_defense

DEFENSES = ("random-noise", "random-noise[sigma=0.05]", "random-crop", "random-crop[share=0.5]", "random-resize",
            "random-resize[noise=0.05]", "random-rotation", "random-flip",
            "chain[steps=random-crop[share=0.9];random-noise[sigma=0.05];jpeg]", "random-metric",
            "diffusion-purification")  # fmt: skip
SEEDS = 20
METRIC, DATA = "tiny-iqa", "photos[size=128,subset=quick]"


def evaluations(g: DefendedMetric, x: torch.Tensor, seeds: int = SEEDS) -> np.ndarray:
    """Deployed scores (seeds,B) of images (B,3,H,W), each row from fresh evaluation streams."""
    keys = image_keys(x)
    return np.stack([g.estimate(x, Streams.create(keys, Role.EVALUATION, seed)).score for seed in range(seeds)])


def spread(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean score, standard deviation over the rows (root mean square over the images), SROCC of a row with the next."""
    deviation = np.sqrt(scores.var(axis=0, ddof=1).mean())
    return float(scores.mean()), float(deviation), float(np.mean([srocc(a, b) for a, b in pairwise(scores)]))


def rows(defenses: tuple[str, ...]) -> Iterator[list[str]]:
    """The table's rows, the header first."""
    yield [
        "defence",
        "mean score",
        "sd over seeds, % of the range",
        "SROCC of two evaluations",
        "SROCC with no defence",
    ]
    data, metric = load_dataset(DATA), load_metric(METRIC)
    x = torch.stack([data.load(i) for i in range(len(data))])
    bare = load_defense("none", metric).estimate(x).score
    yield ["`none`", f"{bare.mean():.1f}", "0", "1", "1"]
    for text in defenses:
        given = parse_spec(text)
        for m in (1, 8):
            spec = str(Spec(given.name, {**given.params, "m": m}))
            scores = evaluations(load_defense(spec, metric), x)
            mean, deviation, agreement = spread(scores)
            order = np.mean([srocc(row, bare) for row in scores])
            yield [f"`{spec}`", f"{mean:.1f}", f"{100 * deviation / metric.span:.2f}", f"{agreement:.3f}",
                   f"{order:.3f}"]  # fmt: skip


def main() -> None:
    """Print the table row by row as it is computed."""
    torch.set_num_threads(1)
    for number, row in enumerate(rows(tuple(sys.argv[1:]) or DEFENSES)):
        print("| " + " | ".join(row) + " |", flush=True)
        if number == 0:
            print("|" + "---|" * len(row), flush=True)


if __name__ == "__main__":
    main()
