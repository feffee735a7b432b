"""Attacks on whole sets, and the transfer matrix, against what a linear metric allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.matrix import OTHERS, transfer_matrix
from robustiqa.attacks.setlevel import Towards, _known, attack_set, soft_ranks, target_scores
from robustiqa.bench import Metric, load_dataset, load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import Dataset, Item
from robustiqa.bench.errors import BadData, BadParameter, BadScore, Incompatible
from robustiqa.bench.images import save_png
from robustiqa.bench.measures import krocc, plcc, srocc
from robustiqa.defenses import load_defense
from robustiqa.leaderboard.setlevel import correlations
from robustiqa.leaderboard.transfer import summarise
from scipy.stats import rankdata
from torch import nn

PLUGIN = str(Path(__file__).parent / "plugins" / "linear.py")
QUICK = "photos[size=128,subset=quick]"


class Listed(Dataset):
    """Images from a list; one reference each; the truth is their place in it."""

    def __init__(self, images: Sequence[torch.Tensor]) -> None:
        self.images = images
        self.items = [Item(f"image-{i}", f"image-{i}", float(i)) for i in range(len(images))]

    def load(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def listed() -> Listed:
    """Nine images of three sizes in [0.3, 0.7]: small budgets do not meet the box."""
    generator = torch.Generator().manual_seed(3)
    sizes = [(20, 24), (24, 20), (32, 32)]
    return Listed([0.3 + 0.4 * torch.rand(3, *sizes[i % 3], generator=generator) for i in range(9)])


class Weighted(nn.Module):
    """<w, x> with w the linear plug-in's weights on every second column, so that sources share half of them."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.w = sign * load_metric("linear").module.get_buffer("w").clone()
        self.w[..., ::2] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.w[:, : x.shape[2], : x.shape[3]]).sum((1, 2, 3))


# --- stage 1


def test_soft_ranks_become_the_ranks() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 1.0, 7.5], dtype=torch.float64)
    assert np.allclose(soft_ranks(values, 1e-3).numpy(), rankdata(values.numpy()))
    assert torch.allclose(soft_ranks(values, 1e6), torch.full((5,), 3.0).double(), atol=1e-4)
    leaf = values.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: soft_ranks(v, 1.0), leaf)


@pytest.mark.parametrize("n", [3, 25])
def test_targets_reverse_the_order_and_spread(n) -> None:
    quality = np.random.default_rng(n).uniform(20, 85, n)
    targets = target_scores(quality)
    assert srocc(targets, quality) == -1
    assert len(set(targets)) == n
    assert quality.min() <= targets.min() <= targets.max() <= quality.max()
    assert targets.std() >= quality.std(), "the loss rewards variance"
    assert np.square(targets - quality).mean() >= np.square((quality.min() + quality.max() - quality) - quality).mean()
    assert np.array_equal(targets, target_scores(quality)), "nothing is drawn"


def test_targets_scale_with_the_qualities() -> None:
    quality = np.random.default_rng(1).uniform(0, 1, 7)
    assert np.allclose(target_scores(50 * quality - 3), 50 * target_scores(quality) - 3)


# --- stage 2


@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255)], ids=str)
@pytest.mark.parametrize("side", [1, -1])
def test_targets_within_reach_are_hit(linear, images, threat, side) -> None:
    w = linear.module.weights(images).double()
    reach = threat.eps * float(w.norm() if threat.norm == "l2" else w.abs().sum())
    g = load_defense("none", linear)
    x = images[:1]
    for share, expected in ((0.37, 0.37), (3.0, 1.0)):
        target = float(g.estimate(x).score[0]) + side * share * reach
        result = Towards(target)(g, x, threat)
        assert float(result.gain[0]) == pytest.approx(side * expected * reach, rel=1e-3)
        used = result.l2 if threat.norm == "l2" else result.linf
        assert used[0] <= threat.eps * (1 if share > 1 else 0.4), "no farther than it has to go"


def test_no_step_is_longer_than_asked(linear, images) -> None:
    far = Towards(1e6, steps=10, step=0.05)(load_defense("none", linear), images[:1], Linf(4 / 255))
    assert far.linf[0] == pytest.approx(0.5 * 4 / 255, rel=1e-4)


def test_targets_are_qualities(images) -> None:
    """Where smaller is better a target above the clean quality lowers the score."""
    g = load_defense("none", load_metric("linear-dmos"))
    quality = -float(g.estimate(images[:1]).score[0])
    result = Towards(quality + 0.1)(g, images[:1], L2(0.5))
    assert float(result.attacked.score[0]) == pytest.approx(-quality - 0.1, abs=1e-4)


def test_randomised_defences_are_led_to_the_target() -> None:
    """The point whose median over the selection draws is nearest counts, not the one with the highest score."""
    g = load_defense("median-smoothing[n=200,m=15]", load_metric("tiny-iqa"))
    x = load_dataset(QUICK).load(0)[None, :, :64, :64]
    clean = float(g.estimate(x).score[0])
    result = Towards(clean - 10.0, steps=8, draws=4)(g, x, L2(1.0))
    assert abs(float(result.attacked.score[0]) - (clean - 10.0)) < 5.0


def test_targets_are_not_made_from_the_draws_that_judge(images) -> None:
    g = load_defense("median-smoothing[n=100,m=3]", load_metric("linear"))
    data = Listed(list(images))
    known = [_known(g, data, i, 0, "cpu") for i in range(3)]
    judged = g.estimate(images).score
    assert all(a != b for a, b in zip(known, judged, strict=True))
    assert known == [_known(g, data, i, 0, "cpu") for i in range(3)]


# --- sets


@pytest.mark.parametrize(("metric", "threat"), [
    ("linear", L2(2.0)), ("linear", Linf(0.1)), ("linear-dmos", L2(2.0)),
], ids=str)  # fmt: skip
def test_what_is_within_reach_is_reversed_exactly(listed, metric, threat) -> None:
    g = load_defense("none", load_metric(metric))
    table = attack_set(g, listed, threat)
    assert srocc(table["attacked"].to_numpy(), table["clean"].to_numpy()) == -1
    assert np.allclose(table["attacked"], table["target"], atol=1e-4)
    assert (table[threat.norm] <= threat.eps).all()
    assert list(table["image"]) == [item.id for item in listed.items]
    scores = np.array([float(g.metric(image[None])) for image in listed.images])
    assert np.allclose(table["clean"], g.metric.sign * scores, atol=1e-5), "qualities, not scores"
    again = attack_set(g, listed, threat)
    assert table.drop(columns="seconds").equals(again.drop(columns="seconds"))


def test_opposite_raises_the_lower_half_and_lowers_the_rest(listed, linear) -> None:
    g, eps = load_defense("none", linear), 0.01
    table = attack_set(g, listed, Linf(eps), "opposite")
    reach = np.array([eps * float(linear.module.weights(i[None]).abs().sum()) for i in listed.images])  # type: ignore[operator]
    up = table["clean"] <= table["clean"].median()
    assert np.allclose(table["attacked"] - table["clean"], np.where(up, reach, -reach), rtol=1e-3)
    assert up.sum() == 5


def test_out_of_reach_both_do_the_same(listed, linear) -> None:
    """Within a tiny budget the targets only say which way to go; all that differs is the image in the middle."""
    g = load_defense("none", linear)
    sma, opposite = (attack_set(g, listed, Linf(1e-4), method) for method in ("sma", "opposite"))
    same = np.isclose(sma["attacked"], opposite["attacked"], atol=1e-5)
    assert same.sum() >= 8


def test_cost_is_what_the_metric_saw(listed) -> None:
    metric = load_metric("counting")
    table = attack_set(load_defense("none", metric), listed, L2(2.0), steps=4)
    judged = 3 * len(listed)  # clean, attacked, and attacked as 8-bit file
    # The last of the 5 points has no gradient: the base asks for its score.
    assert int(table["forwards"].sum()) + judged == metric.module.seen
    assert (table["backwards"] == 4).all()


def test_an_image_that_is_too_small_is_left_out_and_told(listed, tmp_path: Path) -> None:
    metric = load_metric("linear-64")
    large = [torch.rand(3, 64, 70, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    data = Listed([*large[:2], torch.full((3, 40, 64), 0.5), *large[2:]])
    table = attack_set(load_defense("none", metric), data, L2(0.5))
    assert table["image"].tolist() == ["image-0", "image-1", "image-3", "image-4"]
    assert len(table.attrs["left_out"]) == 1
    assert "image-2" in table.attrs["left_out"][0]
    with pytest.raises(BadData, match="only 2 can be scored"):
        attack_set(load_defense("none", metric), Listed([*large[:2], torch.full((3, 40, 64), 0.5)]), L2(0.5))


def test_what_cannot_be_attacked_is_said(listed, linear, images) -> None:
    g = load_defense("none", linear)
    with pytest.raises(BadData, match="at least 3"):
        attack_set(g, Listed(listed.images[:2]), L2(0.5))
    with pytest.raises(BadData, match="no order"):
        attack_set(g, Listed([images[0]] * 3), L2(0.5))
    bright = Listed([images[0], images[0] * 0 + 0.9, images[1]])
    with pytest.raises(BadScore, match="image-1"):
        attack_set(load_defense("none", load_metric("bright-nan")), bright, L2(0.5))
    with pytest.raises(BadParameter, match="sma or opposite"):
        attack_set(g, listed, L2(0.5), "other")  # type: ignore[arg-type]
    with pytest.raises(Incompatible, match="gradient"):
        attack_set(load_defense("none", load_metric("no-gradient")), listed, L2(0.5))


def test_correlations_are_those_of_the_table(listed, linear) -> None:
    table = attack_set(load_defense("none", linear), listed, Linf(0.002))
    found = correlations(table).set_index(["measure", "to", "when"])
    for name, measure in (("srocc", srocc), ("krocc", krocc), ("plcc", plcc)):
        for to in ("truth", "clean"):
            expected = measure(table["attacked"].to_numpy(), table[to].to_numpy())
            assert found.loc[(name, to, "after"), "value"] == pytest.approx(expected)
        before = measure(table["clean"].to_numpy(), table["truth"].to_numpy())
        assert found.loc[(name, "truth", "before"), "value"] == pytest.approx(before)
    assert found["lo"].min() >= -1
    assert found["hi"].max() <= 1
    unrated = correlations(table.assign(truth=np.nan))
    assert set(unrated["to"]) == {"clean"}


# --- transfer matrix


@pytest.fixture(scope="module")
def three() -> list[Metric]:
    """The linear metric, the same where smaller is better, and one that shares half of its weights."""
    half = Metric(Weighted(1.0), "half")
    return [load_metric("linear"), load_metric("linear-dmos"), half]


@pytest.mark.parametrize("threat", [L2(0.4), Linf(4 / 255)], ids=str)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_matrix_is_what_the_weights_say(listed, three, threat, direction) -> None:
    metrics = [load_defense("none", m) for m in three]
    found = transfer_matrix(metrics, listed, threat, direction)
    gains = found.gains.set_index(["image", "source", "target"])["gain"]
    scores = {m.spec: [float(m(image[None])) for image in listed.images] for m in three}
    half = three[2].module
    for i, image in enumerate(listed.images):
        w = three[0].module.weights(image[None])  # type: ignore[operator]
        upwards = {"linear": w, "linear-dmos": -w, "half": half.w[:, : image.shape[1], : image.shape[2]]}
        for target in upwards:
            low, high = np.percentile(scores[target], [1, 99])
            assert found.units[target] == pytest.approx(high - low, rel=1e-5)
            for source in (*upwards, OTHERS):
                chosen = [upwards[source]] if source != OTHERS else [v for k, v in upwards.items() if k != target]
                if threat.norm == "linf":
                    step = sum(v.sign() for v in chosen).sign()  # type: ignore[union-attr]
                else:
                    total = sum(v / v.norm() for v in chosen)
                    step = total / max(float(total.norm()), 1e-12)  # type: ignore[union-attr]
                if target == "half" and source == OTHERS:
                    step = torch.zeros_like(w)  # linear and linear-dmos cancel
                moved = threat.eps * float((step * upwards[target]).sum()) / (high - low)
                expected = moved if direction == "up" else -moved
                assert gains[f"image-{i}", source, target] == pytest.approx(expected, rel=2e-3, abs=1e-4)


def test_a_row_is_what_the_transfer_attack_gains() -> None:
    """On real networks, too: the same images, so the same scores."""
    names = ["tiny-iqa", "lip-iqa"]
    metrics = [load_defense("none", load_metric(name)) for name in names]
    data = load_dataset(QUICK)
    two = Listed([data.load(0)[:, :64, :64], data.load(5)[:, :64, :64]])
    found = transfer_matrix(metrics, two, Linf(4 / 255))
    gains = found.gains.set_index(["image", "source", "target"])["gain"]
    assert set(found.gains["source"]) == set(names), "of two metrics, all others are the other one"
    for source in names:
        for g in metrics:
            result = load_attack(f"transfer[source={source}]")(g, torch.stack(list(two.images)), Linf(4 / 255))
            unit = found.units[g.metric.spec]
            for i in range(2):
                assert gains[f"image-{i}", source, g.metric.spec] == pytest.approx(result.gain[i] / unit, abs=1e-4)


def test_images_too_small_for_one_metric_are_left_out_of_all(listed, linear) -> None:
    large = Metric(Weighted(1.0), "large", min_size=22)
    metrics = [load_defense("none", m) for m in (linear, large)]
    found = transfer_matrix(metrics, listed, L2(0.1))
    assert found.left_out == [f"image-{i}" for i in (0, 1, 3, 4, 6, 7)]
    assert set(found.gains["image"]) == {"image-2", "image-5", "image-8"}
    with pytest.raises(BadData, match="22 px"):
        transfer_matrix(metrics, Listed(listed.images[:2]), L2(0.1))


def test_matrices_that_make_no_sense_are_named(listed, linear) -> None:
    g = load_defense("none", linear)
    for metrics in ([], [g], [g, g]):
        with pytest.raises(BadParameter, match="two or more"):
            transfer_matrix(metrics, listed, L2(0.1))
    other = load_defense("none", load_metric("no-gradient"))
    with pytest.raises(Incompatible, match="no-gradient"):
        transfer_matrix([g, other], listed, L2(0.1))
    with pytest.raises(BadScore, match="unit"):
        transfer_matrix([g, load_defense("none", load_metric("linear-dmos"))], Listed(listed.images[:1]), L2(0.1))


def test_means_are_those_of_the_images() -> None:
    gains = pd.DataFrame({
        "image": ["a", "b"] * 2, "reference": ["a", "b"] * 2, "source": ["s"] * 2 + ["r"] * 2, "target": ["t"] * 4,
        "gain": [0.1, 0.3, -1.0, -2.0],
    })  # fmt: skip
    table = summarise(gains)
    assert list(table["source"]) == ["s", "r"]
    assert np.allclose(table["gain"], [0.2, -1.5])
    assert (table["lo"] <= table["gain"]).all()
    assert list(table["n"]) == [2, 2]


# --- command line


def test_attack_set_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "tables" / "set.csv"
    arguments = ["attack-set", "--metric", "linear", "--plugin", PLUGIN, "--dataset", QUICK, "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert len(table) == 25
    assert (table["linf"] <= 0.005).all()
    after = srocc(table["attacked"].to_numpy(), table["clean"].to_numpy())
    line = next(x for x in result.output.splitlines() if "srocc" in x and "clean scores" in x)
    assert f"{after:.3f}" in line
    assert "pseudo-MOS (SSIM)" in result.output
    failed = CliRunner().invoke(cli, [*arguments[:5], "--dataset", "photos[size=999]"])
    assert failed.exit_code == 1
    assert "expected 128 or 256" in failed.output


def test_transfer_matrix_on_the_command_line(tmp_path: Path, listed: Listed) -> None:
    out = tmp_path / "matrix.csv"
    for item, image in zip(listed.items[:3], listed.images[:3], strict=True):
        save_png(image, tmp_path / "images" / f"{item.id}.png")
    result = CliRunner().invoke(cli, [
        "transfer-matrix", "--metrics", "linear[scale=1,offset=2],linear-dmos,ranged", "--plugin", PLUGIN,
        "--dataset", f"folder[root={tmp_path / 'images'}]", "--out", str(out), "--norm", "l2", "--eps", "0.1",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert len(table) == 3 * 12
    assert "ranged 2" in result.output, "the length of the declared range"
    cell = table[(table["source"] == "linear-dmos") & (table["target"] == "ranged")]["gain"].mean()
    assert f"{cell:.3f}" in next(x for x in result.output.splitlines() if x.startswith("| linear-dmos"))
