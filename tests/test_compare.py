"""`robustiqa compare`: intervals and paired differences against known answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.cli.compare import compare as command
from robustiqa.bench.errors import UnknownName
from robustiqa.bench.logistic import fit_logistic
from robustiqa.bench.measures import srocc
from robustiqa.bench.registry import registry
from robustiqa.bench.store import Store
from robustiqa.bench.suite import load_suite
from robustiqa.leaderboard.compare import compare, paired
from scipy.stats import bootstrap, ttest_1samp


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plugins = Path(__file__).parent / "plugins"
    for kind, name, file in (("metric", "linear", "linear.py"), ("dataset", "noise", "tiny_bench.py")):
        if name not in registry.names(kind):
            registry.load_file(plugins / file)
    folder = tmp_path_factory.mktemp("compare")
    (folder / "small.yml").write_text(
        "schema: 1\nname: small\nmetrics: [linear]\ndatasets: ['noise[count=30]']\n"
        "defenses: [none, 'median-smoothing[sigma=0.2,n=200,m=11]', 'median-smoothing[sigma=0.4,n=200,m=11]']\n"
        "certify: {eps: [0.05], alpha: 0.01}\n"
    )
    run_suite(load_suite(str(folder / "small.yml")), folder / "out", progress=False)
    return folder / "out"


def test_a_mean_has_the_interval_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    table = pd.DataFrame({"v": values, "reference": [f"r{i}" for i in range(60)]})
    found = paired(table, lambda t: float(t["v"].mean()), "test")
    peer = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx(values.mean())
    assert found.lo == pytest.approx(peer.confidence_interval.low, abs=0.03)
    assert found.hi == pytest.approx(peer.confidence_interval.high, abs=0.03)
    assert found.p < 0.002


def test_few_photographs_give_students_interval() -> None:
    """The jackknife of a mean of groups of one image is the t-test."""
    values = np.random.default_rng(0).normal(0.4, 1, size=7)
    table = pd.DataFrame({"v": values, "reference": [f"r{i}" for i in range(7)]})
    found = paired(table, lambda t: float(t["v"].mean()), "test")
    peer: Any = ttest_1samp(values, 0)
    interval = peer.confidence_interval(0.95)
    assert (found.lo, found.hi, found.p) == pytest.approx((interval.low, interval.high, peer.pvalue))


@pytest.mark.parametrize("quality", [[1, 2, 3, 4], [1, 1, 1, 1, 5], [1, 2, 3]])
def test_too_few_images_give_no_p_value(quality: list[float]) -> None:
    """Leaving one out gives no number, or always the same: nothing is known of the spread."""
    n = len(quality)
    table = pd.DataFrame({"q": quality, "t": range(n), "reference": [f"r{i}" for i in range(n)]}).astype({"q": float})
    found = paired(table, lambda t: srocc(t["q"].to_numpy(), t["t"].to_numpy().astype(float)), "test")
    assert np.isfinite(found.value)
    assert np.isnan([found.lo, found.hi, found.p]).all()


def test_nearly_constant_scores_give_no_interval() -> None:
    quality = np.zeros(24)
    quality[:2] = 1
    table = pd.DataFrame({"q": quality, "t": np.arange(24.0), "reference": [f"r{i}" for i in range(24)]})
    assert np.isnan(paired(table, lambda t: srocc(t["q"].to_numpy(), t["t"].to_numpy()), "test").lo)


def test_images_of_one_photograph_are_drawn_together() -> None:
    """Ten copies of each of 30 values say no more than the values."""
    values = np.random.default_rng(0).normal(size=30)
    one = pd.DataFrame({"v": values, "reference": [f"r{i}" for i in range(30)]})
    ten = pd.DataFrame({"v": np.repeat(values, 10), "reference": [f"r{i}" for i in range(30) for _ in range(10)]})
    a, b = (paired(t, lambda t: float(t["v"].mean()), "test") for t in (one, ten))
    assert (a.lo, a.hi) == pytest.approx((b.lo, b.hi))


def test_no_difference_is_not_significant_and_a_real_one_is() -> None:
    rng = np.random.default_rng(0)
    null = []
    for trial in range(20):
        values = rng.normal(size=25)
        table = pd.DataFrame({"v": values, "reference": [f"r{i}" for i in range(25)]})
        null.append(paired(table, lambda t: float(t["v"].mean()), f"trial {trial}").p)
    assert np.mean(np.array(null) < 0.05) < 0.2
    shifted = pd.DataFrame({"v": rng.normal(1, 1, size=25), "reference": [f"r{i}" for i in range(25)]})
    assert paired(shifted, lambda t: float(t["v"].mean()), "shifted").p < 0.01


def test_a_run_is_compared_with_its_baseline(ran: Path) -> None:
    found = {
        (row["baseline"], row["defense"], row["measure"]): row
        for row in compare(ran, ["median-smoothing[sigma=0.4,n=200,m=11]"]).to_dict("records")
    }
    wide, narrow = "median-smoothing[m=11,n=200,sigma=0.4]", "median-smoothing[m=11,n=200,sigma=0.2]"
    rows = Store(ran).read_rows(Store(ran).snapshot().results)
    for defense in ("none", narrow):
        score = rows[(rows["kind"] == "score") & (rows["defense"] == defense)]
        truth = score["truth"].astype(float).to_numpy()
        assert found["", defense, "srocc"]["value"] == pytest.approx(srocc(score["clean"].to_numpy(), truth))
        for name, parameters, figure in (("plcc_logistic", 4, 0), ("rmse_logistic", 4, 1), ("plcc_logistic5", 5, 0)):
            fit = fit_logistic(score["clean"].to_numpy(), truth, parameters)  # type: ignore[arg-type]
            # The order of the images is another one here: the same curve but for rounding.
            assert found["", defense, name]["value"] == pytest.approx(fit[figure], abs=1e-4, nan_ok=True)
            assert found["", defense, name]["note"] == fit.reason
    own = {defense: found["", defense, "srocc"]["value"] for defense in (narrow, wide)}
    assert found[wide, narrow, "srocc"]["value"] == pytest.approx(own[narrow] - own[wide])
    ratio = found[wide, narrow, "delta@l2:0.05"]
    deltas = [found["", defense, "delta@l2:0.05"]["value"] for defense in (narrow, wide)]
    assert ratio["value"] == pytest.approx(deltas[0] / deltas[1])
    assert ratio["lo"] < ratio["value"] < ratio["hi"] < 1, "less noise, less sampling error around eps |w|"
    assert ratio["p"] < 0.01
    assert (wide, "none", "delta@l2:0.05") not in found
    assert all(row["p"] > 0 for (baseline, _, _), row in found.items() if baseline)


def test_command(ran: Path) -> None:
    result = CliRunner().invoke(command, [str(ran), "--csv"])
    assert result.exit_code == 0
    assert result.output.startswith("metric,dataset,defense,baseline,measure,value,lo,hi,p,n,n_planned,note\n")
    shown = CliRunner().invoke(command, [str(ran)]).output
    assert "delta@l2:0.05" in shown
    assert "nan" not in shown
    assert re.search(r"\| - +\|", shown), "the p of a figure without a baseline"
    with pytest.raises(UnknownName, match="defence of this run"):
        compare(ran, ["jpeg"])
