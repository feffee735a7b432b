"""The tables of docs/empirical-defenses.md, in Markdown.

robustiqa run --suite empirical --out runs/empirical
python examples/measure_defenses.py costs runs/empirical    milliseconds an image, alone on the machine (minutes)
python examples/measure_defenses.py table runs/empirical    accuracy, naive and adaptive gains, R-scores, costs
python examples/measure_defenses.py below runs/empirical    images on which the adaptive attacks found less
python examples/measure_defenses.py fresh runs/empirical    both results on those images, on fresh draws (minutes)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from robustiqa.attacks import load_attack
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric, Threat
from robustiqa.bench.plan import plan_from_json
from robustiqa.bench.seeds import Role, Streams, image_key
from robustiqa.bench.store import Store
from robustiqa.defenses import load_defense
from robustiqa.leaderboard.compare import compare
from robustiqa.leaderboard.empirical import NOTICEABLE, name_of
from robustiqa.leaderboard.results import read_results
from tabulate import tabulate

REPEATS = 7
SEEDS = 100


def costs(root: Path) -> pd.DataFrame:
    """Milliseconds an image of 128 px for each defence of a run, and the ratio to the metric alone.

    Each defence takes turns with the undefended metric; the figures are medians over the turns.
    """
    plan = plan_from_json(Store(root).read_json("plan.json"))
    data = load_dataset("photos[size=128,subset=references]")
    x = torch.stack([data.load(i) for i in range(len(data))])
    rows = []
    for metric, defense in dict.fromkeys((c.metric, c.defense) for c in plan.cells):
        loaded = load_metric(metric)
        pair = [load_defense(name, loaded) for name in ("none", defense)]
        taken: list[list[float]] = [[], []]
        for turn in range(REPEATS + 1):
            for g, seconds in zip(pair, taken, strict=True):
                began = time.perf_counter()
                g.estimate(x)
                if turn:  # the first one warms up
                    seconds.append(time.perf_counter() - began)
        alone, defended = (float(np.median(seconds)) / len(x) * 1000 for seconds in taken)
        rows.append({"defense": defense, "ms": defended, "ratio": defended / alone, "forwards": pair[1].cost})
    return pd.DataFrame(rows)


def table(root: Path) -> pd.DataFrame:
    """A row a defence and data set with attacks: accuracy on the data sets without, gains and R-scores with intervals.

    The accuracy is from the data set of the same name that was not attacked, where the run has one. The smallest
    adaptive gain at the suite's first threat comes first.
    """
    accuracy = compare(root)
    accuracy = accuracy[accuracy["baseline"] == ""]
    threats = pd.read_csv(root / "leaderboard" / "threats.csv")
    threats = threats[threats["direction"] == "up"]
    first = threats.groupby(["dataset", "defense"], sort=False)["adaptive_gain_mean"].transform("first")
    threats = threats.assign(first=first).sort_values(["dataset", "first", "defense"], kind="stable")
    found = []
    for (dataset, defense), part in threats.groupby(["dataset", "defense"], sort=False):
        row: dict[str, object] = {"dataset": dataset, "defence": defense}
        for measure in ("srocc", "plcc"):
            row[measure.upper()] = _accuracy(accuracy, str(dataset), str(defense), measure)
        for _, r in part.iterrows():
            threat = f"{r['norm']} {r['eps']:.3g}"
            for what in ("naive", "adaptive"):
                row[f"{what} {threat}"] = _interval(r, f"{what}_gain")
            row[f"R {threat}"] = _interval(r, "rscore")
        found.append(row)
    return pd.DataFrame(found)


def _accuracy(accuracy: pd.DataFrame, dataset: str, defense: str, measure: str) -> str:
    family = dataset.split("[")[0]
    rows = accuracy[(accuracy["defense"] == defense) & (accuracy["measure"] == measure)]
    mine = rows[rows["dataset"].str.split("[").str[0] == family]
    quiet = mine[mine["dataset"] != dataset]
    chosen = quiet if len(quiet) else mine
    if chosen.empty:
        return "-"
    r = chosen.iloc[0]
    return f"{r['value']:.2f} [{r['lo']:.2f}, {r['hi']:.2f}]"


def _interval(row: pd.Series, name: str) -> str:
    mean, lo, hi = (row[f"{name}_{part}"] for part in ("mean", "lo", "hi"))
    return "-" if pd.isna(mean) else f"{mean:.2f} [{lo:.2f}, {hi:.2f}]"


def below(root: Path) -> pd.DataFrame:
    """Threats at which some image was moved further by the naive attack than by every adaptive one."""
    threats = pd.read_csv(root / "leaderboard" / "threats.csv")
    columns = ["dataset", "defense", "norm", "eps", "below_naive_share", "below_naive_max", "n_naive"]
    return threats[threats["below_naive_share"] > 0][columns]


def fresh(root: Path) -> pd.DataFrame:
    """Naive and adaptive gains on the images of `below`, attacked again and averaged over fresh evaluation seeds.

    Where the adaptive gain is the larger one on them, the draws of the one evaluation were to blame.
    """
    rows = []
    for group in read_results(root).groups:
        table = group.attacks()
        table = table.assign(name=[name_of(text) for text in table["attack"]], toward=table["gain"] / group.unit)
        for (norm, _, image), part in table.groupby(["norm", "eps", "image"]):
            gain = part.groupby("name")["toward"].max()
            if "naive" not in gain or "auto-iqa" not in gain or gain["naive"] <= gain["auto-iqa"] + NOTICEABLE:
                continue
            threat = Threat("l2" if norm == "l2" else "linf", float(part["eps"].iloc[0]))
            data, g = load_dataset(group.dataset), load_defense(group.defense, load_metric(group.metric))
            x = data.load([item.id for item in data.items].index(str(image)))[None]
            row = {
                "dataset": group.dataset,
                "defense": group.defense,
                "image": image,
                "threat": f"{norm} {threat.eps:.3g}",
            }
            for name in ("naive", "auto-iqa"):
                attacked = load_attack(name)(g, x, threat).adversarial
                gains = [_gain(g, x, attacked, seed) / group.unit for seed in range(1, SEEDS + 1)]
                error = np.std(gains, ddof=1) / SEEDS**0.5
                row |= {f"{name} in the run": gain[name], f"{name} afresh": np.mean(gains), f"{name} se": error}
            rows.append(row)
    return pd.DataFrame(rows)


def _gain(g: DefendedMetric, x: torch.Tensor, attacked: torch.Tensor, seed: int) -> float:
    """Oriented change of the deployed score, on the evaluation draws of another seed."""
    streams = [Streams.create([image_key(x[0])], Role.EVALUATION, seed) for _ in range(2)]
    before, after = (g.estimate(images, rng).score[0] for images, rng in zip((x, attacked), streams, strict=True))
    return float(g.metric.sign * (after - before))


def main() -> None:
    """Print what is asked for; `costs` also keeps it in the run's folder, where `table` finds it."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("costs", "table", "below", "fresh"):
        sys.exit(f"usage: python {sys.argv[0]} costs|table|below|fresh RUN")
    torch.set_num_threads(1)
    root = Path(sys.argv[2])
    if sys.argv[1] == "costs":
        found = costs(root)
        found.to_csv(root / "costs.csv", index=False)
        print(tabulate(found.to_numpy().tolist(), headers=list(found.columns), tablefmt="github", floatfmt=".2f"))
        return
    found = {"below": below, "table": table, "fresh": fresh}[sys.argv[1]](root)
    if found.empty:
        sys.exit("none")
    for dataset, part in found.groupby("dataset", sort=False):
        print(f"\n{dataset}\n")
        part = part.drop(columns="dataset")
        if sys.argv[1] == "table" and (root / "costs.csv").is_file():
            times = pd.read_csv(root / "costs.csv").set_index("defense")
            part["ms"] = [f"{times.loc[name, 'ms']:.1f}" for name in part["defence"]]
        print(tabulate(part.to_numpy().tolist(), headers=list(part.columns), tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
