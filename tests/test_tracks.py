"""Who is ranked in a track, where, and why not: made-up entrants whose order is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from robustiqa.bench import run_suite
from robustiqa.bench.measures import bootstrap_mean
from robustiqa.bench.plan import Cell, Plan
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import Headline, Suite
from robustiqa.leaderboard.results import EMPIRICAL_RANGE, Group
from robustiqa.leaderboard.rules import EXCLUDING, RULES_VERSION, attack_budget, certified_budget
from robustiqa.leaderboard.tracks import Budgets, Entrant, entrants_of, stability_table, track_tables

IMAGES = 30
NAMES = [f"image-{i:02d}" for i in range(IMAGES)]


def entrant(defense: str, values: Any, **more: Any) -> Entrant:
    """One in the l_inf track, eligible unless said otherwise."""
    frame = pd.DataFrame({"value": np.asarray(values, dtype=float), "reference": NAMES}, index=NAMES).dropna()
    interval = bootstrap_mean(frame["value"].to_numpy(), frame["reference"].tolist(), "t")
    summary = {"flags": "", "n_ok": 60, "n_planned": 60, "srocc_clean": 0.7} | more.pop("summary", {})
    given: dict[str, Any] = {
        "track": "empirical-linf", "metric": "m", "dataset": "d", "defense": defense, "pool": "empirical deterministic",
        "values": frame, "interval": interval, "norm": "linf",
        "eps": 4 / 255, "standard": True, "wanted": True, "reason": "", "summary": summary,
    }  # fmt: skip
    return Entrant(**(given | more))


def spread(mean: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.05, IMAGES)
    return mean + noise - noise.mean()


def by_defense(table: pd.DataFrame, track: str = "empirical-linf") -> dict[str, dict[str, Any]]:
    rows = table[table["track"] == track].to_dict("records")
    return {str(row["defense"]): {str(k): v for k, v in row.items()} for row in rows}


def test_places_pools_and_neighbours() -> None:
    """Clear differences have places without doubt; equal means share one; pools count for themselves."""
    tracks, pairs = track_tables(
        [
            entrant("none", spread(2.0, 1), pool="undefended"),
            entrant("a", spread(0.5, 2)),
            entrant("b", spread(1.0, 3), pool="certified randomised"),
            entrant("c", spread(1.0, 3)),
        ],
        [],
        Headline(),
    )
    found = by_defense(tracks)
    assert {d: (r["rank"], r["rank_lo"], r["rank_hi"], r["pool_rank"]) for d, r in found.items()} == {
        "a": (1, 1, 1, 1), "b": (2, 2, 3, 1), "c": (2, 2, 3, 2), "none": (4, 4, 4, 1),
    }  # fmt: skip
    assert list(zip(pairs["ahead"], pairs["behind"], strict=True)) == [("a", "b"), ("b", "c"), ("c", "none")]
    assert pairs["difference"].tolist() == pytest.approx([0.5, 0.0, 1.0], abs=1e-12)
    assert pairs["p_holm"].tolist() == pytest.approx([3e-4, 1.0, 3e-4])
    assert set(tracks["rules"]) == {RULES_VERSION}


def test_an_image_without_a_result_is_left_out_of_its_pair() -> None:
    """b lacks one image; the difference is that of the others, and the counts say so."""
    lacking = spread(1.0, 3)
    lacking[4] = np.nan
    _, pairs = track_tables([entrant("a", spread(0.5, 2)), entrant("b", lacking)], [], Headline())
    (pair,) = pairs.to_dict("records")
    assert (pair["n_images"], pair["n_references"]) == (29, 29)
    assert pair["difference"] == pytest.approx(np.nanmean(lacking - spread(0.5, 2)))


def test_who_was_spared_the_standard_attack_has_no_place() -> None:
    tracks, _ = track_tables(
        [entrant("a", spread(0.1, 1), standard=False, wanted=False), entrant("b", spread(0.5, 2))], [], Headline()
    )
    found = by_defense(tracks)
    assert found["b"]["rank"] == 1
    assert pd.isna(found["a"]["rank"])
    assert found["a"]["reason"] == "not attacked by auto-iqa, as others here were"
    assert found["a"]["value"] == pytest.approx(0.1)
    without = [entrant(d, spread(v, 1), standard=False, wanted=False) for d, v in (("a", 0.1), ("b", 0.5))]
    assert sorted(r["rank"] for r in by_defense(track_tables(without, [], Headline())[0]).values()) == [1, 2]


def test_efficiency_asks_the_price_of_what_helps() -> None:
    """Half of the gain has to go and nine tenths of the accuracy to stay; then the cheapest is first."""
    entrants = [
        entrant("none", spread(2.0, 1), pool="undefended"),
        entrant("cheap", spread(0.9, 2)),
        entrant("dear", spread(0.2, 3)),
        entrant("also-cheap", spread(0.99, 4)),
        entrant("weak", spread(1.1, 5)),
        entrant("blind", spread(0.1, 6), summary={"srocc_clean": 0.62}),
        entrant("liar", spread(0.1, 7), summary={"flags": "cost-misdeclared"}),
        entrant("unknown", spread(0.1, 8), summary={"srocc_clean": float("nan")}),
    ]
    costs = [("m", e.defense, {"dear": 31}.get(e.defense, 1)) for e in entrants]
    found = by_defense(track_tables(entrants, costs, Headline())[0], "efficiency")
    ranks = {d: None if pd.isna(r["rank"]) else (r["rank"], r["value"]) for d, r in found.items()}
    assert ranks == {"cheap": (1, 1), "also-cheap": (1, 1), "dear": (3, 31), "weak": None, "blind": None, "liar": None,
                     "unknown": None}  # fmt: skip
    assert found["weak"]["reason"] == "a worst gain of 1.1 is more than 50% of the undefended 2"
    assert found["blind"]["reason"] == "an SROCC of 0.62 is less than 90% of the undefended 0.7"
    assert found["liar"]["reason"].startswith("cost-misdeclared: ")
    assert by_defense(track_tables(entrants, [], Headline())[0], "efficiency") == {}, "plans of before have no costs"
    alone = by_defense(track_tables(entrants[1:2], costs, Headline())[0], "efficiency")
    assert alone["cheap"]["reason"] == "the undefended metric has no figure to compare with"


def group(gain: list[float], clean: list[float], **more: Any) -> Group:
    """Twelve images under one attack, range 10 of the undefended metric."""
    images = [f"i{k}" for k in range(12)]
    scores = pd.DataFrame({"image": images, "reference": images, "quality": clean, "clean": clean, "randomised": False})
    rows = pd.DataFrame({
        "image": images, "reference": images, "kind": "attack", "attack": "pgd", "norm": "linf", "eps": 4 / 255,
        "direction": "up", "gain": gain, "clean": clean, "attacked": np.add(clean, gain), "randomised": False,
        "truth": np.arange(12.0),
    })  # fmt: skip
    cell = Cell("attack", "m", "x", "d", 0, 12, 0, "pgd", "linf", (4 / 255,), "up")
    given: dict[str, Any] = {"metric": "m", "defense": "x", "dataset": "d", "ends": (0.0, 10.0), "sign": 1.0}
    given |= {"range_source": EMPIRICAL_RANGE, "clean": scores, "rows": rows, "cells": (cell,)}
    return Group(**(given | more))


BUDGETS: Budgets = {"certified-l2": ("l2", None), "empirical-linf": ("linf", 4 / 255), "empirical-l2": ("l2", None)}


def one(group: Group, flags: str = "", **rows: list[float]) -> Entrant:
    """The entrant of a group with the given mean gains by attack."""
    shared: dict[str, Any] = {"norm": "linf", "eps": 4 / 255, "direction": "up", "n_ok": 12, "n_planned": 12}
    empirical = [shared | {"attack": a.replace("_", "-"), "gain_mean": float(np.mean(g))} for a, g in rows.items()]
    (found,) = entrants_of(group, BUDGETS, {"flags": flags, "n_ok": 24, "n_planned": 24}, empirical)
    return found


def test_squeezing_the_scale_gains_no_place() -> None:
    """A tenth of the scores and of the gains is as robust as all of them; ten times both is, too."""
    gain, clean = np.linspace(1, 3, 12), np.linspace(0, 10, 12)
    values = {}
    for factor in (0.1, 1.0, 10.0):
        g = group((factor * gain).tolist(), (factor * clean).tolist())
        values[factor] = one(g, pgd=(factor * gain / 10).tolist()).interval.mean
    ratio = (np.quantile(clean, 0.99) - np.quantile(clean, 0.01)) / 10
    assert values[0.1] == pytest.approx(0.2 / ratio)
    assert values[1.0] == pytest.approx(0.2 / ratio)
    assert values[10.0] == pytest.approx(2.0), "a stretched scale is not excused: R is the undefended one"
    constant = one(group([0.0] * 12, [5.0] * 12), pgd=[0.0])
    assert constant.reason == "its scores have no range"


def test_what_nothing_was_tried_on_has_no_place() -> None:
    g = group([1.0] * 12, np.linspace(0, 10, 12).tolist())
    assert one(g).reason == "not attacked at this budget"
    assert one(g, random_noise=[0.1]).reason == "not attacked at this budget"
    assert (
        one(g, random_noise=[0.1], pgd=[0.1]).reason
        == "no attack did better than random noise: it may hide its gradient"
    )
    assert one(g, random_noise=[0.1], pgd=[0.05], square=[0.2]).reason == ""
    assert one(g, pgd=[0.0]).reason == ""


@pytest.mark.parametrize("flag", sorted(EXCLUDING))
def test_flags_that_make_figures_wrong_cost_the_place(flag: str) -> None:
    g = group([1.0] * 12, np.linspace(0, 10, 12).tolist())
    assert one(g, f"vacuous-at-some-eps {flag}", pgd=[0.1]).reason == f"{flag}: {EXCLUDING[flag]}"
    assert one(g, "gradient-mismatch no-op:fgsm@linf:0.0157", pgd=[0.1]).reason == ""


def test_the_budget_of_a_track_is_the_headlines_or_the_one_that_most_share() -> None:
    def cell(defense: str, attack: str, eps: float, direction: Any = "up") -> Cell:
        return Cell("attack", "m", defense, "d", 0, 8, 0, attack, "l2", (eps,), direction)

    cells = [cell("a", "pgd", 0.5), cell("b", "pgd", 0.5), cell("a", "pgd", 1.0), cell("b", "pgd", 0.1),
             cell("c", "random-noise", 2.0), cell("c", "pgd", 3.0, "down")]  # fmt: skip
    headline = Headline(norm="linf", eps=4 / 255, certified_eps=0.05)
    assert attack_budget(Plan(tuple(cells), ()), headline, "l2") == 0.5
    assert attack_budget(Plan((*cells, cell("a", "auto-iqa", 0.1)), ()), headline, "l2") == 0.1
    assert attack_budget(Plan(tuple(cells), ()), headline, "linf") == 4 / 255
    assert attack_budget(Plan((), ()), headline, "l2") is None
    certify = Cell("certify", "m", "a", "d", 0, 8, 0, norm="l2", eps=(0.12, 0.25))
    assert certified_budget(Plan((certify,), ()), headline) == 0.12
    assert certified_budget(Plan((certify,), ()), Headline(certified_eps=0.25)) == 0.25
    assert certified_budget(Plan(tuple(cells), ()), headline) is None


def test_stability_is_over_what_is_ranked_everywhere() -> None:
    """Three defences in the same order on two data sets; a fourth only on one; a metric with the order turned."""
    entrants = [
        entrant(d, spread(v, 1), dataset=dataset, metric=metric)
        for metric, order in (("m", 1), ("n", -1))
        for dataset, names in (("d", "abc"), ("e", "abcx"))
        for d, v in zip(names, np.arange(1.0, 5.0)[::order], strict=False)
    ]
    table = stability_table(track_tables(entrants, [], Headline())[0])
    columns = ["n_rankings", "n_entrants", "kendall_w", "tau_mean"]
    found = {(r["across"], r["within"]): [r[c] for c in columns] for r in table.to_dict("records")}
    assert found["data sets", "m"] == pytest.approx([2, 3, 1, 1])
    assert found["metrics", "d"] == pytest.approx([2, 3, 0, -1])
    assert found["metrics", "e"] == pytest.approx([2, 4, 0, -1])


def test_a_run_has_its_tracks(linear_plugin: Path, tmp_path: Path) -> None:
    """From the plan to the files: the rank of the summary is that of the headline's track, and costs are known."""
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    suite = {
        "name": "tracks", "metrics": ["linear"], "datasets": ["noise"],
        "defenses": ["none", "gaussian-blur[kernel=5]", "median-smoothing[n=600,m=51]"], "certify": {"eps": [0.05]},
        "attacks": [{"attack": "pgd[steps=2]", "linf": ["4/255"], "l2": [0.05], "only": "deterministic"},
                    {"attack": "eot-pgd[steps=2,draws=2]", "linf": ["4/255"], "l2": [0.05], "only": "randomised"}],
    }  # fmt: skip
    tables = run_suite(Suite.model_validate(suite), tmp_path, progress=False).tables
    tracks, summary = (pd.read_csv(tables[name]) for name in ("tracks", "summary"))
    mine = tracks[tracks["track"] == "empirical-linf"].set_index("defense")
    assert summary.set_index("defense")["rank"].to_dict() == mine["rank"].to_dict()
    assert mine["value"].to_dict() == pytest.approx(summary.set_index("defense")["worst_gain_own"].to_dict(), rel=1e-4)
    assert mine["pool"].to_dict() == {"none": "undefended", "gaussian-blur[kernel=5]": "empirical deterministic",
                                      "median-smoothing[m=51,n=600]": "certified randomised"}  # fmt: skip
    cost = tracks[tracks["track"] == "efficiency"].set_index("defense")["value"].to_dict()
    assert cost == {"gaussian-blur[kernel=5]": 1, "median-smoothing[m=51,n=600]": 51}
    certified = tracks[tracks["track"] == "certified-l2"]
    assert (certified["rank"].tolist(), certified["eps"].tolist()) == ([1], [0.05])
    board = tables["board"].read_text()
    assert "## Tracks (rules 1)" in board
    assert "at linf 4/255 (provisional: `auto-iqa` did not run):" in board
