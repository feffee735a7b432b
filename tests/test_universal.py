"""Universal perturbations and generators: closed forms, what is trained and saved, files of every kind, any size."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.projection import inside, stretched
from robustiqa.attacks.stored import METHODS, SHIPPED, read_generators, read_tiles
from robustiqa.attacks.training.config import GeneratorTrainConfig, PerturbationTrainConfig
from robustiqa.attacks.training.fit import loss
from robustiqa.attacks.training.generator import train_generator
from robustiqa.attacks.training.perturbation import train_perturbation
from robustiqa.attacks.universal import tiled
from robustiqa.bench import Metric, Threat, load_dataset, load_metric
from robustiqa.bench.api import Direction
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadParameter, Incompatible
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import killed_and_whole, optimum

PLUGIN = Path(__file__).parent / "plugins" / "linear.py"
SIGNS: dict[Direction, int] = {"up": 1, "down": -1}
SHIPPED_ATTACKS = [*(f"uap[kind={kind}]" for kind in METHODS), "facpa"]
pytestmark = pytest.mark.filterwarnings("ignore:.*was trained for the metric")


def silent(line: str) -> None:
    """Say nothing."""


def folder(root: Path) -> Path:
    """Mid-range noise: the box does not bind."""
    root.mkdir(exist_ok=True)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(60, 196, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


def toy(tmp_path: Path, out: str, **changes: Any) -> PerturbationTrainConfig:
    config = PerturbationTrainConfig(
        metric="linear", data=str(folder(tmp_path / "images")), validation="", out=str(tmp_path / out), size=32,
        batch=2, steps=60, lr=0.0, width=4, checkpoint_every=20, log_every=20,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def toy_generator(tmp_path: Path, out: str, **changes: Any) -> GeneratorTrainConfig:
    shared = {k: v for k, v in vars(toy(tmp_path, out)).items() if k not in ("kind", "lr")}
    return dataclasses.replace(GeneratorTrainConfig(**shared), **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A perturbation and a generator for the linear metric."""
    root = tmp_path_factory.mktemp("trained")
    return {
        "uap": train_perturbation(toy(root, "uap"), silent),
        "facpa": train_generator(toy_generator(root, "facpa", steps=4, checkpoint_every=4, log_every=4), silent),
    }


@pytest.fixture
def mid() -> torch.Tensor:
    """Three images of the training's size, where the box does not bind."""
    return 0.2 + 0.6 * torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


# --- the three ways to a universal perturbation


@pytest.mark.parametrize("metric", ["linear", "linear-dmos"])
@pytest.mark.parametrize(("kind", "changes", "share"), [
    ("optimised", {}, 1.0), ("cumulative", {"lr": 3.0}, 0.98),
    ("generative", {"lr": 3e-3, "width": 16, "steps": 150}, 0.7),
], ids=METHODS)  # fmt: skip
def test_training_finds_the_optimum_of_a_linear_metric(
    tmp_path: Path, mid: torch.Tensor, kind: str, changes: dict[str, Any], share: float, metric: str
) -> None:
    """In linf it is the sign of the weights; adding up gradients leaves the smallest ones on the way there."""
    path = train_perturbation(toy(tmp_path, "out", metric=metric, kind=kind, **changes), silent)
    loaded = load_metric(metric)
    for direction, sign in SIGNS.items():
        result = load_attack(f"uap[file={path}]")(load_defense("none", loaded), mid, Linf(4 / 255), direction)
        reached = sign * result.gain / optimum(loaded, mid, Linf(4 / 255))
        assert reached.min() >= share - 1e-3
        assert reached.max() <= 1 + 1e-3


def test_gradients_that_are_added_up_point_to_the_optimum_in_l2(
    tmp_path: Path, linear: Metric, mid: torch.Tensor
) -> None:
    path = train_perturbation(toy(tmp_path, "out", kind="cumulative", norm="l2", eps=0.5), silent)
    for direction, sign in SIGNS.items():
        result = load_attack(f"uap[file={path}]")(load_defense("none", linear), mid, L2(0.2), direction)
        assert np.allclose(sign * result.gain, optimum(linear, mid, L2(0.2)), rtol=2e-3)


def test_cumulative_is_the_clamped_sum_of_the_gradients(tmp_path: Path, linear: Metric) -> None:
    """Of the loss 1 - q / R: on a linear metric the gradient is -w / R in every step."""
    path = train_perturbation(toy(tmp_path, "out", kind="cumulative", lr=0.5, steps=3, eps=0.01), silent)
    data = load_dataset(f"folder[root={tmp_path / 'images'}]")
    scores = [float(linear(data.load(i)[None, :, 4:36, 6:38])) for i in range(len(data))]
    w = linear.module.weights(torch.empty(1, 3, 32, 32))  # type: ignore[operator]
    expected = (3 * 0.5 * w / float(np.subtract(*np.percentile(scores, [99, 1])))).clamp(-0.01, 0.01)
    assert bool((expected.abs() < 0.01).any())
    assert torch.allclose(read_tiles(path)[1]["up"], expected, atol=1e-5)


def test_the_loss_is_the_mean_score_in_units_of_the_range(mid: torch.Tensor) -> None:
    rng = Streams.create(["a", "b", "c"], Role.SEARCH)
    delta = torch.full((1, 3, 32, 32), 0.01)
    for name, oriented in (("linear", 1), ("linear-dmos", -1)):
        metric = load_metric(name)
        scores = metric((mid + 0.01).clamp(0, 1))
        for direction, sign in SIGNS.items():
            found = loss(load_defense("none", metric), mid, delta, direction, rng, 5.0)
            assert float(found) == pytest.approx(float((1 - oriented * sign * scores / 5).mean()), rel=1e-5)


def test_a_randomised_defence_is_trained_through(tmp_path: Path, linear: Metric, mid: torch.Tensor) -> None:
    defense = "median-smoothing[sigma=0.05,n=20,m=5]"
    path = train_perturbation(toy(tmp_path, "out", defense=defense, steps=40), silent)
    result = load_attack(f"uap[file={path}]")(load_defense("none", linear), mid, Linf(4 / 255))
    assert np.all(result.gain >= 0.99 * optimum(linear, mid, Linf(4 / 255)))
    assert '"defense": "median-smoothing' in json.dumps(read_tiles(path)[0])


# --- what a training leaves


def test_what_a_run_leaves(tmp_path: Path) -> None:
    config = toy(tmp_path, "out", validation=str(tmp_path / "images"))
    path = train_perturbation(config, silent)
    assert (path.parent / "perturbation.png").exists()
    assert len((path.parent / "perturbation.csv").read_text().splitlines()) == 4
    card = path.with_suffix(".md").read_text()
    for words in ("robustiqa train perturbation", "--plugin linear.py", "content hash", "4 of its images were trained"):
        assert words in card
    up, down = (next(line for line in card.splitlines() if line.startswith(f"| {d}")).split("|") for d in SIGNS)
    assert float(up[2]) > 5 * abs(float(up[3]))
    assert float(down[2]) < -5 * abs(float(down[3]))
    assert str(tmp_path) not in card
    with safe_open(path, framework="pt") as file:
        header = file.metadata()["robustiqa"]
    assert str(tmp_path) not in header
    assert {"kind", "method", "norm", "eps", "metric", "defense", "settings", "content of data"} <= set(
        json.loads(header)
    )
    assert {k: (v.dtype, tuple(v.shape)) for k, v in load_file(path).items()} == dict.fromkeys(
        SIGNS, (torch.float16, (3, 32, 32))
    )


@pytest.mark.parametrize("kind", ["optimised", "generative"])
def test_a_training_is_reproducible_and_goes_on_after_an_interruption(tmp_path: Path, kind: str) -> None:
    whole = train_perturbation(toy(tmp_path, "whole", kind=kind), silent).read_bytes()

    class Stop(Exception):
        """Stands in for a kill."""

    def interrupt(line: str) -> None:
        if line.startswith("perturbation 40/60"):
            raise Stop

    with pytest.raises(Stop):
        train_perturbation(toy(tmp_path, "parts", kind=kind), interrupt)
    lines: list[str] = []
    assert train_perturbation(toy(tmp_path, "parts", kind=kind), lines.append).read_bytes() == whole
    assert any("continuing after step 20" in line for line in lines)
    other = train_perturbation(toy(tmp_path, "other", kind=kind, seed=1, steps=20), silent)
    assert other.read_bytes() != whole
    with pytest.raises(BadParameter, match="another --out"):
        train_perturbation(toy(tmp_path, "parts", kind=kind, eps=0.02), silent)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_command_goes_on_to_the_same_file(tmp_path: Path) -> None:
    config = toy(tmp_path, "", steps=400)
    options = [f"--{k.replace('_', '-')}={v}" for k, v in vars(config).items() if k != "out"]

    def command(out: str) -> list[str]:
        words = ["train", "perturbation", *options]
        return [*words, f"--out={tmp_path / out}", "--plugin", str(PLUGIN)]

    assert len(killed_and_whole(command, tmp_path, "perturbation")) == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_generator_learns_and_keeps_its_budget(tmp_path: Path, linear: Metric, mid: torch.Tensor, norm: str) -> None:
    """A metric that likes brightness: every image has the same answer."""
    config = toy_generator(tmp_path, norm, norm=norm, eps=0.1 if norm == "linf" else 2.0, lr=0.01, metric="bowl")
    path = train_generator(config, silent)
    g = load_defense("none", load_metric("bowl"))
    for direction, sign in SIGNS.items():
        _, nets = read_generators(path)
        delta = nets[direction](mid).double()
        used = delta.abs().amax((1, 2, 3)) if norm == "linf" else delta.flatten(1).norm(dim=1)
        assert float(used.max()) <= config.eps * (1 + 1e-6)
        ours, noise = (
            load_attack(a)(g, mid, Threat(config.threat.norm, config.eps), direction).gain
            for a in (f"facpa[file={path}]", "random-noise")
        )
        assert np.all(sign * ours > sign * noise + 0.3 * np.abs(noise))


def test_the_option_eps_takes_fractions() -> None:
    done = CliRunner().invoke(cli, ["train", "perturbation", "--eps=300/255"])
    assert "linf eps 1.17647 is more than the whole range" in done.output


@pytest.mark.parametrize(("changes", "words"), [
    ({"kind": "sum"}, "expected one of optimised, cumulative"), ({"size": 12}, "--size 12"), ({"batch": 0}, "--batch"),
    ({"steps": 0}, "--steps 0"), ({"lr": float("nan")}, "--lr nan"), ({"norm": "l1"}, "unknown norm"),
    ({"eps": 0.0}, "--eps 0"), ({"eps": 2.0}, "whole range"), ({"log_every": 3}, "--checkpoint-every 20"),
    ({"metric": "tiny-iqa"}, "--size 32 is below the 64 pixels"), ({"metric": "linear[scale=0]"}, "range is no unit"),
])  # fmt: skip
def test_impossible_settings_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=words):
        train_perturbation(toy(tmp_path, "bad", **changes), silent)


def test_a_generator_needs_a_rate(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="--lr 0"):
        train_generator(toy_generator(tmp_path, "bad", lr=0.0), silent)


def test_a_metric_without_gradient_is_told(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="no usable gradient"):
        train_perturbation(toy(tmp_path, "out", metric="no-gradient"), silent)


# --- the attacks


@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255), Linf(0.5), L2(30.0)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (16, 9), (32, 32), (33, 64), (100, 131)], ids=str)
@pytest.mark.parametrize("attack", ["uap", "facpa"])
def test_any_size_within_the_budget(trained, linear, attack, size, threat) -> None:
    x = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(5))
    result = load_attack(f"{attack}[file={trained[attack]}]")(load_defense("none", linear), x, threat)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.all(used <= threat.eps)
    assert np.all(used > 0)
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1


@pytest.mark.parametrize("attack", [*SHIPPED_ATTACKS, "uap[amplitude=0.4]"])
@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255)], ids=str)
def test_the_budget_is_spent_and_the_metric_never_asked(attack: str, threat: Threat) -> None:
    metric, x = load_metric("counting"), torch.full((2, 3, 40, 250), 0.5)
    g = load_defense("none", metric)
    clean = g.estimate(x)
    metric.module.seen = 0  # type: ignore[assignment]
    result = load_attack(attack)(g, x, threat, clean=clean)
    assert metric.module.seen == 2 * len(x), "only the final scores, float and 8-bit"
    assert (result.forwards.sum(), result.backwards.sum(), result.queries.sum()) == (0, 0, 0)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.allclose(used, threat.eps * (0.4 if "amplitude" in attack else 1), rtol=1e-4)


def test_the_tile_is_repeated_from_the_corner_and_cut() -> None:
    tile = torch.arange(12.0).view(3, 2, 2)
    found = tiled(tile, torch.empty(5, 3, 3, 5))[0].numpy()
    assert found.tolist() == np.tile(tile.numpy(), (1, 2, 3))[:, :3, :5].tolist()


@pytest.mark.parametrize("attack", SHIPPED_ATTACKS)
def test_an_image_in_a_batch_fares_as_it_does_alone(linear: Metric, images: torch.Tensor, attack: str) -> None:
    g, attacker = load_defense("none", linear), load_attack(attack)
    together = attacker(g, images, L2(0.5))
    for i in range(len(images)):
        alone = attacker(g, images[i : i + 1], L2(0.5))
        assert torch.allclose(alone.adversarial[0], together.adversarial[i], atol=1e-5)


def test_balls_and_stretching(mid: torch.Tensor) -> None:
    for threat in (L2(0.5), Linf(0.1)):
        for size, factor in ((10.0, 1.0), (1e-4, 0.0)):
            delta = size * (mid - 0.5)
            full = stretched(delta, threat)
            norms = full.flatten(1).norm(dim=1) if threat.norm == "l2" else full.abs().amax((1, 2, 3))
            assert torch.allclose(norms, torch.full((3,), threat.eps))
            assert torch.allclose(inside(delta, threat), delta) == (factor == 0.0)
        assert torch.equal(stretched(torch.zeros_like(mid), threat), torch.zeros_like(mid))


def test_another_metric_is_warned_of(images: torch.Tensor, linear: Metric, trained: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="trained for the metric 'tiny-iqa' in l2, and is transferred to 'linear' in"):
        load_attack("uap")(load_defense("none", linear), images, L2(0.5))
    own = load_attack(f"uap[file={trained['uap']}]")
    with pytest.warns(UserWarning, match="'linear' in linf, and is transferred to 'linear' in l2"):
        own(load_defense("none", linear), images, L2(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(load_defense("none", linear), images, Linf(0.1))


# --- the shipped ones


@pytest.fixture(scope="module")
def references() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i) for i, item in enumerate(data.items) if item.id.endswith("/reference")])


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(("threat", "least"), [(Linf(4 / 255), 30.0), (Linf(10 / 255), 60.0), (L2(0.5), 3.0)], ids=str)
@pytest.mark.parametrize("attack", SHIPPED_ATTACKS)
def test_the_shipped_ones_move_unseen_photographs(references, attack, threat, least, direction) -> None:
    """Further than random noise of the same norm, by `least` points on a scale of 100."""
    g, sign = load_defense("none", load_metric("tiny-iqa")), SIGNS[direction]
    ours, noise = (sign * load_attack(a)(g, references, threat, direction).gain for a in (attack, "random-noise"))
    assert ours.mean() >= noise.mean() + least
    assert ours.mean() >= least


def test_shipped_files_are_small_and_have_a_card() -> None:
    for path in SHIPPED.values():
        assert path.stat().st_size < 600_000
        card = path.with_suffix(".md").read_text()
        assert path.name in card
        assert "clive[split=train]" in card


# --- files of every kind


def broken(path: Path, fault: str, folder: Path) -> Path:
    """A copy of a file with one thing wrong."""
    target = folder / f"{fault}.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["robustiqa"])
    tensors = load_file(path)
    if fault == "cut":
        target.write_bytes(path.read_bytes()[:1000])
        return target
    if fault == "text":
        target.write_text("not weights")
        return target
    if fault == "empty":
        target.touch()
        return target
    name = next(iter(tensors))
    if fault == "lacks":
        del tensors[name]
    if fault == "nan":
        tensors[name] = torch.full_like(tensors[name], torch.nan)
    if fault == "shape":
        tensors[name] = tensors[name][..., :1].contiguous()
    if fault == "kind":
        about["kind"] = "denoiser"
    if fault == "norm":
        about["norm"] = "l7"
    if fault == "eps":
        about["eps"] = float("nan")
    if fault == "no-eps":
        about["eps"] = 0.0
    if fault == "zero":
        tensors = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    if fault == "beyond-eps":
        tensors[name].view(-1)[-3:] = 16.0
    if fault == "integers":
        tensors[name] = torch.ones_like(tensors[name], dtype=torch.int32)
    if fault == "beyond-float32":
        tensors[name] = torch.full_like(tensors[name], 1e300, dtype=torch.float64)
    if fault == "no-metric":
        del about["metric"]
    header = {"robustiqa": "[]" if fault == "header" else json.dumps(about)}
    save_file(tensors, target, None if fault == "bare" else header)
    return target


FAULTS = ["cut", "text", "empty", "lacks", "nan", "shape", "kind", "norm", "eps", "no-eps", "zero", "integers",
          "beyond-float32", "no-metric", "header", "bare"]  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "fault"), [("uap", "beyond-eps"), *((a, fault) for a in ("uap", "facpa") for fault in FAULTS)]
)
def test_a_bad_file_is_one_sentence(trained, attack, fault, tmp_path) -> None:
    path = broken(trained[attack], fault, tmp_path)
    command = {"uap": "perturbation", "facpa": "generator"}[attack]
    with pytest.raises(BadData, match=rf"cannot be read .*`robustiqa train {command}`") as caught:
        load_attack(f"{attack}[file={path}]")
    assert "\n" not in str(caught.value)


def test_a_width_that_the_other_layers_do_not_have_is_not_allocated(trained, tmp_path) -> None:
    """A bias of a million channels: a network of that width would not fit into any memory."""
    tensors = load_file(trained["facpa"])
    with safe_open(trained["facpa"], framework="pt") as file:
        header = file.metadata()
    tensors["up.down.0.bias"] = torch.zeros(1_000_000)
    save_file(tensors, tmp_path / "wide.safetensors", header)
    with pytest.raises(BadData, match=r"has the shape"):
        load_attack(f"facpa[file={tmp_path / 'wide.safetensors'}]")


@pytest.mark.parametrize("scale", [1e-3, 1e-36])
def test_the_scale_of_a_tile_does_not_count(trained, linear, mid, scale, tmp_path) -> None:
    tensors = {k: (v.float() / v.float().abs().max() * scale) for k, v in load_file(trained["uap"]).items()}
    with safe_open(trained["uap"], framework="pt") as file:
        header = file.metadata()
    save_file(tensors, tmp_path / "scaled.safetensors", header)
    g = load_defense("none", linear)
    for threat in (Linf(0.05), L2(0.5)):
        plain, scaled = (
            load_attack(f"uap[file={p}]")(g, mid, threat) for p in (trained["uap"], tmp_path / "scaled.safetensors")
        )
        assert torch.allclose(plain.adversarial, scaled.adversarial, atol=1e-4)


def test_files_that_are_not_meant(trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"does not exist.*robustiqa train perturbation"):
        load_attack("uap[file=/nowhere/x.safetensors]")
    with pytest.raises(BadData, match="of kind 'perturbation-generator', expected 'universal-perturbation'"):
        load_attack(f"uap[file={trained['facpa']}]")
    with pytest.raises(BadData, match="of kind 'universal-perturbation', expected 'perturbation-generator'"):
        load_attack(f"facpa[file={trained['uap']}]")
    with pytest.raises(BadParameter, match="holds one of kind 'optimised'"):
        load_attack(f"uap[file={trained['uap']},kind=cumulative]")


@pytest.mark.parametrize("spec", ["uap[amplitude=0]", "uap[amplitude=1.5]", "uap[kind=sum]"])
def test_impossible_parameters_are_named(spec: str) -> None:
    with pytest.raises(BadParameter, match="expected"):
        load_attack(spec)
