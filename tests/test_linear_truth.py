"""Attacks and certificates on the linear metric, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Metric, Threat, load_metric
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified.stats.order import lower_index, upper_index
from scipy.stats import norm

GRADIENT_ATTACKS = ["fgsm", "pgd", "pgd[steps=20,restarts=3]", "eot-pgd", "torchattacks-pgd", "torchattacks-pgdl2"]


def _pairs(attacks: list[str], threats: list[Threat]) -> list[tuple[str, Threat]]:
    """Every attack with every threat whose norm it works in."""
    return [(a, t) for a in attacks for t in threats if t.norm in load_attack(a).norms]  # type: ignore[attr-defined]


def _optimum(metric: Metric, x: torch.Tensor, norm_name: str, eps: float) -> float:
    """eps |w|_2 or eps |w|_1: the largest change of a linear score, if the box does not bind."""
    w = metric.module.weights(x).double()  # type: ignore[operator]
    return eps * float(w.norm() if norm_name == "l2" else w.abs().sum())


@pytest.mark.parametrize(("attack", "threat"), _pairs(GRADIENT_ATTACKS, [L2(0.05), L2(1.0), Linf(4 / 255)]), ids=str)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_gradient_attacks_reach_the_optimum(linear, images, attack, threat, direction) -> None:
    g, attacker = load_defense("none", linear), load_attack(attack)
    result = attacker(g, images, threat, direction)
    share = result.gain / _optimum(linear, images, threat.norm, threat.eps)
    share = share if direction == "up" else -share
    # torchattacks' PGDL2 starts at a random point and returns its last iterate: it stops a little short.
    assert share.min() >= (0.97 if attack == "torchattacks-pgdl2" else 0.99)
    assert share.max() <= 1 + 1e-4


@pytest.mark.parametrize(
    ("attack", "threat"),
    _pairs(["random-noise", "random-noise[tries=5]", *GRADIENT_ATTACKS], [L2(0.05), L2(2), Linf(1 / 255), Linf(0.5)]),
    ids=str,
)
def test_budget_is_never_exceeded(linear, images, attack, threat) -> None:
    g, attacker = load_defense("none", linear), load_attack(attack)
    result = attacker(g, images, threat)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.all(used <= threat.eps)
    assert np.all(used >= 0.98 * threat.eps) or threat.eps == 0.5
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    delta = (result.adversarial - images).double().flatten(1)
    assert np.allclose(result.l2, delta.norm(dim=1).numpy())
    assert np.allclose(result.linf, delta.abs().amax(dim=1).numpy())


@pytest.mark.parametrize("defense", ["none", "median-smoothing[n=200,m=25]"])
@pytest.mark.parametrize("attack", ["random-noise", "pgd", "eot-pgd"])
def test_eps_zero_returns_the_clean_image_and_score_exactly(linear, images, defense, attack) -> None:
    result = load_attack(attack)(load_defense(defense, linear), images, L2(0.0))
    assert torch.equal(result.adversarial, images)
    assert result.gain.tolist() == [0.0, 0.0, 0.0]
    assert result.forwards.tolist() == [0, 0, 0]


def test_lower_better_metrics_are_attacked_towards_better_quality(images) -> None:
    g = load_defense("none", load_metric("linear-dmos"))
    up = load_attack("pgd")(g, images, L2(0.1), "up")
    down = load_attack("pgd")(g, images, L2(0.1), "down")
    assert np.all(up.attacked.score < up.clean.score)
    assert np.all(up.gain > 0)
    assert np.all(down.attacked.score > down.clean.score)
    assert np.all(down.gain < 0)


def test_certificate_of_the_exact_median_is_the_closed_form(linear, images) -> None:
    """f is linear, so X = f(x) + sigma |w| N(0,1): the bound at the exact quantile is eps |w|_2; the sampled one lies
    at the order statistic of its index, so within the sampling error of that order statistic."""
    n, sigma, eps = 20_000, 0.12, [0.05, 0.12, 0.25]
    g = load_defense(f"median-smoothing[sigma={sigma},n={n}]", linear)
    certificate = g.certify(images, eps, alpha=0.001)
    scale = _optimum(linear, images, "l2", 1.0)
    for j, e in enumerate(eps):
        ku, kl = int(upper_index(n, norm.cdf(e / sigma), 0.0005)), int(lower_index(n, norm.cdf(-e / sigma), 0.0005))
        for side, k in ((certificate.hi, ku), (certificate.lo, kl)):
            p = k / (n + 1)
            expected = norm.ppf(p) * sigma * scale
            error = np.sqrt(p * (1 - p) / n) / norm.pdf(norm.ppf(p)) * sigma * scale
            clean = linear(images).double().numpy()
            assert np.all(np.abs(side[:, j] - clean - expected) < 5 * error)
        # The certificate holds for the true worst case, and is tight to the sampling error.
        assert np.all(certificate.hi[:, j] - clean >= e * scale)
        assert np.all(certificate.hi[:, j] - clean <= 1.25 * e * scale)
    assert np.allclose(certificate.spread, sigma * scale, rtol=0.05)


def test_smoothed_linear_metric_is_exactly_tight_against_eot(linear, images) -> None:
    """Median smoothing of a linear metric moves by eps |w|_2 under the worst attack, and no more."""
    eps = 0.12
    g = load_defense("median-smoothing[sigma=0.12,n=4000,m=501]", linear)
    result = load_attack("eot-pgd")(g, images, L2(eps))
    assert result.gain / _optimum(linear, images, "l2", eps) == pytest.approx(np.ones(3), abs=0.02)
    certificate = g.certify(images, [eps])
    assert np.all(result.attacked.lo <= certificate.hi[:, 0])
    assert np.all(result.gain / certificate.delta[:, 0] <= 1)


def test_deployed_certificate_contains_the_population_one(linear, images) -> None:
    certificate = load_defense("median-smoothing[n=1000,m=25]", linear).certify(images, [0.05, 0.1])
    assert certificate.deployed is not None
    assert certificate.kind == "population"
    assert certificate.deployed.kind == "deployed"
    assert np.all(certificate.deployed.hi > certificate.hi)
    assert np.all(certificate.deployed.lo < certificate.lo)


def test_deployed_certificate_holds_for_deployed_scores(linear, images) -> None:
    """The worst image inside eps, scored 2000 times with fresh draws: the deployed bound fails at most at alpha."""
    eps, alpha, m, trials = 0.05, 0.05, 11, 2000
    g = load_defense(f"median-smoothing[sigma=0.12,n=2000,m={m}]", linear)
    bound = g.certify(images[:1], [eps], alpha=alpha).deployed
    assert bound is not None
    scale = _optimum(linear, images, "l2", 1.0)
    rng = np.random.default_rng(2)
    worst = float(linear(images[:1])) + eps * scale
    scores = np.median(worst + 0.12 * scale * rng.normal(size=(trials, m)), axis=1)
    failures = int((scores > bound.hi[0, 0]).sum())
    assert failures <= alpha * trials
    # Not the population bound in disguise: that one is broken far more often.
    population = g.certify(images[:1], [eps], alpha=alpha)
    assert int((scores > population.hi[0, 0]).sum()) > failures


def test_joint_certificate_is_wider(linear, images) -> None:
    certificate = load_defense("median-smoothing", linear).certify(images, [0.05], family=50)
    assert certificate.family is not None
    assert certificate.family.alpha == pytest.approx(certificate.alpha / 50)
    assert np.all(certificate.family.hi > certificate.hi)


def test_unreachable_eps_is_infinite_for_an_unbounded_metric_and_ends_at_the_range_of_a_bounded_one(images) -> None:
    free = load_defense("median-smoothing[n=100]", load_metric("linear")).certify(images, [0.05, 0.3])
    assert np.all(np.isfinite(free.hi[:, 0]))
    assert np.all(np.isposinf(free.hi[:, 1]))
    assert np.all(np.isneginf(free.lo[:, 1]))
    bounded = load_defense("median-smoothing[n=100]", load_metric("bounded")).certify(images, [0.3])
    assert bounded.lo.ravel().tolist() == [0, 0, 0]
    assert bounded.hi.ravel().tolist() == [1, 1, 1]


def test_ours_is_at_least_torchattacks_at_the_same_steps_and_budget(linear, images) -> None:
    g = load_defense("none", linear)
    for ours, theirs, threat in (("pgd", "torchattacks-pgd", Linf(4 / 255)), ("pgd", "torchattacks-pgdl2", L2(0.5))):
        mine, other = (load_attack(a)(g, images, threat) for a in (ours, theirs))
        assert mine.gain.mean() >= other.gain.mean() - 1e-6
        assert mine.backwards.tolist() == other.backwards.tolist()


def test_random_noise_is_the_no_op_that_it_should_be(linear, images) -> None:
    result = load_attack("random-noise")(load_defense("none", linear), images, L2(1.0))
    assert np.all(np.abs(result.gain) < 0.1 * _optimum(linear, images, "l2", 1.0))
