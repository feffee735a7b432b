"""How strong are the attacks? Three tables of docs/attack-strength.md, in Markdown; minutes to an hour each on a core.

    python examples/measure_attacks.py linear     gain of every attack over the known optimum of a linear metric
    python examples/measure_attacks.py curves     gain of the query attacks against their queries
    python examples/measure_attacks.py adaptive   attacks through the defence against attacks on the bare metric

The fourth, every attack against four defences, is `robustiqa run --suite attacks --out runs/attacks`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Metric, Threat, load_dataset, load_metric, register_metric
from robustiqa.bench.images import quantise
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from torch import nn

THREATS = (Linf(4 / 255), L2(0.5))
QUERY = ("square", "parsimonious", "nes", "spsa", "one-pixel", "patch-search", "jnd-search")
DEFENSES = ("jpeg[quality=50]", "random-resize[noise=0.05,m=32]", "median-smoothing[sigma=0.12,m=31]",
            "dms-iqa[sigma=0.12,m=31]")  # fmt: skip


@register_metric("example-linear")
class Linear(nn.Module):
    """<w, x> with fixed weights: the largest change within a budget is eps |w|_1 or eps |w|_2."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(7)) / 100
        self.register_buffer("w", weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return (x * self.get_buffer("w")[:, : x.shape[2], : x.shape[3]]).sum((1, 2, 3))


def photographs(side: int, contrast: float = 1.0) -> torch.Tensor:
    """The five embedded photographs, cut to their middle; of lower contrast the box does not bind. 8 bits."""
    data = load_dataset("photos[size=128,subset=references]")
    top = (128 - side) // 2
    x = torch.stack([data.load(i)[:, top : top + side, top : top + side] for i in range(len(data))])
    return quantise(0.5 + contrast * (x - 0.5))


def optimum(x: torch.Tensor, threat: Threat) -> np.ndarray:
    """Largest gain of the linear metric for each image, the box counted in for linf."""
    w = Linear().get_buffer("w")[:, : x.shape[2], : x.shape[3]].double()
    if threat.norm == "l2":
        return np.full(len(x), threat.eps * float(w.norm()))
    best = (x.double() + threat.eps * w.sign()).clamp(0, 1) - x.double()
    return (best * w).sum((1, 2, 3)).numpy()


def linear() -> Iterator[list[str]]:
    """A row an attack: share of the optimum and cost, at both threats."""
    yield ["attack", "linf 4/255", "l2 .5", "forwards", "backwards", "queries"]
    x = photographs(64, contrast=0.8)
    g = load_defense("none", load_metric("example-linear"))
    for name in registry.names("attack"):
        attack = load_attack(name)
        if all(attack.skip(g, threat) for threat in THREATS):
            continue
        cells, result = [], None
        for threat in THREATS:
            if attack.skip(g, threat):
                cells.append("-")
                continue
            result = attack(g, x, threat)
            cells.append(f"{np.mean(result.gain / optimum(x, threat)):.3f}")
        assert result is not None
        yield [f"`{name}`", *cells, *(f"{v[0]}" for v in (result.forwards, result.backwards, result.queries))]


def curves() -> Iterator[list[str]]:
    """A row an attack and threat: share of the linear optimum, and gain on tiny-iqa in shares of its range."""
    asked = (100, 300, 1000, 3000)
    yield ["attack", "threat", *(f"linear, {q}" for q in asked), *(f"tiny-iqa, {q}" for q in asked)]
    x = photographs(64, contrast=0.8)
    metrics: list[Metric] = [load_metric("example-linear"), load_metric("tiny-iqa")]
    for name in QUERY:
        for threat in THREATS:
            cells = []
            for metric in metrics:
                g = load_defense("none", metric)
                unit = optimum(x, threat) if metric is metrics[0] else 100.0
                for q in asked:
                    small = {"nes": ",pairs=5", "spsa": ",pairs=5"}.get(name, "")
                    attack = load_attack(f"{name}[queries={q}{small}]")
                    if attack.skip(g, threat):
                        break
                    cells.append(f"{np.mean(attack(g, x, threat).gain / unit):.3f}")
            if cells:
                yield [f"`{name}`", f"{threat.norm} {threat.eps:.3g}", *cells]


def adaptive() -> Iterator[list[str]]:
    """A row a defence and threat: gains of naive, less naive and adaptive attacks, in shares of tiny-iqa's range."""
    yield ["defence", "threat", "naive: found on the bare metric", "one draw a step", "adaptive: auto-iqa", "ratio",
           "images where adaptive is at least naive"]  # fmt: skip
    x, metric = photographs(128), load_metric("tiny-iqa")
    bare = load_defense("none", metric)
    for threat in THREATS:
        found = load_attack("apgd[steps=100]")(bare, x, threat).adversarial
        for text in DEFENSES:
            g = load_defense(text, metric)

            def score(images: torch.Tensor, g=g) -> np.ndarray:
                # The evaluation stream, as the attacks' own results.
                return g.estimate(images, Streams.create(image_keys(x), Role.EVALUATION)).score

            naive = (score(found) - score(x)) / 100
            single, auto = (load_attack(a)(g, x, threat).gain / 100 for a in ("pgd[steps=20]", "auto-iqa"))
            ratio = f"{auto.mean() / naive.mean():.1f}" if naive.mean() > 0 else "-"
            yield [f"`{text}`", f"{threat.norm} {threat.eps:.3g}", f"{naive.mean():.3f}",
                   f"{single.mean():.3f}" if g.randomised else "-", f"{auto.mean():.3f}", ratio,
                   f"{int((auto >= naive).sum())} of {len(x)}"]  # fmt: skip


def main() -> None:
    """Print the table that is asked for, row by row as it is computed."""
    tables = {"linear": linear, "curves": curves, "adaptive": adaptive}
    if len(sys.argv) != 2 or sys.argv[1] not in tables:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(tables)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # uap and facpa say that they were trained for another metric
    for number, row in enumerate(tables[sys.argv[1]]()):
        print("| " + " | ".join(row) + " |", flush=True)
        if number == 0:
            print("|" + "---|" * len(row), flush=True)


if __name__ == "__main__":
    main()
