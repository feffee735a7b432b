"""Training of tiny-iqa on a toy release: synthetic groups, losses, exact resume, card, command line."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner
from PIL import Image
from robustiqa.bench.cli.train import train
from robustiqa.bench.datasets import clive
from robustiqa.bench.distortions import DISTORTIONS
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.metrics.tiny_iqa import tiny_iqa
from robustiqa.bench.training import sources
from robustiqa.bench.training.evaluate import agreement, evaluate_metric
from robustiqa.bench.training.losses import group_loss, order_loss, plcc_loss
from robustiqa.bench.training.metric import MetricTrainConfig, Pretrainer, train_metric
from robustiqa.bench.training.synthetic import TRAINING_KINDS, VERSIONS, make_groups
from safetensors.torch import load_file
from torch import nn


def make_release(root: Path) -> Path:
    """A CLIVE release of 30 small procedural images whose score is their contrast."""
    if (root / clive.RELEASE).exists():
        return root
    names = [f"t{i}.bmp" for i in range(1, 8)] + [f"{i}.JPG" for i in range(500, 530)]
    for folder in ("Images", "Data"):
        (root / clive.RELEASE / folder).mkdir(parents=True)
    contrast = np.linspace(0.1, 1.0, len(names))
    for i, name in enumerate(names):
        image = sources.procedural(np.random.default_rng(i), 140)
        grey = np.rint(128 + contrast[i] * (image.astype(float) - 128)).astype(np.uint8)
        Image.fromarray(grey).save(root / clive.RELEASE / "Images" / name, format="PNG")
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = [np.array([n]) for n in names]
    columns = {"Images": cells, "MOS": 100 * contrast[None], "StdDev": np.full((1, len(names)), 9.0)}
    for column, values in columns.items():
        scipy.io.savemat(root / clive.RELEASE / "Data" / f"All{column}_release.mat", {f"All{column}_release": values})
    return root


def toy(tmp_path: Path, out: str, **changes: object) -> MetricTrainConfig:
    config = MetricTrainConfig(
        data_root=str(make_release(tmp_path)),
        out=str(tmp_path / out),
        groups=6,
        crop=64,
        synthetic_steps=6,
        synthetic_batch=3,
        mos_steps=6,
        mos_batch=6,
        mos_views=2,
        mos_crops=(64, 96),
        mos_groups=2,
        checkpoint_every=2,
        log_every=2,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


class Stop(Exception):
    """Stands in for a kill."""


def stop_at(beginning: str):
    def say(line: str) -> None:
        if line.startswith(beginning):
            raise Stop

    return say


def losses(path: Path, column: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def test_a_training_resumed_in_either_stage_gives_the_same_weights(tmp_path: Path) -> None:
    whole = load_file(train_metric(toy(tmp_path, "whole"), say=lambda _: None))
    for where in ("synthetic 4/", "mos 4/"):
        with pytest.raises(Stop):
            train_metric(toy(tmp_path, "parts"), say=stop_at(where))
    path = train_metric(toy(tmp_path, "parts"), say=lambda _: None)
    parts = load_file(path)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    for stage in ("synthetic", "mos"):
        assert losses(tmp_path / "parts" / f"{stage}.csv", "step") == [2, 4, 6]
    assert tiny_iqa(weights=str(path))(torch.full((2, 3, 64, 64), 0.3)).shape == (2,)
    card = path.with_suffix(".md").read_text()
    assert "robustiqa train metric --data-root DATA_ROOT --groups 6 --crop 64" in card
    assert str(tmp_path) not in card, "a card is published: no paths of this machine"


def test_another_seed_gives_other_weights_and_another_folder_is_asked_for(tmp_path: Path) -> None:
    first = load_file(train_metric(toy(tmp_path, "out", mos_steps=0), say=lambda _: None))
    with pytest.raises(BadParameter, match=r"other settings \(seed was 0, is 1\)"):
        train_metric(toy(tmp_path, "out", mos_steps=0, seed=1), say=lambda _: None)
    second = load_file(train_metric(toy(tmp_path, "out1", mos_steps=0, seed=1), say=lambda _: None))
    assert not torch.equal(first["out.weight"], second["out.weight"])
    (tmp_path / "out" / "synthetic.pt").write_bytes(b"broken")
    with pytest.raises(BadData, match="delete it"):
        train_metric(toy(tmp_path, "out", mos_steps=0), say=lambda _: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_every": 3}, "multiple"),
        ({"mos_crops": (64,)}, "two sizes"),
        ({"crop": 63}, "64 pixels"),
        ({"groups": 2}, "synthetic_batch"),
        ({"synthetic_steps": 0}, "positive"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        train_metric(toy(tmp_path, "bad", **change), say=lambda _: None)


def test_training_lowers_the_losses(tmp_path: Path) -> None:
    train_metric(
        toy(tmp_path, "out", synthetic_steps=60, mos_steps=60, checkpoint_every=20, log_every=20), say=lambda _: None
    )
    for stage, column in (("synthetic", "order"), ("synthetic", "score"), ("mos", "l1"), ("mos", "plcc")):
        values = losses(tmp_path / "out" / f"{stage}.csv", column)
        assert values[-1] < 0.9 * values[0], (stage, column, values)


def test_folding_the_batch_norms_changes_no_score() -> None:
    net = Pretrainer()
    x = torch.rand((16, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        net.train().core.features(x, list(net.norms))
    net.eval()
    with torch.no_grad():
        expected = net.core.score(net.core.features(x, list(net.norms)))
        torch.testing.assert_close(net.folded()(x), expected, rtol=1e-4, atol=1e-3)


def test_groups_are_reproducible_and_rise_in_strength() -> None:
    photographs = [sources.procedural(np.random.default_rng(i), 160) for i in range(3)]
    first, again = (make_groups(photographs, 30, 64, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.shape == (30, VERSIONS, 64, 64, 3)
    assert np.all(np.diff(first.strengths, axis=1) > 0)
    assert np.all(first.similarity[:, 0] == 1)
    assert np.all(np.diff(first.targets, axis=1).mean(axis=0) < -5)
    assert not np.array_equal(first.images, make_groups(photographs, 30, 64, seed=4).images)


@pytest.mark.parametrize("kind", [k for k in TRAINING_KINDS if k not in DISTORTIONS])
def test_training_kinds_grow_with_their_strength(kind: str) -> None:
    photo = sources.dead_leaves(np.random.default_rng(0), 96)
    entry = TRAINING_KINDS[kind]
    images = [entry.apply(photo, s, np.random.default_rng(1)).astype(float) for s in entry.strengths]
    errors = [np.square(image - photo).mean() for image in images]
    assert all(image.shape == photo.shape for image in images)
    assert errors[0] < 0.35 * errors[1], "strength 0 is almost nothing"
    assert np.all(np.diff(errors) > 0), errors


def test_losses_are_zero_exactly_where_they_should_be() -> None:
    truth = torch.tensor([10.0, 30.0, 50.0, 90.0])
    assert plcc_loss(3 * truth - 7, truth).item() == pytest.approx(0, abs=1e-6)
    assert plcc_loss(-truth, truth).item() == pytest.approx(1, abs=1e-6)
    assert order_loss(truth, truth).item() == 0
    assert order_loss(-truth, truth).item() > 1
    strengths = torch.tensor([[0.0, 1.0, 3.0]])
    assert group_loss(torch.tensor([[70.0, 65.0, 55.0]]), strengths).item() == pytest.approx(0)
    assert group_loss(torch.tensor([[55.0, 65.0, 70.0]]), strengths).item() > 0


class _Brightness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * x.mean((1, 2, 3))


def test_the_evaluation_of_a_known_metric(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(sources.procedural(np.random.default_rng(i), 300)).save(tmp_path / f"{i}.png")
    report = evaluate_metric(
        _Brightness().eval(), str(make_release(tmp_path)), str(tmp_path), splits=("all",), n_photographs=3
    )
    assert report.level_per_photo["over-exposure"].value == pytest.approx(-1), "more light is worse, and scores higher"
    assert report.attack["up_mean"] * report.attack["range"] <= 100 * 4 / 255 + 1e-3, "an l_inf ball bounds the mean"
    assert report.attack["up_mean"] * report.attack["range"] > 100 * 2 / 255
    assert report.human["all"]["n"] == 30
    with pytest.raises(BadData, match="no photographs"):
        evaluate_metric(_Brightness(), str(tmp_path), str(tmp_path / clive.RELEASE), splits=())


def test_agreement_of_a_monotone_score() -> None:
    truth = np.linspace(0, 100, 40)
    result = agreement(np.exp(truth / 30), truth)
    assert result["srocc"].value == pytest.approx(1)
    assert result["plcc"].lo < result["plcc"].value < 1
    assert result["n"] == 40
    assert "plcc_logistic_reason" not in result
    assert result["plcc_logistic"] > result["plcc"].value
    few = agreement(np.exp(truth[:5] / 30), truth[:5])
    assert np.isnan(few["plcc_logistic"])
    assert few["plcc_logistic_reason"] == "5 images: 4 parameters need at least 8"


def test_the_command_has_an_option_for_every_setting(tmp_path: Path) -> None:
    shown = CliRunner().invoke(train, ["metric", "--help"]).output
    for field in dataclasses.fields(MetricTrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "seed of everything random" in shown
    arguments = "metric --groups 8 --crop 64 --synthetic-steps 2 --synthetic-batch 2 --mos-steps 2 --mos-batch 4 "
    arguments += "--mos-crops 64,64 --mos-groups 2 --checkpoint-every 1 --log-every 1"
    places = ["--data-root", str(make_release(tmp_path)), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(train, [*arguments.split(), *places], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1].endswith("tiny-iqa.safetensors")
