"""A made-up run of any size, to look at the leaderboard and its page without computing anything.

    python examples/made_up_board.py --out runs/full
    robustiqa report runs/full

Without further options it has 20 defences, 5 metrics, 20 attacks and 500 images: a million rows of attacks.

The figures follow a simple model (a defence divides gains by a number, and costs some accuracy), in which every
certificate holds, but for the defence that `--violations` breaks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from robustiqa.bench.checks.reliability import RULES
from robustiqa.bench.files import write_json
from robustiqa.bench.plan import Cell, Plan, write_plan
from robustiqa.bench.records import SUFFIX, encode
from robustiqa.bench.store import SCHEMA_VERSION, Store
from robustiqa.bench.suite import Suite

DEFENSES = (
    "none", "dms-iqa[sigma=0.12]", "median-smoothing[m=31,n=500,sigma=0.12]", "jpeg[quality=50]",
    "gaussian-blur[kernel=5]", "random-rotation", "denoised-median-smoothing[sigma=0.12]",
    "ensemble[others=lip-iqa;ibp-iqa]", "random-crop", "webp[quality=60]", "dms-iqa-tight[sigma=0.12]",
    "bit-depth[bits=4]", "random-noise[sigma=0.05]", "total-variation", "adversarial-training",
    "mean-smoothing[sigma=0.12]", "gradient-norm-training", "diffusion-purification", "median-blur", "resize[factor=2]",
)  # fmt: skip
"""Names of defences that exist; those with "smoothing" or "dms" have a certificate here."""
METRICS = ("tiny-iqa", "lip-iqa", "ibp-iqa", "pyiqa:topiq_nr", "pyiqa:dbcnn")
THREATS = (
    ("random-noise", "linf", 4 / 255), ("fgsm", "linf", 4 / 255), ("auto-iqa", "linf", 4 / 255),
    ("naive", "linf", 4 / 255),
    ("random-noise", "l2", 0.05), ("eot-pgd", "l2", 0.05), ("eot-pgd", "l2", 0.12), ("auto-iqa", "l2", 0.12),
    ("auto-iqa", "linf", 2 / 255), ("auto-iqa", "linf", 8 / 255), ("pgd", "linf", 4 / 255), ("apgd", "linf", 4 / 255),
    ("square", "linf", 4 / 255), ("pgd", "linf", 2 / 255), ("pgd", "linf", 8 / 255), ("mi-fgsm", "linf", 4 / 255),
    ("transfer", "linf", 4 / 255), ("spsa", "linf", 4 / 255), ("random-noise", "l2", 0.12), ("apgd", "l2", 0.12),
)  # fmt: skip
"""Attacks in the order in which they are taken."""
STRENGTH = {"random-noise": 0.03, "fgsm": 0.4, "naive": 0.5, "square": 0.6, "transfer": 0.45, "spsa": 0.5}
COST = {"random-noise": (1, 0), "fgsm": (1, 1), "auto-iqa": (1555, 543), "square": (500, 0), "spsa": (400, 0)}
CERTIFIED_EPS = (0.03, 0.05, 0.08, 0.12, 0.2)
NAME = "made-up"


def certified(defense: str) -> bool:
    """Whether a defence has certificates here."""
    return "smoothing" in defense or "dms" in defense


def cells(metrics: Sequence[str], defenses: Sequence[str], dataset: str, attacks: int, images: int) -> Iterator[Cell]:
    """All images of a kind of work in one cell: scores, checks, certificates, attacks."""
    for metric in metrics:
        for defense in defenses:
            jobs: list[dict[str, Any]] = [{"kind": "score"}, {"kind": "check", "images": 3}]
            if certified(defense):
                jobs.append({"kind": "certify", "norm": "l2", "eps": CERTIFIED_EPS, "alpha": 0.001})
            jobs += [
                {"kind": "attack", "attack": attack, "norm": norm, "eps": (eps,), "direction": "up"}
                for attack, norm, eps in THREATS[:attacks]
            ]
            for job in jobs:
                name = f"{job['kind']}-{metrics.index(metric)}-{defenses.index(defense)}-{jobs.index(job)}"
                yield Cell(
                    metric=metric, defense=defense, dataset=dataset, seed=0, start=0, stop=images, id=name, **job
                )


class World:
    """What the made-up figures are drawn from; the same seed gives the same run."""

    def __init__(self, images: int, violations: str = "", seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.images, self.violations = images, violations
        self.truth = self.rng.uniform(20, 90, images)
        self._known: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    def defended(self, metric: str, defense: str) -> dict[str, np.ndarray]:
        """By image: clean scores, how far an attack of full strength moves them at l2 1, what a bound adds to that."""
        if (metric, defense) not in self._known:
            plain = defense == "none"
            noise = 8.0 if plain else self.rng.uniform(8, 16)
            clean = self.truth + noise * self.rng.normal(size=self.images)
            base = 1.0 if plain else self.rng.uniform(0.05, 0.6)
            slope = 26 * base * self.rng.gamma(6, 1 / 6, self.images)
            self._known[metric, defense] = {
                "clean": clean,
                "slope": slope,
                "slack": self.rng.exponential(0.4, self.images),
            }
        return self._known[metric, defense]

    def rows(self, cell: Cell) -> list[dict[str, Any]]:
        """All rows of a cell."""
        found = self.defended(cell.metric, cell.defense)
        clean = found["clean"]
        shared: dict[str, Any] = {
            "cell": cell.id, "kind": cell.kind, "metric": cell.metric, "defense": cell.defense, "dataset": cell.dataset,
            "truth_name": "made-up", "lower_better": False, "bounded": False, "status": "ok",
            "randomised": certified(cell.defense) or "random" in cell.defense, "height": 128, "width": 128,
        }  # fmt: skip
        if cell.kind == "check":
            raised = {"order-broken"} if "jpeg" in cell.defense else set()
            return [shared | {"check": n, "raised": n in raised, "value": 0.1, "threshold": 0.2} for n in RULES]
        named = [
            shared | {"image": f"photo-{i // 5}/version-{i}", "reference": f"photo-{i // 5}", "truth": self.truth[i]}
            for i in range(self.images)
        ]
        if cell.kind == "score":
            return [
                one | {"clean": c, "clean_lo": c - 1, "clean_hi": c + 1} for one, c in zip(named, clean, strict=True)
            ]
        return (self._attack if cell.kind == "attack" else self._certify)(cell, named, **found)

    def _attack(
        self, cell: Cell, named: list[dict[str, Any]], clean: np.ndarray, slope: np.ndarray, slack: np.ndarray
    ) -> list[dict[str, Any]]:
        eps, name = cell.eps[0], cell.attack or ""
        length = eps * (222 * 0.02 if cell.norm == "linf" else 1)
        length = np.log1p(16 * length) if cell.norm == "linf" else length * 2
        strength = STRENGTH.get(name, 0.85) * self.rng.uniform(0.8, 1, self.images)
        gain = slope * length * strength * (0.9 if name != "auto-iqa" else 1.1)
        if cell.defense == self.violations and (cell.norm, eps) == ("l2", 0.05) and name != "random-noise":
            gain[:2] = 30
        forwards, backwards = COST.get(name, (50, 50))
        each = 31 if certified(cell.defense) else 8 if "random" in cell.defense else 1
        numbers = {"attack": cell.attack, "norm": cell.norm, "eps": eps, "direction": cell.direction,
                   "linf": eps if cell.norm == "linf" else 0.01, "l2": 222 * eps if cell.norm == "linf" else eps,
                   "psnr": 36.0, "ssim": 0.95, "seconds": forwards * each * 1e-3, "forwards": forwards * each,
                   "backwards": backwards * each, "queries": 0}  # fmt: skip
        return [
            one | numbers
            | {"clean": c, "clean_lo": c - 0.1, "clean_hi": c + 0.1, "attacked": c + g, "attacked_lo": c + g - 0.1,
               "attacked_hi": c + g + 0.1, "attacked_8bit": c + 0.9 * g,
               "attacked_8bit_lo": c + 0.9 * g, "attacked_8bit_hi": c + 0.9 * g,
               "gain": g, "gain_8bit": 0.9 * g}
            for one, c, g in zip(named, clean.tolist(), gain.tolist(), strict=True)
        ]  # fmt: skip

    def _certify(
        self, cell: Cell, named: list[dict[str, Any]], clean: np.ndarray, slope: np.ndarray, slack: np.ndarray
    ) -> list[dict[str, Any]]:
        rows = []
        for kind, wider in (("population", 0.2), ("deployed", 1.2)):
            for eps in cell.eps:
                width = 2.2 * slope * eps * (1 + eps) + wider + slack
                numbers = {"certificate": kind, "certified_norm": "l2", "eps": eps, "n": 500, "alpha": 0.001,
                           "sigma": 0.12, "spread": 0.5, "coverage": "pointwise", "abstained": False}  # fmt: skip
                rows += [
                    one | numbers
                    | {"score": c, "lo": c - w, "hi": c + w, "family_lo": c - 1.3 * w, "family_hi": c + 1.3 * w}
                    for one, c, w in zip(named, clean.tolist(), width.tolist(), strict=True)
                ]  # fmt: skip
        return rows


def make(
    root: Path,
    defenses: Sequence[str] = DEFENSES,
    metrics: Sequence[str] = METRICS,
    attacks: int = len(THREATS),
    images: int = 500,
    violations: str = "",
    dataset: str = "made-up",
    name: str = NAME,
) -> int:
    """Write a run; returns its rows of attacks. Names may be any text, as those of a suite that somebody sends."""
    store, world = Store(root), World(images, violations)
    store.create()
    plan = Plan(tuple(cells(metrics, defenses, dataset, attacks, images)), (("resize on small images", "too small"),),
                tuple((m, d) for m in metrics for d in defenses), ((dataset, "0" * 64),))  # fmt: skip
    for cell in plan.cells:
        (store.cells / f"{cell.id}{SUFFIX}").write_bytes(encode(world.rows(cell)))
    suite = Suite.model_validate({
        "name": name, "description": "Made-up figures, to look at the page.", "metrics": list(metrics),
        "defenses": list(defenses), "datasets": [dataset], "checks": {"images": 3, "ladder": False},
    })  # fmt: skip
    record = {"schema": SCHEMA_VERSION, "suite": suite.model_dump(mode="json", by_alias=True), "cells": len(plan.cells),
              "started": "2026-01-01T00:00:00+00:00", "arguments": ["run", "--suite", "made-up.yml"],
              "packages": {"python": "3.11", "torch": "2.13.0"}}  # fmt: skip
    write_json(root / "run.json", json.loads(json.dumps(record)))
    write_plan(root, plan)
    return len(metrics) * len(defenses) * min(attacks, len(THREATS)) * images


def main() -> None:
    """Make the run that the options describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--defenses", type=int, default=len(DEFENSES))
    parser.add_argument("--metrics", type=int, default=len(METRICS))
    parser.add_argument("--attacks", type=int, default=len(THREATS))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument(
        "--violations", default="", help="Defence whose certificate is broken, e.g. dms-iqa[sigma=0.12]."
    )
    given = parser.parse_args()
    rows = make(
        given.out, DEFENSES[: given.defenses], METRICS[: given.metrics], given.attacks, given.images, given.violations
    )
    print(f"{rows} rows of attacks in {given.out}")


if __name__ == "__main__":
    main()
