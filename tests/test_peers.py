"""Ours against torchattacks and foolbox: the same attack, steps, step size and budget, on the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.torchattacks_bridge import TwoLogit
from robustiqa.bench import Threat, load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import image_keys
from robustiqa.defenses import load_defense

STEPS, STEP = 10, 0.2
"""Steps, and their size as a fraction of eps."""


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(0, 10, 2)])


def foolbox_pgd(model: torch.nn.Module, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    fb = pytest.importorskip("foolbox", reason="foolbox is not installed: pip install robustiqa[dev]")
    kind = fb.attacks.LinfPGD if threat.norm == "linf" else fb.attacks.L2PGD
    attack = kind(rel_stepsize=STEP, steps=STEPS, random_start=False)
    labels = torch.zeros(len(x), dtype=torch.long)
    return attack.run(
        fb.PyTorchModel(model, bounds=(0, 1)), x, fb.criteria.Misclassification(labels), epsilon=threat.eps
    )


def torchattacks_pgd(model: torch.nn.Module, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    ta = pytest.importorskip("torchattacks", reason="torchattacks is not installed: see the README")
    kind: Any = ta.PGD if threat.norm == "linf" else ta.PGDL2
    attack = kind(model, eps=threat.eps, alpha=STEP * threat.eps, steps=STEPS, random_start=False)
    return attack(x, torch.zeros(len(x), dtype=torch.long))


@pytest.mark.parametrize("threat", [Linf(1 / 255), L2(0.25)], ids=str)
@pytest.mark.parametrize("peer", [foolbox_pgd, torchattacks_pgd])
@pytest.mark.parametrize("metric", ["linear", "tiny-iqa"])
def test_pgd_gains_at_least_as_much_at_the_same_cost(
    photographs: torch.Tensor, peer: Callable[..., torch.Tensor], threat: Threat, metric: str
) -> None:
    g = load_defense("none", load_metric(metric))
    objective = Objective(g, image_keys(photographs))
    theirs = peer(TwoLogit(objective).eval(), photographs, threat).detach()
    assert np.all(_length(theirs - photographs, threat) <= threat.eps * (1 + 1e-5))
    gain = _gain(g, photographs, theirs)
    ours = load_attack(f"pgd[steps={STEPS},step={STEP}]")(g, photographs, threat)
    assert np.all(ours.gain >= gain - 1e-3), "the same path, and the best of its points"
    assert np.all(gain > 0.5 * ours.gain), "the peer attacks the same thing"
    # One forward more: the last point is looked at before it is chosen.
    assert ours.backwards.tolist() == objective.backwards.tolist() == [STEPS] * 5
    assert (ours.forwards - 1).tolist() == objective.forwards.tolist()


@pytest.mark.parametrize("threat", [Linf(0.2 / 255), L2(0.05)], ids=str)
def test_auto_pgd_against_that_of_torchattacks(photographs: torch.Tensor, threat: Threat) -> None:
    """Theirs starts at a random point: the means are compared, not the images."""
    pytest.importorskip("torchattacks", reason="torchattacks is not installed: see the README")
    g = load_defense("none", load_metric("tiny-iqa"))
    ours, theirs = (load_attack(f"{a}[steps=20]")(g, photographs, threat) for a in ("apgd", "torchattacks-apgd"))
    assert ours.gain.mean() >= 0.99 * theirs.gain.mean()
    assert theirs.gain.mean() > 0.5 * ours.gain.mean(), "the peer attacks the same thing"


@pytest.mark.parametrize(("ours", "theirs"), [("i-fgsm", "BIM"), ("mi-fgsm", "MIFGSM"), ("ni-fgsm", "NIFGSM")])
def test_the_momentum_family_takes_the_steps_of_torchattacks(photographs: torch.Tensor, ours: str, theirs: str) -> None:
    """The last point, on a network whose gradient changes from step to step."""
    ta: Any = pytest.importorskip("torchattacks", reason="torchattacks is not installed: see the README")
    g, threat = load_defense("none", load_metric("tiny-iqa")), Linf(2 / 255)
    photographs = 0.2 + 0.6 * photographs  # theirs looks ahead beyond the box
    keys = image_keys(photographs)
    options = {} if theirs == "BIM" else {"decay": 1.0}
    peer = getattr(ta, theirs)(
        TwoLogit(Objective(g, keys)).eval(), eps=threat.eps, alpha=threat.eps / 10, steps=10, **options
    )
    expected = peer(photographs, torch.zeros(5, dtype=torch.long)).detach()
    attack: Any = load_attack(ours)
    *_, last = attack.candidates(Objective(g, keys), photographs, threat)
    # Signs of values near 0 may differ by rounding.
    assert float(((last.x - expected).abs() > 1e-5).double().mean()) < 0.01
    other: Any = load_attack("pgd[step=0.1]")
    *_, plain = other.candidates(Objective(g, keys), photographs, threat)
    assert ours == "i-fgsm" or float(((last.x - plain.x).abs() > 1e-5).double().mean()) > 0.05


def test_auto_pgd_follows_algorithm_1(photographs: torch.Tensor) -> None:
    """arXiv 2003.01690 written out for one image at a time, with momentum kept when it returns to its best point."""
    g, threat = load_defense("none", load_metric("tiny-iqa")), L2(1.0)
    steps, marks = 30, [7, 13, 18, 21, 24, 27, 28, 30]
    attack: Any = load_attack(f"apgd[steps={steps}]")
    ours = [c.x for c in attack.candidates(Objective(g, image_keys(photographs)), photographs, threat)]
    returned = 0
    for i, x in enumerate(photographs[:, None].unbind(0)):

        def look(z: torch.Tensor) -> tuple[float, torch.Tensor]:
            leaf = z.clone().requires_grad_(True)
            score = g.metric(leaf).sum()
            return float(score), torch.autograd.grad(score, leaf)[0]

        def ball(z: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
            d = z - x
            return (x + d * min(1.0, 1.0 / float(d.norm().clamp_min(1e-30)))).clamp(0, 1)

        step, z, before = 2.0, x, x
        value, gradient = look(z)
        best, best_value, best_gradient = z, value, gradient
        raised, last_mark, last_best, last_halved = 0, 0, value, False
        path = [z]
        for k in range(1, steps + 1):
            ahead = ball(z + step * gradient / gradient.norm())
            alpha = 1.0 if k == 1 else 0.75
            z, before = ball(z + alpha * (ahead - z) + (1 - alpha) * (z - before)), z
            old, (value, gradient) = value, look(z)
            path.append(z)
            raised += value > old
            if value > best_value:
                best, best_value, best_gradient = z, value, gradient
            if k in marks:
                halve = raised < 0.75 * (k - last_mark) or (not last_halved and best_value <= last_best)
                if halve:
                    returned += k < 14 and not torch.equal(z, best)
                    step, z, gradient, value = step / 2, best, best_gradient, best_value
                raised, last_mark, last_best, last_halved = 0, k, best_value, halve
        moved = [float((a[i] - b[0]).norm()) for a, b in zip(ours, path, strict=True)]
        # Later on rounding grows: a network's gradient jumps at the kinks of its activations.
        assert max(moved[:15]) < 0.02, i
    assert returned, "somewhere it went back"


def test_variance_tuning_follows_its_recursion(photographs: torch.Tensor) -> None:
    """Algorithm 1 of arXiv 2103.15571, written out on the same random numbers."""
    g, threat = load_defense("none", load_metric("tiny-iqa")), Linf(2 / 255)
    x, keys = photographs, image_keys(photographs)
    attack: Any = load_attack("vmi-fgsm[steps=4,neighbours=3]")
    *_, last = attack.candidates(Objective(g, keys, salt="vmi"), x, threat)
    rng = Objective(g, keys, salt="vmi").search_streams

    def slope(z: torch.Tensor) -> torch.Tensor:
        leaf = z.clone().requires_grad_(True)
        return torch.autograd.grad(g.metric(leaf).sum(), leaf)[0]

    z, velocity, variance = x, torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(4):
        gradient = slope(z)
        tuned = gradient + variance
        velocity = velocity + tuned / tuned.abs().mean((1, 2, 3), keepdim=True)
        around = [slope((z + 1.5 * threat.eps * rng.uniform(z)).clamp(0, 1)) for _ in range(3)]
        variance = torch.stack(around).mean(0) - gradient
        z = (x + (z + threat.eps / 4 * velocity.sign() - x).clamp(-threat.eps, threat.eps)).clamp(0, 1)
    assert float(((last.x - z).abs() > 1e-5).double().mean()) < 0.01


def _gain(g: DefendedMetric, x: torch.Tensor, adversarial: torch.Tensor) -> np.ndarray:
    return g.estimate(adversarial.clamp(0, 1)).score - g.estimate(x).score


def _length(delta: torch.Tensor, threat: Threat) -> np.ndarray:
    flat = delta.double().flatten(1)
    return (flat.abs().amax(1) if threat.norm == "linf" else flat.norm(dim=1)).numpy()
