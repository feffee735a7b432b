"""The defences by training as plug-ins: whose score, whose gradient, which weights, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import Metric, load_metric
from robustiqa.bench.checks.probes import probe
from robustiqa.bench.errors import BadData, BadParameter, Incompatible
from robustiqa.bench.metrics.tiny_iqa import TinyIQA, tiny_iqa
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.bench.training.evaluate import pgd_gain
from robustiqa.bench.training.loop import save_weights
from robustiqa.bench.training.variants import NAMED_BY
from robustiqa.bench.weights import read_header
from robustiqa.defenses import load_defense
from robustiqa.defenses.trained.networks import FOLDER
from safetensors.torch import load_file, save_file

MARGIN = {"gradient-norm": 0.8, "adversarial": 0.7, "noise": 0.95}
"""Largest share of the undefended gain."""
SHIPPED = sorted(FOLDER.glob("*.safetensors"))
NAMES = ["gradient-norm-training", "adversarial-training", "noise-training"]


def text_of(path: Path) -> str:
    """The plug-in string that a shipped file stands for, from what its header says."""
    about = read_header(path)
    settings = ",".join(f"{key}={about[key]}" for key in NAMED_BY[about["defense"]])
    return f"{about['defense']}-training[{settings}]"


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """(9,3,128,128) crops of photographs and of distorted versions."""
    dataset = registry.get("dataset", "photos").factory(subset="quick")
    return torch.stack([dataset.load(i) for i in range(0, len(dataset), 3)])


@pytest.fixture
def metric() -> Metric:
    return load_metric("tiny-iqa")


def test_every_defence_has_shipped_weights() -> None:
    assert {read_header(path)["defense"] for path in SHIPPED} == set(NAMED_BY)
    assert {re.sub(r"\[.*", "", text_of(path)) for path in SHIPPED} == set(NAMES)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_card_is_of_its_weights(path: Path) -> None:
    card = path.with_suffix(".md").read_text()
    assert f"SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card
    assert "robustiqa train metric --photographs PHOTOGRAPHS" in card
    assert f"--defense {read_header(path)['defense']}" in card
    rows = {row.split("|")[1].strip(): row.split("|")[3] for row in card.splitlines() if row.startswith("| ")}
    # A floor only: 67 images tell an SROCC to about .2, and robust variants cost accuracy, as their cards show.
    for split, least in (("val", 0.35), ("test", 0.6)):
        assert least < float(rows[split].split("[")[0]) < 0.8, "SROCC to human scores"
    assert "Score change by PGD l_inf 4/255" in card
    assert "/tmp" not in card


def worst_gain(net: TinyIQA, x: torch.Tensor) -> float:
    """Mean gain of PGD l_inf 4/255, 20 steps, in the direction where it is larger, in points."""
    return max(abs(float(pgd_gain(net, x[:4], 4 / 255, 20, sign).mean())) for sign in (1.0, -1.0))


@pytest.fixture(scope="module")
def undefended_gain(crops: torch.Tensor) -> float:
    return worst_gain(tiny_iqa(), crops)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_network_withstands_pgd_better(path: Path, metric, crops, undefended_gain: float) -> None:
    net = tiny_iqa(str(path))
    torch.testing.assert_close(load_defense(text_of(path), metric)(crops), net(crops), rtol=0, atol=1e-4)
    assert worst_gain(net, crops) < MARGIN[read_header(path)["defense"]] * undefended_gain


@pytest.mark.parametrize("name", NAMES)
def test_the_score_is_the_trained_networks_and_the_metric_stays_the_original(name, metric, crops) -> None:
    g = load_defense(name, metric)
    x = crops[:3]
    assert g.metric is metric
    torch.testing.assert_close(g.metric(x), tiny_iqa()(x), rtol=0, atol=0)
    assert not torch.allclose(g(x), metric(x), atol=0.5)
    assert g.cost == 1
    assert not g.randomised
    assert not any(p.requires_grad for p in g.parameters())
    streams = Streams.create(["a", "b", "c"], Role.EVALUATION, 7)
    leaf = x.clone().requires_grad_(True)
    scores = g.surrogate(leaf, streams, 4)
    assert scores.shape == (1, 3)
    torch.testing.assert_close(scores[0].detach(), g(x), rtol=0, atol=1e-4)
    estimate = g.estimate(x, streams)
    assert np.array_equal(estimate.lo, estimate.hi)
    alone = torch.cat([g(image[None]) for image in x])
    torch.testing.assert_close(g(x), alone, rtol=0, atol=1e-4)
    # The gradient is the deployed score's own: central differences along it.
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    unit = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    difference = (g(x + 0.02 * unit) - g(x - 0.02 * unit)) / 0.04
    torch.testing.assert_close(difference, gradient.flatten(1).norm(dim=1), rtol=0.3, atol=1)


def test_naive_and_transfer_attacks_see_the_undefended_network(metric, crops) -> None:
    g, x = load_defense("adversarial-training", metric), crops[:2]
    undefended = load_defense("none", metric)
    naive = load_attack("pgd[steps=20]")(undefended, x, Linf(4 / 255))
    found = load_attack("transfer")(g, x, Linf(4 / 255))
    assert np.all(undefended.estimate(found.adversarial).score > undefended.estimate(x).score + 0.5 * naive.gain)
    adaptive = load_attack("pgd[steps=20]")(g, x, Linf(4 / 255))
    assert adaptive.gain.mean() > found.gain.mean()


def test_the_planted_weakness_does_not_concern_a_defence_of_one_network(metric, crops) -> None:
    found = {
        finding.name: finding
        for finding in probe(load_defense("gradient-norm-training", metric), crops[:2, :, :64, :64])
    }
    assert "tiny-iqa" in found["planted-missed"].skipped
    assert not found["gradient-mismatch"].raised
    assert not found["random-undeclared"].raised


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_ones_own_are_those_that_score(name, metric, crops, tmp_path: Path) -> None:
    tensors = load_file(tiny_iqa.__globals__["WEIGHTS"])
    tensors["out.bias"] = tensors["out.bias"] + 1.0  # twenty points
    about = {"robustiqa": json.dumps({"defense": name.removesuffix("-training")})}
    save_file(tensors, tmp_path / "own.safetensors", about)
    g = load_defense(f"{name}[weights={tmp_path / 'own.safetensors'}]", metric)
    torch.testing.assert_close(g(crops), metric(crops) + 20, rtol=0, atol=1e-3)
    # A metric with parameters has no shipped weights, but may have its own.
    own = load_metric(f"tiny-iqa[weights={tmp_path / 'own.safetensors'}]")
    with pytest.raises(Incompatible, match=r"--start FILE.*weights=FILE"):
        load_defense(name, own)
    g = load_defense(f"{name}[weights={tmp_path / 'own.safetensors'}]", own)
    torch.testing.assert_close(g(crops), own(crops), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_another_metric_is_refused(name, linear, metric, tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="weights for the metric 'tiny-iqa' only, not for 'linear'"):
        load_defense(name, linear)
    save_weights(metric.module, tmp_path / "own.safetensors")
    with pytest.raises(Incompatible, match="do not belong to the network of metric 'linear'"):
        load_defense(f"{name}[weights={tmp_path / 'own.safetensors'}]", linear)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_name_no_defence_are_refused_or_on_trust(
    name: str, metric, linear, images, tmp_path: Path
) -> None:
    """The plain tiny-iqa weights are no defence; a network of one's own was trained elsewhere, which says nothing."""
    path = tmp_path / "own.safetensors"
    save_weights(metric.module, path)
    with pytest.raises(BadData, match=f"name no defence in their header, expected '{name.removesuffix('-training')}'"):
        load_defense(f"{name}[weights={path}]", metric)
    save_weights(linear.module, path)
    with pytest.warns(UserWarning, match="on trust"):
        g = load_defense(f"{name}[weights={path}]", linear)
    torch.testing.assert_close(g(images), linear(images))


def test_bad_weights_are_named(metric, tmp_path: Path) -> None:
    gone, text, cut, other = (
        tmp_path / n for n in ("gone.safetensors", "a.pth", "cut.safetensors", "other.safetensors")
    )
    text.touch()
    cut.write_bytes(SHIPPED[0].read_bytes()[:5000])
    bad = {k: torch.full(v.shape, torch.nan) for k, v in metric.module.state_dict().items()}
    save_file(bad, tmp_path / "nan.safetensors")
    save_weights(metric.module, other, {"defense": "noise", "metric": "tiny-iqa", "sigma": 0.2})
    for path, error, message in (
        (gone, BadData, "do not exist"),
        (text, BadParameter, "expected a .safetensors file"),
        (cut, BadData, "cannot be read"),
        (tmp_path / "nan.safetensors", BadData, "not finite"),
        (other, BadData, "are of the defence 'noise', expected 'adversarial'"),
    ):
        with pytest.raises(error, match=message):
            load_defense(f"adversarial-training[weights={path}]", metric)
    with pytest.raises(BadParameter, match=r"noise-training\[sigma=0.06\]: expected sigma=0.2"):
        load_defense(f"noise-training[weights={other}]", metric)
    load_defense(f"noise-training[sigma=0.2,weights={other}]", metric)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adversarial-training[eps=5]", r"expected the attack, labels, eps of shipped weights \(adversarial-"),
        ("gradient-norm-training[penalty=7]", r"shipped weights \(gradient-norm-.*weights=FILE from `robustiqa train"),
        ("noise-training[sigma=0.123]", r"shipped weights \(noise-"),
    ],
)
def test_variants_without_weights_are_left_to_others(metric, text: str, message: str) -> None:
    with pytest.raises(Incompatible, match=message):
        load_defense(text, metric)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adversarial-training[attack=apgd]", r"\[attack=apgd\]: expected fgsm or pgd"),
        ("adversarial-training[labels=lpips]", r"\[labels=lpips\]: expected plain or ssim"),
        ("adversarial-training[eps=0]", r"\[eps=0\.0\]: expected a number > 0"),
        ("gradient-norm-training[penalty=-1]", r"\[penalty=-1\.0\]: expected a number > 0"),
    ],
)
def test_bad_parameters_are_named(metric, text: str, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        load_defense(text, metric)


@pytest.mark.parametrize("name", NAMES)
def test_every_strength_has_weights(name: str, metric: Metric) -> None:
    strength = registry.get("defense", name).meta["strength"]
    for text in strength.specs(name) if strength else [name]:
        load_defense(text, metric)
