"""Training of a denoiser for a metric: terms of the loss, what moves and what must not, resume, bad input."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.bench import Metric, files, load_metric
from robustiqa.bench.datasets.folder import Folder
from robustiqa.bench.errors import BadData, BadParameter, Incompatible
from robustiqa.bench.registry import registry
from robustiqa.bench.training import sources
from robustiqa.bench.training.loop import Learner, initialise, save_weights
from robustiqa.bench.training.pool import open_data
from robustiqa.defenses.denoisers import load_denoiser, training
from robustiqa.defenses.denoisers.evaluate import Validation
from robustiqa.defenses.denoisers.losses import rank_loss, target_loss, terms_of
from robustiqa.defenses.denoisers.material import Batch, Material
from robustiqa.defenses.denoisers.nets import DnCNN, LightDenoiser
from robustiqa.defenses.denoisers.training import DenoiserTrainConfig, denoiser_losses, train_denoiser
from safetensors.torch import load_file
from support import killed_and_whole
from torch import nn

PLUGIN = Path(__file__).parent / "plugins" / "linear.py"
SILENT = {"say": lambda _: None}


@pytest.fixture(autouse=True)
def plugins() -> None:
    if "linear" not in registry.names("metric"):
        registry.load_file(PLUGIN)


def make_folder(root: Path, count: int = 8, rated: bool = False) -> Path:
    """Small procedural images, with a table of scores where asked for."""
    root.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(sources.procedural(np.random.default_rng(i), 72)).save(root / f"{i}.png")
    if rated:
        rows = "".join(f"{i}.png,{i}\n" for i in range(count))
        (root / "scores.csv").write_text("image,mos\n" + rows)
    return root


def toy(tmp_path: Path, out: str, **changes: object) -> DenoiserTrainConfig:
    config = DenoiserTrainConfig(
        metric="linear",
        data=str(make_folder(tmp_path / "images")),
        validation=str(tmp_path / "images"),
        out=str(tmp_path / out),
        width=8,
        crop=32,
        batch=4,
        steps=12,
        validation_images=3,
        validation_draws=2,
        validate_every=4,
        checkpoint_every=4,
        log_every=4,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- the terms


def test_ranking_loss_against_the_formula_written_out() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=9), rng.integers(0, 4, size=9).astype(float)
    for groups in ([range(9)], [range(5), range(5, 9)], [[2]], [[]]):
        hinges = [
            max(0.0, 0.3 - np.sign(truth[i] - truth[j]) * (scores[i] - scores[j]))
            for group in groups for i in group for j in group if i != j and truth[i] != truth[j]
        ]  # fmt: skip
        index = [torch.tensor(list(group), dtype=torch.long) for group in groups]
        found = rank_loss(torch.from_numpy(scores), torch.from_numpy(truth), 0.3, index)
        assert float(found) == pytest.approx(np.mean(hinges) if hinges else 0.0)


def test_ranking_loss_is_zero_for_the_right_order_and_falls_towards_it() -> None:
    truth = torch.tensor([1.0, 2.0, 3.0])
    everything = [torch.arange(3)]
    assert float(rank_loss(0.5 * truth, truth, 0.4, everything)) == 0.0
    assert float(rank_loss(-truth, truth, 0.0, everything)) == pytest.approx(4 / 3)
    scores = torch.zeros(3, requires_grad=True)
    rank_loss(scores, truth, 0.1, everything).backward()
    assert scores.grad is not None
    assert scores.grad[0] > 0 > scores.grad[2], "descent lowers the worst image's score and raises the best one's"


@pytest.mark.parametrize(("loss", "terms"), [
    ("mse", ("mse",)), ("mse+target", ("mse", "target")), ("rank+mse+target", ("rank", "mse", "target")),
    ("mse+spread", ("mse", "spread")),
    ("stability", ("target",)),
])  # fmt: skip
def test_names_of_losses(loss: str, terms: tuple[str, ...]) -> None:
    assert terms_of(loss) == terms


@pytest.mark.parametrize("loss", ["", "mse+", "msee", "mse+mse", "stability+mse"])
def test_unknown_losses_are_named(loss: str) -> None:
    with pytest.raises(BadParameter, match="expected stability, or terms"):
        terms_of(loss)


@pytest.mark.parametrize("terms", [("mse",), ("target",), ("rank",), ("spread",), ("mse", "target", "rank")])
def test_gradient_of_each_term_against_finite_differences(terms: tuple[str, ...]) -> None:
    """In double precision, through the metric, for weights in every layer; half of the images have a human score."""
    metric = load_metric("tiny-iqa").double()
    net = DnCNN(3, 4).double()
    initialise(net, 1)
    net.last.weight.data.mul_(0.1)
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand((6, 3, 64, 64), generator=generator, dtype=torch.float64)
    clean[1::2] *= torch.linspace(0.2, 1, 3, dtype=torch.float64)[:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    level = torch.full((6,), 0.1, dtype=torch.float64)
    truth = torch.tensor([1.0, torch.nan, 3.0, torch.nan, 2.0, torch.nan], dtype=torch.float64)
    batch = Batch(clean, noise, level, truth)

    def value() -> torch.Tensor:
        losses = denoiser_losses(net, metric, batch, terms, span=50.0, margin=0.05)
        return torch.stack([losses[t] for t in terms]).sum()

    value().backward()
    checked = {n: p for n, p in net.named_parameters() if n in ("layers.0.weight", "layers.1.bias", "last.weight")}
    assert len(checked) == 3
    for parameter in checked.values():
        assert parameter.grad is not None
        place = np.unravel_index(int(parameter.grad.abs().argmax()), parameter.shape)
        ends = []
        for step in (1e-6, -2e-6):
            parameter.data[place] += step
            ends.append(float(value().detach()))
        parameter.data[place] += 1e-6
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(parameter.grad[place]), rel=1e-3)


def test_a_metric_where_less_is_better_trains_the_same() -> None:
    """linear-dmos is the same function, called a distortion score: its quality is the negative."""
    up, down = load_metric("linear"), load_metric("linear-dmos")
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(training.quality(up)(x), up(x))
    assert torch.equal(training.quality(down)(x), -up(x))
    nan = torch.full((2,), torch.nan)
    batch = Batch(x, torch.zeros_like(x), torch.zeros(2), nan)
    losses = [denoiser_losses(nn_identity, training.quality(m), batch, ("rank",), 1.0, 1.0) for m in (up, down)]
    gap = float((up(x)[0] - up(x)[1]).abs())
    for found in losses:  # without noise and denoiser the order is right: only the margin is missing
        assert float(found["rank"]) == pytest.approx(max(0.0, 1.0 - gap))


def nn_identity(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    return x


# --- the material


def test_a_batch_is_crops_of_different_photographs_with_their_scores(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "rated", rated=True)
    material = Material(Folder(str(root), table="scores.csv"), 32, 8, 0.25, **SILENT)
    batch = material.batch(np.random.default_rng(0), (0.1, 0.2))
    rated = torch.isfinite(batch.truth)
    assert rated.tolist() == [True] * 6 + [False] * 2
    assert len(set(batch.truth[rated].tolist())) == 6, "two crops of one photograph have the same score"
    assert batch.clean.shape == batch.noise.shape == (8, 3, 32, 32)
    assert float(batch.clean.min()) >= 0
    assert float(batch.clean.max()) <= 1
    assert ((batch.level >= 0.1) & (batch.level <= 0.2)).all()
    assert float(batch.noise.std()) == pytest.approx(1, abs=0.03)
    again = material.batch(np.random.default_rng(0), (0.1, 0.2))
    assert all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(batch, again, strict=True))


def test_unusable_images_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    (root / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((40, 20, 3), np.uint8)).save(root / "narrow.png")
    lines: list[str] = []
    material = Material(open_data(str(root)), 32, 4, 0.5, lines.append)
    assert len(material) == 8
    assert {row.image for row in material.left_out} == {"broken.png", "narrow.png"}
    assert any("broken.png' is corrupt" in line for line in lines)
    assert any("narrow.png: 20x40 pixels, smaller than the crop of 32" in line for line in lines)
    assert lines[-1] == "2 of 10 images are left out, 8 are trained on"
    config = toy(tmp_path, "out")
    card = train_denoiser(config, **SILENT).with_suffix(".md").read_text()
    assert "left out 2 images: broken.png" in card
    assert str(tmp_path) not in card


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    with pytest.raises(BadData, match="only 0 can be read and have 128 pixels"):
        Material(open_data(str(root)), 128, 4, 0.5, **SILENT)


@pytest.mark.parametrize(("data", "words"), [
    ("/nowhere/images", "no such folder"), ("clive", "would be its test split"), ("clive[limit=3]", "test split"),
    ("imagenet", "no data set of that name"),
])  # fmt: skip
def test_data_that_cannot_be_meant(data: str, words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_data(data)


def test_a_data_set_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert open_data("photos").truth_name == "pseudo-MOS (SSIM)"
    assert open_data("./photos").truth_name is None


# --- the validation


def test_validation_of_a_perfect_denoiser(tmp_path: Path) -> None:
    """Without noise nothing changes: correlation 1 to the clean scores, no spread."""
    metric = load_metric("linear")
    data = open_data(str(make_folder(tmp_path / "images")))
    watch = Validation(data, metric, 1e-9, 0, 3, torch.device("cpu"))
    found = watch(nn.Identity())
    assert found["srocc_clean"] == found["srocc"] == 1.0
    assert found["spread"] < 1e-5
    assert found["psnr"] > 100


def test_validation_knows_the_spread_of_a_linear_metric(tmp_path: Path) -> None:
    """Under noise of level s a linear metric has the standard deviation s |w|."""
    metric = load_metric("linear")
    data = open_data(str(make_folder(tmp_path / "images")))
    found = Validation(data, metric, 0.2, 0, 60, torch.device("cpu"))(nn.Identity())
    scores = [float(metric(data.load(i)[None])) for i in range(len(data))]
    span = np.subtract(*np.percentile(scores, [99, 1]))
    w = metric.module.get_buffer("w")[:, :72, :72]
    assert found["spread"] == pytest.approx(0.2 * float(w.norm()) / span, rel=0.1)
    assert found["psnr"] == pytest.approx(-20 * np.log10(0.2), abs=0.1)


# --- the training


def test_the_metric_does_not_move_and_the_denoiser_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Metric] = []
    monkeypatch.setattr(training, "load_metric", lambda *a: used.append(load_metric(*a)) or used[-1])
    path = train_denoiser(toy(tmp_path, "out", metric="tiny-iqa", crop=64), **SILENT)
    fresh = load_metric("tiny-iqa").state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in used[0].state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in used[0].parameters())
    start = training._network(toy(tmp_path, "out")).state_dict()
    weights = load_file(path)
    assert all(not torch.equal(weights[key], start[key]) for key in weights if key.endswith("weight"))


def test_what_a_run_leaves(tmp_path: Path) -> None:
    path = train_denoiser(toy(tmp_path, "out", photographs=str(tmp_path / "images")), **SILENT)
    out = tmp_path / "out"
    assert [row["step"] for row in rows_of(out / "denoiser.csv")] == ["4", "8", "12"]
    assert set(rows_of(out / "denoiser.csv")[0]) == {"step", "mse", "target", "rank", "seconds_per_step"}
    assert [row["step"] for row in rows_of(out / "denoiser-validation.csv")] == ["0", "4", "8", "12"]
    assert Image.open(out / "denoiser.png").size[0] > 300
    card = path.with_suffix(".md").read_text()
    for words in ("robustiqa train denoiser", "content hash", "training time", "peak memory", "100 mse + 1 target"):
        assert words in card
    assert re.search(r"\| start .*\n\| trained ", card)
    assert "--plugin linear.py" in card, "or the command would not know the metric"
    net = load_denoiser(str(path), 0.12)
    assert net.trained_sigma == 0.12
    assert net(torch.full((1, 3, 40, 40), 0.3)).shape == (1, 3, 40, 40)


def test_training_lowers_both_losses(tmp_path: Path) -> None:
    config = toy(tmp_path, "out", loss="mse+target", lr=2e-3, steps=240, batch=8, checkpoint_every=60, log_every=60,
                 validate_every=0)  # fmt: skip
    train_denoiser(config, **SILENT)
    rows = rows_of(tmp_path / "out" / "denoiser.csv")
    for column in ("mse", "target"):
        assert float(rows[-1][column]) < 0.8 * float(rows[0][column])
    assert float(rows[-1]["mse"]) < 0.12**2, "better than leaving the noise in"


@pytest.mark.parametrize("changes", [
    {"net": "dncnn-light", "width": 4}, {"net": "unet", "conditioned": True, "sigma_low": 0.05},
    {"net": "dncnn-light", "width": 4, "conditioned": True, "loss": "mse"}, {"precision": "bfloat16"},
    {"precision": "bfloat16-all"},
    {"rank_by": "score", "distort": 0.0},
    {"loss": "mse+target+rank+spread"},
], ids=str)  # fmt: skip
def test_every_network_and_setting_trains(changes: dict[str, object], tmp_path: Path) -> None:
    path = train_denoiser(toy(tmp_path, "out", validation="", **changes), **SILENT)
    net = load_denoiser(str(path), 0.1)
    assert torch.isfinite(net(torch.full((1, 3, 33, 40), 0.3))).all()
    assert getattr(net, "trained_range", None) == ((0.05, 0.12) if "sigma_low" in changes else (0.0, float("inf")))


class Stop(Exception):
    """Stands in for a kill."""


def test_a_resumed_training_gives_the_same_weights_and_logs(tmp_path: Path) -> None:
    whole = load_file(train_denoiser(toy(tmp_path, "whole"), **SILENT))

    def interrupt(line: str) -> None:
        if line.startswith("denoiser 8/12 validation"):
            raise Stop

    with pytest.raises(Stop):
        train_denoiser(toy(tmp_path, "parts"), say=interrupt)
    lines: list[str] = []
    parts = load_file(train_denoiser(toy(tmp_path, "parts"), say=lines.append))
    assert any("continuing after step 4" in line for line in lines)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    for name in ("denoiser.csv", "denoiser-validation.csv"):
        pair = [[{k: v for k, v in row.items() if k != "seconds_per_step"} for row in rows_of(tmp_path / run / name)]
                for run in ("whole", "parts")]  # fmt: skip
        assert pair[0] == pair[1]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_command_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = toy(tmp_path, "", steps=24, checkpoint_every=4, log_every=4, validation="")
    options = [f"--{k.replace('_', '-')}={v}" for k, v in vars(config).items()
               if k not in ("out", "conditioned", "photographs", "start", "validation")]  # fmt: skip

    def command(out: str) -> list[str]:
        words = ["train", "denoiser", *options, "--validation="]
        return [*words, f"--out={tmp_path / out}", "--plugin", str(PLUGIN)]

    assert len(killed_and_whole(command, tmp_path, "denoiser")) == 1


def test_validation_images_that_are_trained_on_are_told(tmp_path: Path) -> None:
    """Whatever they are called; others of the same name are not."""
    lines: list[str] = []
    copies = make_folder(tmp_path / "copies", 3)
    (copies / "0.png").rename(copies / "zero.png")
    Image.fromarray(np.full((72, 72, 3), 9, np.uint8)).save(copies / "1.png")
    path = train_denoiser(toy(tmp_path, "out", validation=str(copies)), say=lines.append)
    assert "note: 2 of 3 validation images are trained on: their figures prove nothing" in lines
    assert "; 2 of them were trained on" in path.with_suffix(".md").read_text()


def test_what_is_watched() -> None:
    assert DenoiserTrainConfig().watched == "clive[split=val]"
    assert DenoiserTrainConfig(data="koniq10k[root=x,split=train]").watched == "koniq10k[root=x,split=val]"
    assert DenoiserTrainConfig(data="photographs").watched == "", "nothing is held out"
    assert DenoiserTrainConfig(validation="").watched == ""


# --- bad input


def test_a_metric_without_gradient_is_told(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="no usable gradient"):
        train_denoiser(toy(tmp_path, "out", metric="no-gradient"), **SILENT)
    assert train_denoiser(toy(tmp_path, "mse", metric="no-gradient", loss="mse"), **SILENT).exists()


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return target_loss(scores, target) * (float("nan") if calls == 7 else 1.0)

    monkeypatch.setattr(training, "target_loss", poisoned)
    with pytest.raises(BadParameter, match=r"loss is nan.*at step 6.*last checkpoint before it is kept"):
        train_denoiser(toy(tmp_path, "out"), **SILENT)
    stored = torch.load(tmp_path / "out" / "denoiser.pt", weights_only=True)
    assert stored["step"] == 4
    assert all(torch.isfinite(v).all() for v in stored["learner"]["ema"].values())
    monkeypatch.setattr(training, "target_loss", target_loss)
    parts = load_file(train_denoiser(toy(tmp_path, "out"), **SILENT))
    whole = load_file(train_denoiser(toy(tmp_path, "whole"), **SILENT))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["denoiser.csv", ".denoiser.pt.tmp"], ids=["log", "checkpoint"])
def test_a_full_disk_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "temporary_name", lambda path: path.with_name(f".{path.name}.tmp"))

    def fill(line: str) -> None:
        """The disk is full from the first log row on."""
        if line.startswith("denoiser 4/12 mse"):
            (tmp_path / "out" / name).unlink(missing_ok=True)
            (tmp_path / "out" / name).symlink_to("/dev/full")

    with pytest.raises(BadData, match="free some space and run again"):
        train_denoiser(toy(tmp_path, "out"), say=fill)


@pytest.mark.parametrize(("changes", "words"), [
    ({"crop": 33}, "--crop 33"), ({"log_every": 3}, "--checkpoint-every 4"), ({"batch": 1}, "--batch 1"),
    ({"steps": 0}, "--steps 0"), ({"log_every": 0}, "--log-every 0"), ({"checkpoint_every": 0}, "--checkpoint-every"),
    ({"lr": float("nan")}, "--lr nan"), ({"lr": -1.0}, "--lr -1"), ({"ema": float("nan")}, "--ema nan"),
    ({"seed": -1}, "--seed -1"), ({"width": -3}, "--width -3"), ({"threads": 0}, "--threads 0"),
    ({"image_weight": -1.0}, "--image-weight -1"), ({"margin": float("inf")}, "--margin inf"),
    ({"validation_draws": 1}, "--validation-draws 1"), ({"sigma": float("inf")}, "noise levels"),
    ({"sigma": 30.0}, "noise levels"), ({"metric": "tiny-iqa"}, "--crop 32 is below the 64 pixels"),
    ({"sigma": 0.0}, "noise levels"), ({"sigma_low": 0.2}, "noise levels"), ({"net": "resnet"}, "expected one of"),
    ({"precision": "half"}, "expected one of"), ({"rank_by": "chance"}, "expected one of"),
    ({"distort": 1.5}, "--distort 1.5"), ({"loss": "stability"}, "give --start"),
    ({"start": "light-s0.12"}, "another network"),
])  # fmt: skip
def test_impossible_settings_are_named(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=words):
        train_denoiser(toy(tmp_path, "bad", **changes), **SILENT)


def test_a_constant_metric_has_no_unit(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="its range is no unit"):
        train_denoiser(toy(tmp_path, "out", metric="linear[scale=0]"), **SILENT)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Also one whose metric, data or validation only bear the same name."""
    train_denoiser(toy(tmp_path, "out"), **SILENT)
    other = str(make_folder(tmp_path / "others", 5))
    for change in ({"margin": 0.2}, {"seed": 1}, {"loss": "mse+target"}, {"metric": "linear[scale=2.0]"},
                   {"validation": other}, {"data": other}, {"validation_draws": 3}):  # fmt: skip
        with pytest.raises(BadParameter, match="another --out"):
            train_denoiser(toy(tmp_path, "out", **change), **SILENT)
    start = train_denoiser(toy(tmp_path, "start", loss="mse"), **SILENT)
    train_denoiser(toy(tmp_path, "from", start=str(start)), **SILENT)
    save_weights(load_denoiser(str(start), 0.1).apply(_double), start, {"kind": "denoiser"})
    with pytest.raises(BadParameter, match="another --out"):
        train_denoiser(toy(tmp_path, "from", start=str(start)), **SILENT)


def _double(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.mul_(2)


def test_weights_that_are_not_finite_are_neither_kept_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poison(self: Learner, loss: torch.Tensor, step: int) -> None:
        if step == 6:
            next(iter(self.ema.values())).fill_(float("nan"))

    monkeypatch.setattr(Learner, "update", poison)
    with pytest.raises(BadParameter, match="weights are not finite after step 8"):
        train_denoiser(toy(tmp_path, "out"), **SILENT)
    assert torch.load(tmp_path / "out" / "denoiser.pt", weights_only=True)["step"] == 4
    net = LightDenoiser(8)
    net.last.bias.data.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(BadData, match="not finite"):
        load_denoiser(str(save_weights(net, tmp_path / "bad.safetensors", {"kind": "denoiser"})), 0.1)


@pytest.mark.parametrize("header", [{"metric": "[[["}, {"metric": 5}, {"sigma": float("nan")}, {"sigma": 7}])
def test_a_strange_header_is_told_when_the_file_is_read(header: dict[str, object], tmp_path: Path) -> None:
    path = save_weights(LightDenoiser(8), tmp_path / "odd.safetensors", {"kind": "denoiser", **header})
    with pytest.raises(BadData, match="the header's"):
        load_denoiser(str(path), 0.1)
