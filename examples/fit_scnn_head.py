"""Fit the head of `examples/scnn.py`: ridge regression from the network's statistics to CLIVE's MOS.

    python examples/fit_scnn_head.py --weights scnn.pkl --root CLIVE --out head.safetensors
    python examples/fit_scnn_head.py --weights scnn.pkl --root CLIVE --out head.safetensors --test

The training split is fitted, the validation split chooses the strength; `--test` measures a head that is already there
on the test split, and fits nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import numpy as np
import torch
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.foreign_weights import load_foreign
from robustiqa.bench.registry import registry
from robustiqa.bench.training.evaluate import agreement
from safetensors.torch import save_file
from torch import nn

scnn = registry.load_file(Path(__file__).with_name("scnn.py"))
STRENGTHS = 10.0 ** np.arange(-1.0, 5.0, 0.25)


def statistics(net: nn.Module, root: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Statistics (N,512) of CLIVE's whole photographs of a split, one by one, and their MOS (N,)."""
    data = load_dataset(f"clive[root={root},split={split}]")
    with torch.inference_mode():
        rows = [net.statistics(data.load(i)[None])[0].double().numpy() for i in range(len(data))]  # type: ignore[operator]
    return np.array(rows), np.array([item.truth for item in data.items], dtype=float)


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Weights (D,) and offset of ridge regression on standardised columns, for columns as they are.

    Args:
        x: (N,D).
        y: (N,).
        strength: weight of the squared norm, beside the sum of squared errors.
    """
    centre, spread = x.mean(0), x.std(0) + 1e-6  # a column may be constant
    z = (x - centre) / spread
    weights = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (y - y.mean())) / spread
    return weights, float(y.mean() - centre @ weights)


@click.command()
@click.option("--weights", required=True, help="The authors' scnn.pkl.")
@click.option("--root", default="", help="Folder of the CLIVE release; default $ROBUSTIQA_DATA/clive.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Head, a .safetensors file.")
@click.option("--test", is_flag=True, help="Measure the head in --out on the test split, and fit nothing.")
def main(weights: str, root: str, out: str, test: bool) -> None:
    """Fit the head, or measure it."""
    torch.set_num_threads(1)
    net = load_foreign(scnn.SCNN(), weights)
    if test:
        x, mos = statistics(net, root, "test")
        head = load_foreign(nn.Linear(scnn.STATISTICS, 1), out)
        print(agreement(head(torch.from_numpy(x).float()).squeeze(1).numpy(), mos))
        return
    (x, mos), (held, held_mos) = (statistics(net, root, split) for split in ("train", "val"))
    errors = []
    for strength in STRENGTHS:
        w, b = ridge(x, mos, strength)
        errors.append(float(np.square(held @ w + b - held_mos).mean()))
    best = float(STRENGTHS[int(np.argmin(errors))])
    w, b = ridge(x, mos, best)
    state = {"weight": torch.from_numpy(w)[None].float(), "bias": torch.tensor([b])}
    save_file(state, out)
    print(f"strength {best:.4g} of {len(mos)} images, mean squared error on {len(held_mos)} others {min(errors):.1f}")
    print(agreement(held @ w + b, held_mos))
    print(f"SHA-256 {hashlib.sha256(Path(out).read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
