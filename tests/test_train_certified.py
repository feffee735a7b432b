"""Training of lip-iqa and ibp-iqa on a toy release: exact resume, what the penalty does, cards, messages."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from robustiqa.bench.cli.train import train
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.intervals import propagate
from robustiqa.bench.metrics.ibp_iqa import ibp_iqa
from robustiqa.bench.metrics.lip_iqa import LipIQA, lip_iqa
from robustiqa.bench.training import sources
from robustiqa.bench.training.certified import CertifiedTrainConfig, train_certified_metric
from robustiqa.bench.training.trainees import IbpTrainee, LipTrainee
from safetensors.torch import load_file

from .test_train_metric import Stop, losses, make_release, stop_at

LOADERS = {"lip-iqa": lip_iqa, "ibp-iqa": ibp_iqa}


def toy(tmp_path: Path, name: str, out: str, **changes: object) -> CertifiedTrainConfig:
    config = CertifiedTrainConfig(
        net=name,
        data_root=str(make_release(tmp_path)),
        out=str(tmp_path / out),
        groups=12,
        crop=64,
        synthetic_steps=6,
        synthetic_batch=2,
        mos_steps=6,
        mos_batch=6,
        mos_views=2,
        mos_crops=(64, 96),
        mos_groups=2,
        checkpoint_every=2,
        log_every=2,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("net", LOADERS)
def test_a_training_resumed_in_either_stage_gives_the_same_weights(tmp_path: Path, net: str) -> None:
    for i in range(2):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        Image.fromarray(sources.procedural(np.random.default_rng(i), 280)).save(tmp_path / "photographs" / f"{i}.png")
    photographs = str(tmp_path / "photographs")
    whole = load_file(train_certified_metric(toy(tmp_path, net, "whole"), say=lambda _: None))
    for where in ("synthetic 4/", "mos 4/"):
        with pytest.raises(Stop):
            train_certified_metric(toy(tmp_path, net, "parts"), say=stop_at(where))
    path = train_certified_metric(toy(tmp_path, net, "parts", photographs=photographs), say=lambda _: None)
    parts = load_file(path)
    assert whole.keys() == parts.keys()
    assert not {k: float((whole[k] - parts[k]).abs().max()) for k in whole if not torch.equal(whole[k], parts[k])}
    for stage in ("synthetic", "mos"):
        assert losses(tmp_path / "parts" / f"{stage}.csv", "step") == [2, 4, 6]
    assert LOADERS[net](weights=str(path))(torch.full((2, 3, 64, 64), 0.3)).shape == (2,)
    card = path.with_suffix(".md").read_text()
    assert "robustiqa train certified-metric --data-root DATA_ROOT" in card
    assert {"lip-iqa": "Lipschitz constant", "ibp-iqa": "l_inf eps in 1/255"}[net] in card
    assert str(tmp_path) not in card, "a card is published: no paths of this machine"


@pytest.mark.parametrize("kind", [LipTrainee, IbpTrainee])
def test_the_penalty_is_the_certificate_of_the_export_and_can_be_trained(kind: type[LipTrainee | IbpTrainee]) -> None:
    trainee = kind(seed=1)
    images = torch.rand((16, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    for _ in range(40):  # until the norm knows the statistics
        trainee.train()(images)
    net = trainee.eval().exported()
    before = 10 * float(trainee.penalty(*trainee.ends(images, 1 / 255)).detach())
    if isinstance(net, LipIQA):
        assert before == pytest.approx(net.lipschitz(128, 128), rel=1e-3)
    else:
        lo, hi = propagate(net.layers, images - 1 / 255, images + 1 / 255, rounding=False)
        assert before == pytest.approx(float((hi - lo).detach().mean()) / 2, rel=1e-3)
    optimiser = torch.optim.Adam(trainee.parameters(), lr=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        trainee.penalty(*trainee.ends(images, 1 / 255)).backward()
        optimiser.step()
    assert 10 * float(trainee.penalty(*trainee.ends(images, 1 / 255)).detach()) < 0.9 * before


@pytest.mark.parametrize(
    ("change", "message"), [({"net": "none"}, "lip-iqa, ibp-iqa"), ({"log_every": 4}, "multiple"), ({"crop": 63}, "64")]
)
def test_impossible_settings_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        train_certified_metric(toy(tmp_path, "lip-iqa", "bad", **change), say=lambda _: None)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orthogonium.layers.conv.AOC", None)
    with pytest.raises(BadParameter, match=r"pip install 'robustiqa\[lipschitz\]'"):
        train_certified_metric(toy(tmp_path, "lip-iqa", "out"), say=lambda _: None)


def test_the_command_has_an_option_with_a_text_for_every_setting() -> None:
    shown = CliRunner().invoke(train, ["certified-metric", "--help"]).output
    for field in dataclasses.fields(CertifiedTrainConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "seed of everything random" in shown, "inherited texts too"
    assert "l_inf radius" in shown
