"""Defences by training on a toy release: their terms in closed form, exact resume, and the plain training unchanged."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench.cli.train import train
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.metrics.tiny_iqa import tiny_iqa
from robustiqa.bench.training import evaluate, robust
from robustiqa.bench.training.metric import MetricTrainConfig, train_metric
from robustiqa.bench.training.robust import RobustTrainConfig, train_robust_metric
from robustiqa.bench.training.robust_terms import adversarial_images, gradient_norm, penalised
from robustiqa.bench.weights import read_header
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from support import killed_and_whole

from .test_train_metric import Stop, losses, make_release, stop_at
from .test_train_metric import toy as plain_toy

DEFENSES = {
    "gradient-norm": {"tune_lr": 3e-4, "penalty": 0.01},
    "adversarial": {"attack": "pgd", "attack_steps": 2, "labels": "ssim"},
    "noise": {"sigma": 0.1},
}


def toy(tmp_path: Path, out: str, **changes: object) -> RobustTrainConfig:
    config = RobustTrainConfig(
        data_root=str(make_release(tmp_path)),
        out=str(tmp_path / out),
        groups=6,
        crop=64,
        tune_steps=6,
        tune_groups=2,
        tune_rated=4,
        tune_side=72,
        validate_every=0,
        checkpoint_every=2,
        log_every=2,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intervals on the cards take longer than these trainings."""
    monkeypatch.setattr(evaluate, "bootstrap", functools.partial(evaluate.bootstrap, draws=10))


def silent(line: str) -> None:
    """Say nothing."""


class Linear(torch.nn.Module):
    """50 + <w, x - 1/2>, with as many positive as negative weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 50 + ((x - 0.5) * self.w).sum((1, 2, 3))


@pytest.fixture
def net() -> Linear:
    return Linear()


@pytest.fixture
def x() -> torch.Tensor:
    return 0.3 + 0.4 * torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("h", [0.01, 0.1])
def test_the_gradient_norm_of_a_linear_network_is_that_of_its_weights(net, x, h: float) -> None:
    scores, term = gradient_norm(net, x, h)
    torch.testing.assert_close(scores, net(x))
    norm = float(net.w.detach().double().abs().sum()) / 100  # in scales per unit of pixel value
    assert float(term.detach()) == pytest.approx(norm**2 / 2, rel=1e-3)
    # d(|w|_1^2 / 2) / dw = |w|_1 sign(w): the sign is constant, the scores are not
    (slope,) = torch.autograd.grad(term, net.w)
    torch.testing.assert_close(slope, (norm / 100) * net.w.detach().sign(), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(("step", "steps"), [(1.25, 1), (0.5, 3)])
def test_the_attack_on_a_linear_network_goes_to_the_corner_away_from_the_label(net, x, step: float, steps: int) -> None:
    eps = 4 / 255
    scores = net(x).detach()
    labels = scores + torch.tensor([5.0, -5.0, 0.0, 5.0])  # what scores too low goes down
    side = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    found = adversarial_images(net, x, labels, eps, step * eps, steps, torch.zeros_like(x))
    corner = x + eps * side[:, None, None, None] * net.w.detach().sign()
    torch.testing.assert_close(found, corner, rtol=0, atol=1e-6)
    start = eps * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1)
    # From anywhere in the ball, steps of two radii together reach the same corner.
    found = adversarial_images(net, x, labels, eps, 2 * eps, 1, start)
    torch.testing.assert_close(found, corner, rtol=0, atol=1e-6)
    # A short step does not: it is the sign of the gradient times its length, and the start counts.
    found = adversarial_images(net, x, labels, eps, 0.25 * eps, 1, 0.5 * start)
    expected = x + 0.5 * start + 0.25 * eps * side[:, None, None, None] * net.w.detach().sign()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_attacked_images_stay_in_the_box(net) -> None:
    black = torch.zeros(2, 3, 24, 20)
    found = adversarial_images(net, black, torch.zeros(2), 0.1, 0.125, 1, torch.zeros_like(black))
    assert float(found.min()) == 0
    torch.testing.assert_close(found, 0.1 * (net.w.detach() > 0).float().expand_as(found))


def test_labels_fall_with_the_ssim_that_an_attack_costs(x) -> None:
    moved = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    moved[0] = x[0]
    labels = torch.tensor([60.0, 60.0, 3.0, -7.0])
    options = {"channel_axis": 2, "data_range": 1.0, "gaussian_weights": True, "use_sample_covariance": False}
    similarity = [
        float(np.asarray(structural_similarity(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy(), **options)))
        for a, b in zip(x, moved, strict=True)
    ]
    assert max(similarity[1:]) < 0.95
    found = penalised(labels, x, moved, 0.5)
    assert float(found[0]) == 60
    assert float(found[1]) == pytest.approx(60 - 0.5 * (1 - similarity[1]) * 100, abs=1e-3)
    assert float(found[2]) == 0, "not below the scale"
    assert float(found[3]) == -7, "unless it was"


@pytest.mark.parametrize("defense", DEFENSES)
def test_a_resumed_training_gives_the_same_weights(tmp_path: Path, defense: str) -> None:
    changes = {"defense": defense, **DEFENSES[defense]}
    path = train_robust_metric(toy(tmp_path, "whole", validate_every=3, **changes), silent)
    whole = load_file(path)
    with pytest.raises(Stop):
        train_robust_metric(toy(tmp_path, "parts", **changes), stop_at(f"{path.stem} 4/"))
    parts = load_file(train_robust_metric(toy(tmp_path, "parts", **changes), silent))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not torch.equal(whole["out.weight"], tiny_iqa().out.weight)
    assert losses(tmp_path / "parts" / f"{path.stem}.csv", "step") == [2, 4, 6]
    assert losses(tmp_path / "whole" / f"{path.stem}-validation.csv", "step") == [0, 3, 6]
    assert tiny_iqa(weights=str(path))(torch.full((2, 3, 64, 64), 0.3)).shape == (2,)
    about = read_header(path)
    assert (about["defense"], about["metric"]) == (defense, "tiny-iqa")
    card = path.with_suffix(".md").read_text()
    assert f"robustiqa train metric --data-root DATA_ROOT --groups 6 --crop 64 --defense {defense}" in card
    assert str(tmp_path) not in card, "a card is published: no paths of this machine"


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_file(tmp_path: Path) -> None:
    options = "--groups=6 --crop=64 --tune-steps=30 --tune-groups=1 --tune-rated=2 --tune-side=64 --validate-every=0"
    options += f" --checkpoint-every=2 --log-every=2 --data-root={make_release(tmp_path)}"

    def command(out: str) -> list[str]:
        words = ["train", "metric", "--defense", "gradient-norm"]
        return [*words, *options.split(), f"--out={tmp_path / out}"]

    assert len(killed_and_whole(command, tmp_path, "gradient-norm-0.001-tiny-iqa")) == 1


def test_without_a_defence_the_plain_training_is_what_it_was(tmp_path: Path) -> None:
    plain = train_metric(plain_toy(tmp_path, "plain"), silent)
    settings = {f.name: getattr(plain_toy(tmp_path, "same"), f.name) for f in dataclasses.fields(MetricTrainConfig)}
    same = train_robust_metric(RobustTrainConfig(**settings), silent)
    assert plain.read_bytes() == same.read_bytes()
    for stage in ("synthetic", "mos"):
        first, second = (torch.load(p.with_name(f"{stage}.pt"), weights_only=True) for p in (plain, same))
        assert first["identity"] == second["identity"]
    cards = [p.with_suffix(".md").read_text().split("## Training")[1] for p in (plain, same)]
    assert cards[0] == cards[1]


def test_noise_training_starts_from_the_given_weights_and_keeps_their_scores(tmp_path: Path) -> None:
    start = train_metric(plain_toy(tmp_path, "plain"), silent)
    given, shipped = (
        train_robust_metric(toy(tmp_path, out, defense="noise", tune_lr=1e-9, start=file), silent)
        for out, file in (("given", str(start)), ("shipped", ""))
    )
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for path, origin in ((given, str(start)), (shipped, "")):
        torch.testing.assert_close(tiny_iqa(str(path))(image), tiny_iqa(origin)(image), rtol=0, atol=1e-2)
    assert "--start START" in given.with_suffix(".md").read_text()
    with pytest.raises(BadParameter, match="other content of start"):
        train_robust_metric(toy(tmp_path, "given", defense="noise", tune_lr=1e-9), silent)
    with pytest.raises(BadData, match="do not exist"):
        train_robust_metric(toy(tmp_path, "no", defense="noise", start="gone.safetensors"), silent)


def test_a_strong_penalty_lowers_the_gradient_norm(tmp_path: Path) -> None:
    config = toy(tmp_path, "out", defense="gradient-norm", penalty=0.1, tune_steps=40, tune_lr=2e-3)
    path = train_robust_metric(config, silent)
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    before, after = (float(gradient_norm(net, x, 0.01)[1].detach()) for net in (tiny_iqa(), tiny_iqa(str(path))))
    assert after < 0.7 * before, (before, after)


@pytest.mark.parametrize(("ramp", "expected"), [(0.0, [4, 4, 4, 4]), (0.5, [2, 4, 4, 4]), (1.0, [1, 2, 3, 4])])
def test_the_radius_rises_in_a_share_of_the_steps(
    tmp_path: Path, monkeypatch, ramp: float, expected: list[int]
) -> None:
    radii: list[tuple[float, float]] = []

    def attack(net, x, labels, eps, step, steps, start):
        radii.append((255 * eps, 255 * step))
        return x

    monkeypatch.setattr(robust, "adversarial_images", attack)
    train_robust_metric(toy(tmp_path, "out", defense="adversarial", attack="pgd", tune_steps=4, ramp=ramp), silent)
    assert radii[::2] == radii[1::2], "rated crops and groups are attacked alike"
    assert [eps for eps, _ in radii[::2]] == pytest.approx(expected)
    assert [step for _, step in radii[::2]] == pytest.approx([eps / 4 for eps in expected])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ramp": 1.5}, "ramp must be in"),
        ({"defense": "magic"}, "defense must be empty or one of gradient-norm, adversarial, noise"),
        ({"sigma": 0.1}, "sigma is no setting of the defence adversarial"),
        ({"mos_lr": 0.1}, "mos_lr is no setting of the defence adversarial"),
        ({"defense": ""}, "tune_steps is no setting of a training without --defense"),
        ({"attack": "apgd"}, "attack must be fgsm or pgd"),
        ({"labels": "lpips"}, "labels must be plain or ssim"),
        ({"eps": 4 / 255}, "units of 1/255"),
        ({"attack_steps": 0}, "attack_steps must be positive"),
        ({"label_penalty": -1.0}, "label_penalty"),
        ({"defense": "gradient-norm", "h": 0.0}, "h must be positive"),
        ({"defense": "gradient-norm", "penalty": -1.0}, "penalty must not be negative"),
        ({"defense": "noise", "sigma": 0.0}, "sigma must be in"),
        ({"tune_side": 48}, "64 pixels"),
        ({"tune_groups": 7}, "at most groups"),
        ({"tune_rated": 1}, "tune_rated"),
        ({"tune_steps": 0}, "tune_steps must be positive"),
        ({"log_every": 3}, "multiple"),
        ({"validate_every": -1}, "validate_every"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        train_robust_metric(toy(tmp_path, "bad", **{"defense": "adversarial", **change}), silent)


def test_the_command_has_an_option_for_every_setting() -> None:
    shown = CliRunner().invoke(train, ["metric", "--help"]).output
    for field in dataclasses.fields(RobustTrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
    result = CliRunner().invoke(train, ["metric", "--defense", "magic"])
    assert isinstance(result.exception, BadParameter) or result.exit_code


def test_another_seed_gives_another_training(tmp_path: Path) -> None:
    first, second = (
        load_file(train_robust_metric(toy(tmp_path, f"s{s}", defense="noise", seed=s, tune_steps=2), silent))
        for s in (0, 1)
    )
    assert not np.allclose(first["out.weight"], second["out.weight"], atol=1e-7)
