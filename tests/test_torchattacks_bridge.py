"""torchattacks on a score: what is bridged reaches what is known, is counted and seeded; what is not, has a reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.torchattacks_bridge import Relative, TwoLogit
from robustiqa.attacks.torchattacks_table import PEERS, UNSUITABLE
from robustiqa.bench import Threat, load_dataset, load_metric
from robustiqa.bench.api import Direction
from robustiqa.bench.errors import BadParameter, BadScore, UnknownName
from robustiqa.bench.objective import Objective
from robustiqa.bench.registry import identity_of, registry
from robustiqa.defenses import load_defense
from scipy import ndimage
from scipy.stats import norm as normal
from support import optimum

pytest.importorskip("torchattacks", reason="torchattacks is not installed: see the README")

RANDOMISED = "median-smoothing[n=200,m=7]"
THREATS = {"linf": Linf(4 / 255), "l2": L2(0.5)}
EXACT = ["fgsm", "bim", "rfgsm", "pgd", "pgdl2", "eotpgd", "mifgsm", "nifgsm", "sinifgsm", "vmifgsm", "vnifgsm",
         "difgsm[diversity=0]", "pifgsm", "upgd", "upgd[random_start=true]", "apgd", "pgdrs", "pgdrsl2"]  # fmt: skip
CHEAP = {"torchattacks-spsa": "[steps=2,pairs=10]", "torchattacks-square": "[queries=40]",
         "torchattacks-apgd": "[steps=5,draws=2]", "torchattacks-vmifgsm": "[steps=2]",
         "torchattacks-vnifgsm": "[steps=2]", "torchattacks-sinifgsm": "[steps=2]", "torchattacks-upgd": "[draws=2]",
         "torchattacks-eotpgd": "[draws=3]"}  # fmt: skip


def cases(names: list[str]) -> list[tuple[str, Threat]]:
    """Each attack in each norm that it works in."""
    return [(n, THREATS[norm]) for n in names for norm in PEERS[f"torchattacks-{n.split('[')[0]}"].norms]


def every() -> list[tuple[str, Threat]]:
    """Every bridged attack at small settings, in each of its norms."""
    return [(n + CHEAP.get(n, ""), THREATS[norm]) for n, peer in PEERS.items() for norm in peer.norms]


def test_every_attack_of_torchattacks_is_bridged_or_has_a_reason() -> None:
    import torchattacks

    bridged = {peer.kind for peer in PEERS.values()}
    assert bridged | set(UNSUITABLE) == set(torchattacks.__all__)
    assert not bridged & set(UNSUITABLE)
    assert {name for name in registry.names("attack") if name.startswith("torchattacks-")} == set(PEERS)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_each_is_listed_with_what_it_is_and_its_parameters(name: str) -> None:
    plugin = registry.get("attack", name)
    assert plugin.summary.startswith(f"`torchattacks.{PEERS[name].kind}` (")
    assert set(registry.resolve("attack", name)[2]) == set(PEERS[name].keys)
    assert "torchattacks 3." in identity_of("attack", name), "results of another version are not mixed with these"
    with pytest.raises(UnknownName, match="parameter"):
        load_attack(f"{name}[nonsense=1]")


@pytest.mark.parametrize(("name", "threat"), cases(EXACT), ids=str)
def test_gradient_attacks_reach_the_optimum_of_a_linear_metric(linear, images, name: str, threat: Threat) -> None:
    signs: dict[Direction, int] = {"up": 1, "down": -1}
    for direction, sign in signs.items():
        result = load_attack(f"torchattacks-{name}")(load_defense("none", linear), images, threat, direction)
        share = sign * result.gain / optimum(linear, images, threat)
        # PGDL2 returns the last iterate of a random start, which stops a little short.
        assert share.min() >= (0.97 if name == "pgdl2" else 0.99)
        assert share.max() <= 1 + 1e-4


def test_one_step_from_a_random_start_gains_what_the_clipping_leaves(linear, images) -> None:
    """From u in [-1,1] eps a step of s eps ends at min(1, u + s) eps: for s = 1.25 a mean of 55/64."""
    threat = Linf(4 / 255)
    result = load_attack("torchattacks-ffgsm")(load_defense("none", linear), images, threat)
    assert np.allclose(result.gain / optimum(linear, images, threat), 55 / 64, atol=0.02)
    far = load_attack("torchattacks-ffgsm[step=2]")(load_defense("none", linear), images, threat)
    assert np.allclose(far.gain, optimum(linear, images, threat), rtol=1e-3)


def test_blurred_gradients_are_those_of_scipy(linear, images) -> None:
    """TI-FGSM moves each value along the sign of the gradient after a 15x15 Gaussian."""
    line = normal.pdf(np.linspace(-3, 3, 15))
    kernel = np.outer(line, line) / line.sum() ** 2
    w = linear.module.weights(images).double().numpy()
    blurred = np.stack([ndimage.correlate(channel, kernel, mode="constant") for channel in w])
    result = load_attack("torchattacks-tifgsm[diversity=0]")(load_defense("none", linear), images, Linf(4 / 255))
    assert np.allclose(result.gain, 4 / 255 * (w * np.sign(blurred)).sum(), rtol=1e-2)


def test_versions_of_an_image_have_draws_of_their_own(linear, images) -> None:
    """An objective of one image takes several versions of it: one draw each, one after another from its stream."""
    g = load_defense(RANDOMISED, linear)
    objective, other = (Objective(g, ["key"]) for _ in range(2))
    versions = torch.cat([images[:1], images[:1] + 0.1, images[:1]]).requires_grad_(True)
    scores = objective.differentiable(versions)
    expected = [g.surrogate(v[None], other.search_streams, 1)[0, 0] for v in versions]
    assert torch.allclose(scores, torch.stack(expected), atol=1e-5)
    assert float((scores[0] - scores[2]).detach().abs()) > 1e-3
    scores.sum().backward()
    assert (objective.forwards.tolist(), objective.backwards.tolist()) == ([3], [3])


def test_the_relative_view_is_in_declared_ranges(images) -> None:
    g = load_defense("none", load_metric("ranged"))  # 2 to 4
    view = Relative(Objective(g, ["key"], "down"), images[:1])
    z = torch.cat([images[:1], (images[:1] + 0.1)])
    score = torch.from_numpy(g.estimate(z).score)
    assert torch.allclose(view(z)[:, 1].double(), (score[0] - score) / 2, atol=1e-6)
    assert torch.equal(view(z)[:, 0], torch.zeros(2))


def test_noisy_copies_climb_a_metric_of_a_wide_range(images) -> None:
    """Scores of 0 to 100 would end probabilities at 0 and 1: the view is relative to the clean score and the range."""
    g = load_defense("none", load_metric("tiny-iqa"))
    data = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 4)])
    for name, threat in (("pgdrs", Linf(2 / 255)), ("pgdrsl2", L2(0.5))):
        theirs = load_attack(f"torchattacks-{name}[noise=0.01,copies=3]")(g, x, threat)
        assert theirs.gain.mean() > 0.5 * load_attack("pgd")(g, x, threat).gain.mean()


@pytest.mark.parametrize(("name", "threat"), every(), ids=str)
@pytest.mark.parametrize("defense", ["none", RANDOMISED])
def test_counts_are_what_the_metric_saw_and_the_budget_is_kept(images, name: str, threat: Threat, defense: str) -> None:
    metric = load_metric("counting")
    g = load_defense(defense, metric)
    clean = g.estimate(images)
    each = 7 if g.randomised else 1
    metric.module.seen = 0  # type: ignore[assignment]
    result = load_attack(name)(g, images, threat, clean=clean)
    assert metric.module.seen - 2 * 3 * each == result.forwards.sum()  # type: ignore[operator]
    assert np.all((result.l2 if threat.norm == "l2" else result.linf) <= threat.eps)
    assert g.randomised or np.all(result.gain > 0)
    if name.startswith(("torchattacks-spsa", "torchattacks-square")):
        assert result.queries.tolist() == [40] * 3
        assert result.forwards.tolist() == [40 * each] * 3
        assert np.all(result.backwards == 0)
    else:
        assert np.all(result.backwards >= result.forwards - 1), "each forward has its gradient, but for a first look"
        assert np.all(result.queries == 0)


@pytest.mark.parametrize(("name", "threat"), every(), ids=str)
@pytest.mark.parametrize("defense", ["none", RANDOMISED])
def test_an_image_in_a_batch_fares_as_it_does_alone(linear, images, name: str, threat: Threat, defense: str) -> None:
    g, attacker = load_defense(defense, linear), load_attack(name)
    before = torch.random.get_rng_state()
    together = attacker(g, images, threat)
    torch.manual_seed(123)
    alone = attacker(g, images[1:2], threat)
    assert torch.allclose(alone.adversarial[0], together.adversarial[1], atol=1e-6)
    assert alone.forwards[0] == together.forwards[1]
    torch.random.set_rng_state(before)


def test_starts_differ_between_images_seeds_and_attacks(linear, images) -> None:
    """After one step of no length to speak of only the random start is left."""
    g, x = load_defense("none", linear), images[:1].expand(2, -1, -1, -1).clone()
    x[1, 0, 0, 0] += 0.01  # another image, though hardly
    result = load_attack("torchattacks-pgd[steps=1,step=1e-6]")(g, x, Linf(0.1))
    again = load_attack("torchattacks-pgd[steps=1,step=1e-6]")(g, x, Linf(0.1), seed=1)
    starts = torch.cat([result.adversarial - x, again.adversarial - x])
    for i in range(4):
        for j in range(i):
            assert float((starts[i] - starts[j]).abs().max()) > 0.05


def test_the_global_generator_is_left_alone(linear, images) -> None:
    before = torch.random.get_rng_state()
    load_attack("torchattacks-apgd[steps=3]")(load_defense("none", linear), images, L2(0.5))
    load_attack("torchattacks-square[queries=5]")(load_defense("none", linear), images, L2(0.5))
    assert torch.equal(before, torch.random.get_rng_state())


def test_more_queries_find_more(linear, images) -> None:
    g = load_defense("none", linear)
    for few, many, threat in (("square[queries=30]", "square[queries=200]", L2(0.5)),
                              ("square[queries=30]", "square[queries=200]", Linf(4 / 255)),
                              ("spsa[steps=3,pairs=10]", "spsa[steps=8,pairs=30]", Linf(4 / 255))):  # fmt: skip
        gains = [load_attack(f"torchattacks-{name}")(g, images, threat).gain.mean() for name in (few, many)]
        assert gains[1] > 1.3 * gains[0] > 0


@pytest.mark.parametrize("threat", THREATS.values(), ids=str)
def test_squares_fit_into_a_narrow_image(linear, images, threat: Threat) -> None:
    """Theirs takes the side from the area alone, and would leave an image of 40x16."""
    result = load_attack("torchattacks-square[queries=50]")(load_defense("none", linear), images[..., :16], threat)
    assert np.all(result.gain > 0)


@pytest.mark.parametrize("name", sorted(set(UNSUITABLE) - {"MultiAttack", "LGV"}))
def test_what_is_not_bridged_does_not_attack_a_score(linear, images, name: str) -> None:
    """Through the same view it fails, leaves the budget, or gains nothing: for the wrappers there is nothing to run."""
    import torchattacks

    x, threat = images[:1, :, :24, :20], Linf(4 / 255)
    g = load_defense("none", linear)
    within = {"eps": threat.eps} if name in ("TPGD", "Jitter", "APGDT", "AutoAttack", "FAB") else {}
    short = {"max_iterations": 20} if name.startswith("EAD") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attack: Any = getattr(torchattacks, name)(TwoLogit(Objective(g, ["key"])), **within, **short)
        try:
            z = attack(x, torch.zeros(1, dtype=torch.long)).detach()
        except IndexError:
            return
    gain = float(g.estimate(z).score[0] - g.estimate(x).score[0])
    assert float((z - x).abs().max()) > 2 * threat.eps or gain < 0.05 * optimum(linear, x, threat)


def test_a_gradient_that_is_not_finite_is_an_error(linear, images) -> None:
    """The sign of NaN is 0 for torchattacks: without a word it would leave those values alone."""
    registry.load_file(Path(__file__).parent / "plugins" / "broken.py")
    with pytest.raises(BadScore, match="NaN or infinite gradient"):
        load_attack("torchattacks-mifgsm")(load_defense("broken-nan", linear), images, Linf(4 / 255))


def test_scores_far_below_zero_are_named(images) -> None:
    g = load_defense("none", load_metric("linear[offset=-300]"))
    with pytest.raises(BadScore, match="linear part"):
        load_attack("torchattacks-pgd")(g, images, Linf(4 / 255))


def test_without_torchattacks_the_reason_says_how_to_install_it(linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = load_attack("torchattacks-square").skip(load_defense("none", linear), L2(0.5))
    assert reason is not None
    assert "pip install --no-deps torchattacks" in reason


@pytest.mark.parametrize("text", [
    "torchattacks-pgd[steps=0]", "torchattacks-pgdl2[step=-1]", "torchattacks-difgsm[diversity=2]",
    "torchattacks-square[queries=1]", "torchattacks-pgdrs[noise=0]", "torchattacks-spsa[pairs=0]",
])  # fmt: skip
def test_impossible_settings_are_named(text: str) -> None:
    with pytest.raises(BadParameter, match=r"expected (at least|a positive|0 to 1)"):
        load_attack(text)
