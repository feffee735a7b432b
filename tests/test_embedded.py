"""The embedded metric under attack, and (slow) the whole quick suite with what its board must show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Metric, Threat, load_dataset, load_metric, run_suite
from robustiqa.bench.measures import score_range
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense


@pytest.fixture(scope="module")
def tiny() -> Metric:
    return load_metric("tiny-iqa")


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """One version of each photograph, of different types."""
    photos = load_dataset("photos[subset=quick]")
    return torch.stack([photos.load(i) for i in (0, 6, 12, 18, 24)])


@pytest.fixture(scope="module")
def unit(tiny: Metric) -> float:
    photos = load_dataset("photos[subset=quick]")
    low, high = score_range(tiny(torch.stack([photos.load(i) for i in range(len(photos))])).numpy())
    return high - low


@pytest.mark.parametrize("name", ["tiny-iqa", "lip-iqa", "ibp-iqa"])
def test_it_is_registered_with_an_honest_declaration(name: str) -> None:
    assert registry.get("metric", name).meta == {
        "lower_better": False,
        "score_range": (0, 100),
        "bounded": False,
        "min_size": 64,
        "differentiable": True,
    }


def test_the_metric_is_attackable_as_real_ones_are(tiny, crops, unit) -> None:
    result = load_attack("pgd")(load_defense("none", tiny), crops, Linf(4 / 255))
    assert result.gain.mean() > 0.5 * unit
    assert result.gain_8bit.mean() > 0.5 * unit
    assert result.psnr.min() > 36


@pytest.mark.parametrize(("ours", "theirs", "threat"), [
    ("pgd", "torchattacks-pgd", Linf(4 / 255)),
    ("pgd", "torchattacks-pgdl2", L2(0.5)),
    ("pgd", "torchattacks-pgdl2", L2(0.05)),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("defense", ["none", "gaussian-blur"])
def test_ours_gains_at_least_what_torchattacks_does(tiny, crops, defense, ours, theirs, threat: Threat) -> None:
    g = load_defense(defense, tiny)
    mine, other = load_attack(ours)(g, crops, threat), load_attack(theirs)(g, crops, threat)
    assert mine.gain.mean() >= other.gain.mean()
    assert mine.backwards.tolist() == other.backwards.tolist()


def test_adaptive_attacks_beat_naive_ones(tiny, crops) -> None:
    """An image attacked through the defence gains more behind it than one attacked without knowing of it."""
    undefended = load_attack("pgd")(load_defense("none", tiny), crops, Linf(4 / 255)).adversarial
    for defense, adaptive in (("jpeg[quality=50]", "pgd"), ("median-smoothing[m=25]", "eot-pgd[draws=4]")):
        g = load_defense(defense, tiny)
        keys = [str(i) for i in range(len(crops))]
        naive = g.estimate(undefended, Streams.create(keys, Role.EVALUATION)).score
        clean = g.estimate(crops, Streams.create(keys, Role.EVALUATION)).score
        informed = load_attack(adaptive)(g, crops, Linf(4 / 255))
        assert informed.gain.mean() > (naive - clean).mean()


@pytest.mark.parametrize("defense", ["median-smoothing", "denoised-median-smoothing", "dms-iqa"])
def test_no_attack_leaves_the_certificate(tiny, crops, defense) -> None:
    g = load_defense(f"{defense}[sigma=0.12,n=300,m=51]", tiny)
    bound = g.certify(crops[:3], [0.12])
    for direction in ("up", "down"):
        result = load_attack("eot-pgd[draws=4]")(g, crops[:3], L2(0.12), direction)
        shift = np.abs(result.attacked.score - result.clean.score)
        assert np.all(shift > 0)
        assert np.all(shift <= bound.delta[:, 0])
        assert np.all(result.attacked.lo <= bound.hi[:, 0])
        assert np.all(result.attacked.hi >= bound.lo[:, 0])


@pytest.mark.slow
def test_the_quick_board(tmp_path: Path) -> None:
    result = run_suite("quick", tmp_path, progress=False)
    assert result.ok
    summary = pd.read_csv(result.tables["summary"]).set_index("defense")
    certified = pd.read_csv(result.tables["certified"])
    assert summary.loc["none", "worst_gain_mean"] > 0.5  # type: ignore[operator]
    assert summary["rank"].notna().all()
    assert set(certified["violations"]) == {0}
    population = certified[certified["kind"] == "population"]
    assert set(population["defense"].str.split("[").str[0]) == {"median-smoothing", "dms-iqa"}
    assert ((population["tightness_max"] > 0) & (population["tightness_max"] <= 1)).all()
    assert (population["certified_delta_mean"] < 1).all()
