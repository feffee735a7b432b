"""Attacks that survive JPEG files, that follow several surrogates, and that keep their noise."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Threat, load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric, Direction
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.jpeg import compress, compress_surrogate
from robustiqa.bench.objective import Objective
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import image_key, image_keys
from robustiqa.defenses import load_defense
from support import optimum

RANDOMISED = "median-smoothing[n=200,m=7]"
THREATS = [L2(0.5), Linf(4 / 255)]


@pytest.fixture(scope="module", autouse=True)
def broken_plugin() -> None:
    registry.load_file(Path(__file__).parent / "plugins" / "broken.py")


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(0, 10, 2)])


def file(x: torch.Tensor, quality: int) -> torch.Tensor:
    """What a viewer sees of (B,3,H,W) saved as JPEG, with Pillow alone."""
    found = []
    for image in x:
        buffer = io.BytesIO()
        array = np.rint(255 * image.permute(1, 2, 0).numpy()).astype(np.uint8)
        Image.fromarray(array).save(buffer, "JPEG", quality=quality, subsampling=2)
        found.append(np.asarray(Image.open(buffer), dtype=np.float32).transpose(2, 0, 1) / 255)
    return torch.from_numpy(np.stack(found))


def left(g: DefendedMetric, z: torch.Tensor, x: torch.Tensor, quality: int) -> np.ndarray:
    """The gain that is left in files of a quality."""
    return g.estimate(file(z, quality)).score - g.estimate(file(x, quality)).score


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("attack", ["jpeg-pgd[steps=3]", "surrogate-pgd[steps=3]", "fixed-noise-pgd[steps=3]"])
@pytest.mark.parametrize("defense", ["none", RANDOMISED, "jpeg"])
def test_they_keep_the_budget_and_an_image_in_a_batch_fares_as_alone(linear, images, attack, threat, defense) -> None:
    g, attacker = load_defense(defense, linear), load_attack(attack)
    together = attacker(g, images, threat)
    assert np.all((together.l2 if threat.norm == "l2" else together.linf) <= threat.eps)
    alone = attacker(g, images[1:2], threat)
    assert torch.allclose(alone.adversarial[0], together.adversarial[1], atol=1e-5)
    assert (alone.forwards[0], alone.backwards[0]) == (together.forwards[1], together.backwards[1])


# --- JPEG files


def test_compression_is_that_of_pillow(photographs) -> None:
    x = photographs[:2, :, :50, :37]
    for quality in (30, 90):
        assert torch.equal(compress(x, quality), file(x, quality))
        for surrogate in ("identity", "diffjpeg"):
            assert torch.equal(compress_surrogate(x, quality, surrogate), file(x, quality))


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_points_are_judged_by_the_mean_of_their_files_and_move_as_the_surrogate_says(linear, images, threat) -> None:
    """Straight through, the gradient of a linear metric is w at every point and quality: PGD's own path."""
    g = load_defense("none", linear)
    attack: Any = load_attack("jpeg-pgd[steps=4,qualities=40+80,surrogate=identity]")
    plain: Any = load_attack("pgd[steps=4]")
    keys = image_keys(images)
    found = list(attack.candidates(Objective(g, keys), images, threat))
    path = list(plain.candidates(Objective(g, keys), images, threat))
    assert len(found) == len(path) == 5
    for candidate, point in zip(found, path, strict=True):
        assert torch.allclose(candidate.x, point.x, atol=1e-6)
        expected = np.mean([g.estimate(file(candidate.x, quality)).score for quality in (40, 80)], axis=0)
        assert np.allclose(candidate.value.numpy(), expected, atol=1e-5)
    best = attack(g, images, threat)
    values = torch.stack([candidate.value for candidate in found])
    chosen = torch.stack([found[int(t)].x[i] for i, t in enumerate(values.argmax(0))])
    assert torch.allclose(best.adversarial, chosen, atol=1e-6)


def test_the_gradient_through_the_codec_is_that_of_kornia(linear, images) -> None:
    from kornia.enhance import jpeg_codec_differentiable

    x = images[..., :48, :32]  # whole blocks
    objective = Objective(load_defense("none", linear), image_keys(x))
    value, gradient = objective.gradient(x, render=partial(compress_surrogate, quality=60))
    leaf = x.clone().requires_grad_(True)
    score = (jpeg_codec_differentiable(leaf, torch.full((len(x),), 60.0)) * linear.module.weights(x)).sum()
    (expected,) = torch.autograd.grad(score, leaf)
    assert torch.allclose(gradient, expected, atol=1e-5)
    assert np.allclose(value.numpy(), linear(file(x, 60)).numpy(), atol=1e-5)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_more_gain_is_left_in_files_than_of_plain_pgd(photographs, threat) -> None:
    """On a network, paired by image, at each quality; and at one that the attack has not seen."""
    g = load_defense("none", load_metric("tiny-iqa"))
    surviving, plain = (load_attack(a)(g, photographs, threat) for a in ("jpeg-pgd[steps=10]", "pgd[steps=10]"))
    for quality, factor in ((50, 3), (75, 3), (90, 1.5), (60, 2)):
        ours, theirs = (left(g, result.adversarial, photographs, quality) for result in (surviving, plain))
        assert ours.mean() > factor * max(0.0, theirs.mean())
        assert (ours > theirs).mean() >= 0.8


def test_a_randomised_defence_is_judged_on_files_too(photographs) -> None:
    g = load_defense("median-smoothing[sigma=0.06,n=50,m=31]", load_metric("tiny-iqa"))
    x = photographs[:2]
    surviving, plain = (load_attack(a)(g, x, L2(1.0)) for a in ("jpeg-pgd[steps=8,qualities=50]", "eot-pgd[steps=8]"))
    kept, lost = (left(g, result.adversarial, x, 50).mean() for result in (surviving, plain))
    assert kept > 1.3 * max(0.0, lost)


# --- several surrogates


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_surrogate_without_gradient_does_not_mislead_the_ensemble(linear, images, threat) -> None:
    g = load_defense("two-faced", linear)
    assert np.all(load_attack("pgd")(g, images, threat).gain == 0)
    signs: dict[Direction, int] = {"up": 1, "down": -1}
    for direction, sign in signs.items():
        result = load_attack("surrogate-pgd")(g, images, threat, direction)
        assert np.allclose(sign * result.gain, optimum(linear, images, threat), rtol=1e-2)


def test_the_mean_of_surrogates_is_that_of_their_unit_gradients(linear, images) -> None:
    """One of zero halves the length and keeps the direction; the value is exact."""
    g = load_defense("two-faced", linear)
    objective = Objective(g, image_keys(images))
    attack: Any = load_attack("surrogate-pgd")
    value, gradient = attack._gradient(objective, images, None)
    w = linear.module.weights(images)
    assert torch.allclose(gradient, (w / w.norm() / 2).expand_as(images), atol=1e-6)
    assert np.allclose(value.numpy(), g.estimate(images).score, atol=1e-5)
    assert objective.backwards.tolist() == objective.forwards.tolist() == [2, 2, 2]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_ensemble_is_as_strong_as_the_better_surrogate_of_jpeg(photographs, threat) -> None:
    metric = load_metric("tiny-iqa")
    single = [
        load_attack("pgd[steps=8]")(load_defense(f"jpeg[surrogate={name}]", metric), photographs, threat).gain
        for name in ("diffjpeg", "identity")
    ]
    together = load_attack("surrogate-pgd[steps=8]")(load_defense("jpeg", metric), photographs, threat)
    assert np.all(together.gain >= np.maximum(*single) - 1e-3)
    assert together.gain.mean() > 0


def test_both_gradients_of_jpeg_deploy_one_score(linear, images) -> None:
    for name in ("diffjpeg", "identity"):
        g = load_defense(f"jpeg[quality=40,surrogate={name}]", linear)
        first, second = g.surrogates()
        assert first is g
        assert torch.equal(first(images), second(images))
        one, other = (Objective(v, ["a", "b", "c"]).gradient(images)[1] for v in (first, second))
        assert not torch.allclose(one, other)
    assert load_defense("none", linear).surrogates()[0].spec == "none"


@pytest.mark.parametrize(("attack", "defense", "forwards", "backwards"), [
    ("jpeg-pgd[steps=3,qualities=50+75]", "none", 8, 6),
    ("surrogate-pgd[steps=3]", "none", 4, 3),
    ("surrogate-pgd[steps=3]", "jpeg", 15, 12),
    ("fixed-noise-pgd[steps=3]", "fixed-noise-median-smoothing[m=5]", 20, 15),
])  # fmt: skip
def test_counts_are_what_the_metric_saw(images, attack: str, defense: str, forwards: int, backwards: int) -> None:
    metric = load_metric("counting")
    g = load_defense(defense, metric)
    clean = g.estimate(images)
    metric.module.seen = 0  # type: ignore[assignment]
    result = load_attack(attack)(g, images, L2(0.5), clean=clean)
    assert result.forwards.tolist() == [forwards] * 3
    assert result.backwards.tolist() == [backwards] * 3
    assert metric.module.seen - 2 * 3 * g.cost == result.forwards.sum()  # type: ignore[operator]


# --- noise that is kept


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("defense", [RANDOMISED, "fixed-noise-median-smoothing[m=5]"])
def test_kept_noise_reaches_the_optimum_of_a_linear_metric(linear, images, threat: Threat, defense: str) -> None:
    result = load_attack("fixed-noise-pgd")(load_defense(defense, linear), images, threat)
    assert np.allclose(result.gain, optimum(linear, images, threat), rtol=0.02)


def test_kept_noise_is_climbed_further_than_fresh_noise_shows(photographs) -> None:
    """The gain on the kept draw is far above that on others; fresh draws gain nothing of the kind on it."""
    g = load_defense("median-smoothing[sigma=0.12,n=50,m=31]", load_metric("tiny-iqa"))
    x = photographs[:1]
    kept, fresh = [], []
    for attack in ("fixed-noise-pgd[draws=1]", "eot-pgd[steps=20,draws=1,momentum=0]"):
        search, judge = (Objective(g, [image_key(x[0])], salt="known") for _ in range(2))
        *_, last = load_attack(attack).candidates(search, x, L2(0.5))  # type: ignore[attr-defined]
        kept.append(float(judge.gradient(last.x, fixed=True)[0] - judge.gradient(x, fixed=True)[0]))
        fresh.append(float(judge.select(last.x, 200) - judge.select(x, 200)))
    assert kept[0] > 3 * abs(fresh[0])
    assert kept[0] > 2 * abs(kept[1])


def test_known_noise_is_attacked_as_pgd_does(photographs) -> None:
    g = load_defense("fixed-noise-median-smoothing[m=5]", load_metric("tiny-iqa"))
    kept, plain = (load_attack(a)(g, photographs[:2], L2(0.5)) for a in ("fixed-noise-pgd[steps=5]", "pgd[steps=5]"))
    assert torch.equal(kept.adversarial, plain.adversarial)
    assert np.all(kept.gain > 0)


@pytest.mark.parametrize("text", [
    "jpeg-pgd[qualities=75+x]", "jpeg-pgd[qualities=0]", "jpeg-pgd[surrogate=none-such]", "jpeg-pgd[draws=0]",
    "jpeg-pgd[steps=0]", "surrogate-pgd[momentum=1]", "surrogate-pgd[draws=0]", "fixed-noise-pgd[draws=0]",
    "fixed-noise-pgd[steps=0]", "jpeg-pgd[qualities=]",
])  # fmt: skip
def test_impossible_settings_are_named(text: str) -> None:
    with pytest.raises(BadParameter, match="expected"):
        load_attack(text)
