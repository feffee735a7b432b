"""Do the declared gradients raise the deployed score? A table in Markdown; some ten minutes on a core.

    python examples/measure_surrogates.py                      every built-in defence whose gradient is a stand-in
    python examples/measure_surrogates.py jpeg[quality=30]     these

Each row: one declared gradient of one defence on the five embedded photographs, l_inf 4/255. Twenty steps along the
sign of that gradient, averaged over eight draws where the defence is random, and nothing else: the last point counts,
none is chosen for its score. The deployed score, on draws of its own, is compared with the clean one, and with random
signs of the same size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense

DEFENSES = ("none", "jpeg", "diffjpeg", "webp", "bit-depth", "color-quantization", "median-blur", "non-local-means",
            "total-variation", "random-noise[m=8]", "random-crop[m=8]", "random-resize[m=8]", "random-rotation[m=8]",
            "random-flip[m=8]", "chain[steps=random-crop;jpeg,m=8]", "diffusion-purification[m=4]", "ensemble",
            "ensemble[combine=median]", "random-metric[m=9]", "median-smoothing[m=11]", "dms-iqa[m=11]")  # fmt: skip
EPS, STEPS, DRAWS, NOISES = 4 / 255, 20, 8, 5


def streams(x: torch.Tensor, role: Role, seed: int = 0) -> Streams:
    """Streams of random numbers for images (B,3,H,W), one an image."""
    return Streams.create(image_keys(x), role, seed)


def deployed(g: DefendedMetric, x: torch.Tensor, clean: torch.Tensor) -> np.ndarray:
    """Oriented deployed scores (B,) of x, on the evaluation draws of the clean images."""
    return g.metric.sign * g.estimate(x, streams(clean, Role.EVALUATION)).score


def climb(view: DefendedMetric, clean: torch.Tensor) -> torch.Tensor:
    """Images (B,3,H,W) after the steps along the view's gradient, averaged over draws of the attack's own."""
    rng, x = streams(clean, Role.SEARCH), clean
    for _ in range(STEPS):
        leaf = x.clone().requires_grad_(True)
        scores = view.surrogate(leaf, rng, DRAWS if view.randomised else 1)
        (gradient,) = torch.autograd.grad(view.metric.sign * scores.mean(0).sum(), leaf)
        x = (x + EPS / 8 * gradient.sign()).clamp(clean - EPS, clean + EPS).clamp(0, 1)
    return x


def noise(g: DefendedMetric, clean: torch.Tensor) -> np.ndarray:
    """Mean change (B,) of the deployed score by random signs of the budget's size."""
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(2, clean.shape, generator=generator) * 2.0 - 1 for _ in range(NOISES)]
    moved = [deployed(g, (clean + EPS * sign).clamp(0, 1), clean) for sign in signs]
    return np.mean(moved, axis=0) - deployed(g, clean, clean)


def rows(defenses: tuple[str, ...]) -> Iterator[list[str]]:
    """The table's rows, the header first."""
    yield ["defence", "gradient", "mean change, R", "smallest", "images raised", "random signs"]
    data, metric = load_dataset("photos[size=128,subset=references]"), load_metric("tiny-iqa")
    x = torch.stack([data.load(i) for i in range(len(data))])
    for text in defenses:
        g = load_defense(text, metric)
        before, random = deployed(g, x, x), noise(g, x).mean() / metric.span
        for number, view in enumerate(g.surrogates()):
            gain = (deployed(g, climb(view, x), x) - before) / metric.span
            name = getattr(view, "gradient", f"{number + 1} of {len(g.surrogates())}")
            raised = f"{(gain > 0).sum()}/{len(gain)}"
            yield [f"`{text}`", name, f"{gain.mean():.3f}", f"{gain.min():.3f}", raised, f"{random:.3f}"]


def main() -> None:
    """Print the table row by row as it is computed."""
    torch.set_num_threads(1)
    for number, row in enumerate(rows(tuple(sys.argv[1:]) or DEFENSES)):
        print("| " + " | ".join(row) + " |", flush=True)
        if number == 0:
            print("|" + "---|" * len(row), flush=True)


if __name__ == "__main__":
    main()
