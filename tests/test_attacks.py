"""Attacks against closed forms, independent implementations, and the rules of the loop that they run in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Attack, Linf, load_attack
from robustiqa.attacks.apgd import checkpoints
from robustiqa.attacks.auto import members
from robustiqa.attacks.base import Candidate
from robustiqa.attacks.quantised import whole_levels
from robustiqa.attacks.square import _blob, _overlap
from robustiqa.bench import Threat, load_dataset, load_metric
from robustiqa.bench import objective as objective_module
from robustiqa.bench.api import Direction
from robustiqa.bench.errors import BadParameter, BadScore, Incompatible, UnknownName
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import image_keys
from robustiqa.defenses import load_defense
from scipy.special import betainc
from scipy.stats.mstats import hdquantiles
from support import optimum

GRADIENT = ["i-fgsm", "mi-fgsm", "ni-fgsm", "vmi-fgsm", "di-fgsm[chance=0]", "apgd", "apgd[steps=5,restarts=2]",
            "transfer", "transfer[source=linear;linear]", "auto-iqa"]  # fmt: skip
QUERY = ["square[queries=120]", "nes[queries=120,pairs=5]", "spsa[queries=120,pairs=5]"]
RANDOMISED = "median-smoothing[n=200,m=7]"


@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255)], ids=str)
@pytest.mark.parametrize("attack", GRADIENT)
def test_gradient_attacks_reach_the_optimum_of_a_linear_metric(linear, images, attack, threat) -> None:
    signs: dict[Direction, int] = {"up": 1, "down": -1}
    for direction, sign in signs.items():
        result = load_attack(attack)(load_defense("none", linear), images, threat, direction)
        share = sign * result.gain / optimum(linear, images, threat)
        assert share.min() >= 0.99
        assert share.max() <= 1 + 1e-4


@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255), Linf(0.5), L2(30.0)], ids=str)
@pytest.mark.parametrize("attack", [*GRADIENT, "di-fgsm", "quantised-pgd", *QUERY])
def test_budget_and_box_are_kept(linear, images, attack, threat) -> None:
    result = load_attack(attack)(load_defense("none", linear), images, threat)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.all(used <= threat.eps)
    assert np.all(used > 0)
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1


@pytest.mark.parametrize("defense", ["none", RANDOMISED])
@pytest.mark.parametrize(
    "attack",
    [
        "mi-fgsm",
        "di-fgsm",
        "vmi-fgsm",
        "apgd[steps=5]",
        "quantised-pgd[steps=5]",
        "minimal-eps[target=0.7,rounds=3]",
        "stadv[steps=3]",
        "korhonen-you",
        "madc",
        "ssah[steps=3]",
        *QUERY,
    ],
)
def test_an_image_in_a_batch_fares_as_it_does_alone(linear, images, attack, defense) -> None:
    g, attacker = load_defense(defense, linear), load_attack(attack)
    together = attacker(g, images, L2(0.5))
    for i in range(len(images)):
        alone = attacker(g, images[i : i + 1], L2(0.5))
        assert torch.allclose(alone.adversarial[0], together.adversarial[i], atol=1e-5)
        assert (alone.forwards[0], alone.queries[0]) == (together.forwards[i], together.queries[i])


def test_each_image_may_have_a_budget_of_its_own(linear, images) -> None:
    budgets = [0.1, 0.0, 0.5]
    for defense in ("none", RANDOMISED):
        g, attacker = load_defense(defense, linear), load_attack("eot-pgd[steps=5]")
        result = attacker.each(g, images, [L2(eps) for eps in budgets])  # type: ignore[attr-defined]
        assert np.allclose(result.l2, budgets, atol=1e-5)
        for i, eps in enumerate(budgets):
            alone = attacker(g, images[i : i + 1], L2(eps))
            assert torch.equal(alone.adversarial[0], result.adversarial[i])
            assert (alone.gain[0], alone.forwards[0]) == (result.gain[i], result.forwards[i])
            assert alone.attacked.hi[0] == result.attacked.hi[i]
        assert np.allclose(result.gain, [optimum(linear, images, L2(eps)) for eps in budgets], rtol=0.1, atol=1e-3)
    with pytest.raises(BadParameter, match="2 threats for 3 images"):
        attacker.each(g, images, [L2(0.1)] * 2)  # type: ignore[possibly-undefined]


def test_marks_of_auto_pgd_are_those_of_the_paper() -> None:
    """22 %, then by 3 % less each time, at least 6 %: for 100 steps as the authors' code has them."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99, 105]


def test_auto_pgd_finds_the_step_size_that_a_bowl_needs() -> None:
    """On -|x - c|^2 with c inside the ball the maximum is c itself: steps have to shrink to get there."""
    metric, x = load_metric("bowl"), torch.full((2, 3, 16, 16), 0.5)
    g, distance = load_defense("none", metric), 0.3 * 768**0.5 / 10
    for steps, reached in ((10, 0.9), (100, 0.9999)):
        result = load_attack(f"apgd[steps={steps}]")(g, x, L2(3 * distance))
        assert np.all(result.gain >= reached * distance**2)


# --- transfer, whole grey levels, the standard worst case


def test_transfer_asks_the_attacked_metric_nothing(images) -> None:
    metric = load_metric("counting")
    g = load_defense("none", metric)
    clean = g.estimate(images)
    metric.module.seen = 0  # type: ignore[assignment]
    result = load_attack("transfer[source=linear-dmos,steps=5]")(g, images, L2(0.5), clean=clean)
    assert metric.module.seen == 2 * len(images), "only the final scores, float and 8-bit"
    assert result.backwards.tolist() == [5, 5, 5]
    # `linear-dmos` is the same function with the opposite sense: raising its quality lowers this one's.
    assert np.allclose(result.gain, -optimum(metric, images, L2(0.5)), rtol=1e-3)


def test_a_source_that_there_is_not_is_told_at_once() -> None:
    with pytest.raises(UnknownName, match="nope"):
        load_attack("transfer[source=linear;nope]")


def test_opposed_sources_cancel(linear, images) -> None:
    result = load_attack("transfer[source=linear;linear-dmos]")(load_defense("none", linear), images, Linf(0.1))
    assert torch.equal(result.adversarial, images)


@pytest.mark.parametrize("threat", [Linf(4 / 255), Linf(4.4 / 255), L2(0.5), L2(0.05)], ids=str)
def test_quantised_results_survive_saving(linear, images, threat) -> None:
    x = (images * 255).round() / 255
    result = load_attack("quantised-pgd")(load_defense("none", linear), x, threat)
    # Shrinking to the last bit of the budget moves a value by less than a millionth.
    assert torch.allclose((result.adversarial * 255).round() / 255, result.adversarial, atol=1e-6)
    assert np.allclose(result.gain, result.gain_8bit, atol=1e-4)
    w = linear.module.weights(images).double()
    if threat.norm == "linf":
        best = 4 / 255 * float(w.abs().sum())
    else:  # k values moved by a level each: the largest weights win
        k = int((threat.eps * 255) ** 2)
        best = float(w.abs().flatten().sort(descending=True).values[:k].sum()) / 255
    assert np.all(result.gain >= 0.9 * best)
    assert np.all(result.gain <= (1 + 1e-4) * optimum(linear, x, threat))


def test_rounding_leaves_the_ball_of_an_image_between_levels(images) -> None:
    """Where no whole level lies within eps the value stays."""
    x = torch.full((1, 3, 4, 4), 100.5 / 255)
    near = whole_levels(x + 0.1, x, Linf(0.4 / 255))
    assert torch.equal(near, x)
    assert torch.equal(whole_levels(x + 0.1, x, L2(1e-4)), x)


@pytest.mark.parametrize("threat", [L2(0.05), pytest.param(Linf(0.2 / 255), marks=pytest.mark.slow)], ids=str)
def test_auto_iqa_is_as_strong_as_each_of_its_members(threat) -> None:
    """Image by image, at budgets that leave the scores inside the declared range."""
    metric = load_metric("tiny-iqa")
    data = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, :64, :64] for i in (0, 10)])
    g = load_defense("none", metric)
    together = load_attack("auto-iqa")(g, x, threat)
    for member in members(g):
        assert np.all(together.gain >= member(g, x, threat).gain - 1e-4), member.spec


def test_auto_iqa_stops_where_there_is_no_room(images) -> None:
    """The first member drives `clamped` to the end of the range that it promises to keep: the others do not run."""
    g = load_defense("none", load_metric("clamped"))
    near, far = (load_attack("auto-iqa")(g, images, L2(eps)) for eps in (0.01, 3.0))
    assert far.forwards.max() < 110 < near.forwards.min()
    assert far.queries.max() == 0
    assert np.all(near.queries == 1000)
    assert np.allclose(far.attacked.score, 4.0)


def test_a_range_that_is_merely_declared_is_no_end(images) -> None:
    result = load_attack("auto-iqa")(load_defense("none", load_metric("ranged")), images, L2(3.0))
    assert np.all(result.attacked.score > 4.5)
    assert np.all(result.queries == 1000)


def test_auto_iqa_on_a_metric_without_gradient_is_its_black_box_part(images) -> None:
    g = load_defense("none", load_metric("no-gradient"))
    result = load_attack("auto-iqa")(g, images, L2(0.3))
    assert result.queries.tolist() == [1000, 1000, 1000]
    assert np.all(result.gain > 0)
    assert np.all(result.backwards == 0)
    with pytest.raises(Incompatible, match="black-box"):
        load_attack("apgd")(g, images, L2(0.3))


def test_auto_iqa_is_not_weaker_than_its_plainest_member() -> None:
    """Paired over images: the choice between members may cost a little noise, not more."""
    metric, data = load_metric("tiny-iqa"), load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 10, 20)])
    g = load_defense("median-smoothing[sigma=0.12,n=50,m=31]", metric)
    auto, plain = (load_attack(a)(g, x, L2(0.12)).gain for a in ("auto-iqa", "eot-pgd[steps=20]"))
    assert np.mean(auto - plain) >= -0.05 * np.mean(plain)


def test_auto_pgd_does_not_go_back_to_lucky_draws() -> None:
    """On a randomised defence its steps are halved less often than always, and it climbs as far as PGD with EOT."""
    metric, data = load_metric("tiny-iqa"), load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 10, 20)])
    g = load_defense("median-smoothing[sigma=0.12,n=50,m=31]", metric)
    apgd, plain = (load_attack(a)(g, x, L2(0.5)).gain.mean() for a in ("apgd", "eot-pgd[steps=20]"))
    assert apgd >= 0.9 * plain


def test_quantised_steps_stop_inside_the_ball(images) -> None:
    """On `bowl` the maximum lies well inside: the result is not blown up to the sphere."""
    x = torch.full((2, 3, 16, 16), 128 / 255)
    best = float(((0.53 - 128 / 255) ** 2) * 768)
    result = load_attack("quantised-pgd[steps=60]")(load_defense("none", load_metric("bowl")), x, L2(3.0))
    assert np.all(result.gain >= 0.9 * best)
    assert np.all(result.l2 < 1.5)
    near = whole_levels(x + 0.01, x, L2(3.0))
    assert float((near - x).flatten(1).norm(dim=1).max()) <= 0.01 * 768**0.5 + 1e-6


def test_forwards_are_what_the_metric_saw(images) -> None:
    """A deterministic defence of several forwards counts them, in gradients too."""
    metric = load_metric("counting")
    g = load_defense("fixed-noise-median-smoothing[m=11]", metric)
    clean = g.estimate(images)
    for attack in ("pgd[steps=5]", "apgd[steps=5]", "mi-fgsm[steps=5]"):
        metric.module.seen = 0  # type: ignore[assignment]
        result = load_attack(attack)(g, images, L2(0.5), clean=clean)
        assert metric.module.seen - 2 * 3 * 11 == result.forwards.sum()


def test_draws_that_are_kept(linear, images) -> None:
    """`fixed` takes the same draws again and leaves the stream where it is."""
    keys = image_keys(images)
    g = load_defense(RANDOMISED, linear)
    objective, other = Objective(g, keys), Objective(g, keys)
    first, again = (objective.gradient(images, 4, fixed=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, other.gradient(images, 4)[0])
    assert not torch.equal(first, other.gradient(images, 4)[0])
    kept = load_attack("eot-pgd[fixed=true]")(g, images, L2(0.5))
    assert np.allclose(kept.gain, optimum(linear, images, L2(0.5)), rtol=0.02)


# --- scores only


def test_windows_of_square_shrink_as_in_the_paper() -> None:
    """The share of pixels is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    attack: Any = load_attack("square[p=0.8]")
    sides = [attack._side(t / 10_000, 300, 300) for t in (9, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)]
    assert sides == [round((0.8 / 2**k * 90_000) ** 0.5) for k in range(10)]


@pytest.mark.parametrize("attack", QUERY)
def test_queries_are_what_was_asked_for(images, attack) -> None:
    """Counted by the metric itself, for a deterministic and a randomised defence."""
    for defense, each in (("none", 1), (RANDOMISED, 7)):
        metric = load_metric("counting")
        g, attacker = load_defense(defense, metric), load_attack(attack)
        clean = g.estimate(images)
        metric.module.seen = 0  # type: ignore[assignment]
        result = attacker(g, images, L2(0.5), clean=clean)
        final = 2 * 3 * each  # the result, float and 8-bit
        assert metric.module.seen - final == result.forwards.sum() == each * result.queries.sum()
        assert np.all((result.queries <= 120) & (result.queries > 100))
        assert np.all(result.backwards == 0)


def test_natural_evolution_finds_the_share_of_the_optimum_that_its_queries_allow(linear, images) -> None:
    """The mean of K Gaussian directions, each weighted by its slope, has the cosine sqrt(K / (K + d + 1)) to w."""
    k, d = 400, images[0].numel()
    result = load_attack(f"nes[queries={2 * k + 1},pairs={k},step=1,momentum=0]")(
        load_defense("none", linear), images, L2(0.3)
    )
    share = result.gain / optimum(linear, images, L2(0.3))
    assert share.mean() == pytest.approx((k / (k + d + 1)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255)], ids=str)
@pytest.mark.parametrize("attack", ["square[queries={}]", "nes[queries={},pairs=5]", "spsa[queries={},pairs=5]"])
def test_more_queries_find_more(linear, images, attack, threat) -> None:
    g = load_defense("none", linear)
    few, many = (load_attack(attack.format(q))(g, images, threat).gain.mean() for q in (100, 1500))
    noise = load_attack("random-noise[tries=20]")(g, images, threat).gain.mean()
    assert many > 1.5 * few
    assert many > noise
    assert many <= optimum(linear, images, threat) * (1 + 1e-4)


def test_square_in_l2_spends_the_whole_budget(linear, images) -> None:
    result = load_attack("square[queries=400]")(load_defense("none", linear), images, L2(0.5))
    assert np.allclose(result.l2, 0.5, rtol=0.01), "less only where the box binds"


def test_blobs_are_a_bump_and_its_negative() -> None:
    for side in (2, 5, 8):
        blob = _blob(side)
        assert blob.shape == (side, side)
        assert blob[: side // 2].min() > 0 > blob[side // 2 :].max()
        assert blob.square().sum() == pytest.approx(2.0)
        assert blob[(side // 2) // 2].argmax() == side // 2, "the peak is in the middle"


def test_overlapping_windows_count_their_mass_once() -> None:
    delta = torch.arange(3 * 36.0).view(3, 6, 6)
    both = delta[:, 2:4, 1:4].square().sum((1, 2))
    assert torch.equal(_overlap(delta, (0, 0), (2, 1), 4), both)
    assert torch.equal(_overlap(delta, (0, 0), (3, 3), 3), torch.zeros(3))


def test_a_greedy_attack_is_stopped_at_its_budget(linear, images) -> None:
    """The objective counts, not the attack; what was found before is kept."""

    class Greedy(Attack):
        spec, white_box, queries = "greedy", False, 7

        def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
            for k in range(1000):
                z = (x + 1e-3 * min(k, 20)).clamp(0, 1)
                yield Candidate(z, objective.query(z))

    result = Greedy()(load_defense("none", linear), images, Linf(0.1))
    assert result.queries.tolist() == result.forwards.tolist() == [7, 7, 7]
    assert np.all(result.linf <= 6.1e-3)


@pytest.mark.parametrize("text", [
    "square[queries=0]", "square[p=0]", "nes[queries=10]", "spsa[sigma=0]", "apgd[steps=0]", "apgd[centre=median]",
    "mi-fgsm[momentum=-1]", "di-fgsm[shrink=0]", "vmi-fgsm[neighbours=0]", "i-fgsm[draws=0]", "nes[momentum=1]",
])  # fmt: skip
def test_impossible_settings_are_named(text) -> None:
    with pytest.raises(BadParameter, match=r"expected|takes 41 queries"):
        load_attack(text)


# --- the objective


def test_a_part_of_an_objective_shares_streams_and_counts(linear, images) -> None:
    keys = image_keys(images)
    g = load_defense(RANDOMISED, linear)
    whole, other = Objective(g, keys), Objective(g, keys)
    expected, _ = other.gradient(images, 4)
    again, _ = other.gradient(images, 4)
    view = whole.part([0, 2])
    first, _ = view.gradient(images[[0, 2]], 4)
    second, _ = view.part([1]).gradient(images[[2]], 4)
    assert torch.allclose(first, expected[[0, 2]])
    assert torch.allclose(second, again[[2]])
    assert whole.backwards.tolist() == [4, 0, 8]


def test_kernel_weights_follow_silverman(linear, images) -> None:
    """The value is the average of the draws under a Gaussian kernel at their median, computed here with numpy."""
    keys = image_keys(images)
    g = load_defense(RANDOMISED, linear)
    objective = Objective(g, keys)
    with torch.no_grad():
        scores = g.surrogate(images, objective.search_streams.fork(), 15).double().numpy()
    value, gradient = objective.gradient(images, 15, centre="kernel")
    q1, median, q3 = np.quantile(scores, [0.25, 0.5, 0.75], axis=0)
    h = 0.9 * np.minimum(scores.std(axis=0, ddof=1), (q3 - q1) / 1.34) * 15**-0.2
    weights = np.exp(-(((scores - median) / h) ** 2) / 2)
    expected = (weights * scores).sum(0) / weights.sum(0)
    assert np.allclose(value.numpy(), expected, rtol=1e-5)
    assert abs(value.numpy() - median).max() < abs(scores - median).max() / 3
    assert torch.allclose(gradient, linear.module.weights(images).expand_as(images), atol=1e-5)  # type: ignore[operator]
    assert objective.forwards.tolist() == [15, 15, 15]


def test_soft_median_is_that_of_scipy(linear, images) -> None:
    """The value is the quantile of Harrell and Davis as scipy computes it, the gradient has the same weights."""
    keys = image_keys(images)
    metric = load_metric("bounded")
    g = load_defense(RANDOMISED, metric)
    objective = Objective(g, keys)
    rng = objective.search_streams.fork()
    leaf = images.clone().requires_grad_(True)
    scores = g.surrogate(leaf, rng, 9)
    value, gradient = objective.gradient(images, 9, centre="quantile")
    expected = hdquantiles(scores.detach().double().numpy(), prob=[0.5], axis=0)[0]
    assert np.allclose(value.numpy(), expected, rtol=1e-5)
    order = scores.detach().argsort(0)
    ends = np.linspace(0, 1, 10)
    mass = torch.as_tensor(np.diff([betainc(5, 5, e) for e in ends]), dtype=torch.float32)
    weighted = (mass[:, None] * scores.gather(0, order)).sum()
    (by_hand,) = torch.autograd.grad(weighted, leaf)
    assert torch.allclose(gradient, by_hand, atol=1e-6)
    assert objective.forwards.tolist() == [9, 9, 9]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("images_together", [0, 1, 2])
def test_weighted_draws_are_the_same_whatever_fits_together(
    images, monkeypatch: pytest.MonkeyPatch, images_together: int, fixed: bool
) -> None:
    """Draws that do not fit into a batch are looked at before they are taken, at the price of a forward pass each."""
    g, keys = load_defense(RANDOMISED, load_metric("bounded")), image_keys(images)
    plain = Objective(g, keys)
    expected = [plain.gradient(images, 9, centre="kernel", fixed=fixed) for _ in range(2)]
    monkeypatch.setattr(objective_module, "MAX_PIXELS", max(4, images_together * 9) * 48 * 40)
    other = Objective(g, keys)
    found = [other.gradient(images, 9, centre="kernel", fixed=fixed) for _ in range(2)]
    for (value, gradient), (other_value, other_gradient) in zip(expected, found, strict=True):
        assert torch.allclose(value, other_value, rtol=1e-6)
        assert torch.allclose(gradient, other_gradient, rtol=1e-4, atol=1e-7)
    assert plain.forwards.tolist() == [18, 18, 18]
    assert other.forwards.tolist() == [18 if images_together else 36] * 3


def test_gradients_of_what_is_rendered(linear, images) -> None:
    """The chain rule through a brightness factor, known for a linear metric."""
    objective = Objective(load_defense("none", linear), image_keys(images))
    factor = torch.full((3, 1, 1, 1), 0.9)
    _, gradient = objective.gradient(factor, render=lambda f: f * images)
    w = linear.module.weights(images)  # type: ignore[operator]
    assert torch.allclose(gradient.flatten(), (w * images).flatten(1).sum(1), rtol=1e-4)


@pytest.mark.parametrize("values", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]], ids=str)
def test_one_value_that_is_not_finite_spoils_a_gradient(linear, images, values) -> None:
    objective = Objective(load_defense("none", linear), image_keys(images))
    gradient = torch.full_like(images, 3e38)  # whose sum overflows
    objective._check_gradient(gradient)
    objective._check_gradient(-gradient)
    gradient.view(-1)[5 : 5 + len(values)] = torch.tensor(values)
    for spoilt in (gradient, gradient * 1e-38):
        with pytest.raises(BadScore, match="NaN or infinite gradient"):
            objective._check_gradient(spoilt)
