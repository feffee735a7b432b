"""The adapter of pyiqa, against a package of that name that behaves as the real one does."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import load_dataset
from robustiqa.bench.api import Metric
from robustiqa.bench.cache import FOLDER
from robustiqa.bench.errors import (
    Absent,
    BadData,
    BadImage,
    BadParameter,
    BadPlugin,
    BadScore,
    RobustIQAError,
    UnknownName,
)  # fmt: skip
from robustiqa.bench.images import load_image
from robustiqa.bench.metrics import load_metric
from robustiqa.bench.metrics.pyiqa.names import NAMES as KNOWN
from robustiqa.bench.metrics.pyiqa.needs import Need
from robustiqa.bench.metrics.pyiqa.scores import Scores
from robustiqa.bench.metrics.pyiqa.traits import _TABLE, Traits
from robustiqa.bench.plan import unique
from robustiqa.bench.registry import identity_of
from robustiqa.defenses import load_defense
from torch import nn

NAMES = ["niqe", "brisque", "topiq_nr", "clipiqa+", "fid"]


class FakeNet(nn.Module):
    """Answers like pyiqa's wrapper: always with gradient, one dimension too many, spoiling its input, in train mode."""

    def __init__(self, name: str, options: dict[str, object]) -> None:
        super().__init__()
        self.options = options
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,1,1), or () for one image."""
        with torch.enable_grad():
            score = self.scale * x.mean((1, 2, 3)) + float(self.training)
            if not x.requires_grad:
                x.mul_(0)
            return score.reshape(()) if len(x) == 1 else score.reshape(-1, 1, 1)


def fake(create: Callable[..., nn.Module] | None = None) -> ModuleType:
    """A module `pyiqa` with some names and one way to build them."""
    module = ModuleType("pyiqa")
    module.list_models = lambda mode: {"NR": NAMES}[mode]  # type: ignore[attr-defined]
    module.create_metric = create or (lambda name, **options: FakeNet(name, options))  # type: ignore[attr-defined]
    return module


def configs() -> ModuleType:
    """What the fake package declares; the class of its networks is one that nobody has met."""
    module = ModuleType("pyiqa.default_model_configs")
    ranges = {"niqe": "~0, ~100", "brisque": "0, ~"}
    module.DEFAULT_CONFIGS = {  # type: ignore[attr-defined]
        name: {"metric_opts": {"type": "Fake"}, "metric_mode": "NR", "score_range": ranges.get(name, "0, 1")}
        | ({"lower_better": True} if name == "niqe" else {})
        for name in NAMES
    }
    return module


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a fake package."""

    def install(create: Callable[..., nn.Module] | None = None) -> None:
        monkeypatch.setitem(sys.modules, "pyiqa", fake(create))
        monkeypatch.setitem(sys.modules, "pyiqa.default_model_configs", configs())

    return install


def failing(error: Exception) -> Callable[..., nn.Module]:
    def create(name: str, **options: object) -> nn.Module:
        raise error

    return create


def test_scores_gradients_and_modes(pyiqa: Callable[..., None]) -> None:
    pyiqa()
    metric = load_metric("pyiqa:topiq_nr")
    assert isinstance(metric.module, Scores)
    assert metric.module.net.options == {"as_loss": True, "loss_reduction": "none", "device": torch.device("cpu")}
    metric.train()
    assert not any(module.training for module in metric.modules())
    assert not any(p.requires_grad for p in metric.parameters())
    for count in (1, 3):
        x = torch.rand(count, 3, 20, 24)
        before = x.clone()
        with torch.no_grad():
            score = metric(x)
        assert not score.requires_grad
        assert torch.equal(x, before)
        torch.testing.assert_close(score, 2 * x.mean((1, 2, 3)))
        with torch.inference_mode():
            torch.testing.assert_close(metric(x), score)
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(metric(x).sum(), x)
        torch.testing.assert_close(gradient, torch.full_like(x, 2 / x[0].numel()))


class Collects(FakeNet):
    """As MANIQA: keeps what its layers give until the call has ended."""

    def __init__(self, name: str, options: dict[str, object]) -> None:
        super().__init__(name, options)
        self.save_output: list[torch.Tensor] = []
        self.broken_off = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.save_output.append(super().forward(x.clone()))
        if self.broken_off:
            raise KeyboardInterrupt
        score = self.save_output[0]
        self.save_output.clear()
        return score


def test_a_call_that_is_broken_off_leaves_nothing_for_the_next(pyiqa: Callable[..., None]) -> None:
    pyiqa(lambda name, **options: Collects(name, options))
    metric = load_metric("pyiqa:topiq_nr")
    net: Any = metric.module.net
    images = torch.rand(2, 1, 3, 20, 24)
    net.broken_off = True
    with pytest.raises(KeyboardInterrupt):
        metric(images[0])
    net.broken_off = False
    torch.testing.assert_close(metric(images[1]).detach(), 2 * images[1].mean((1, 2, 3)))


def test_what_is_computed_from_the_weights_has_no_gradient(pyiqa: Callable[..., None]) -> None:
    """As LIQE's features of texts, whose graph would be kept, and could neither be copied nor walked twice."""

    class Texts(FakeNet):
        def __init__(self, name: str, options: dict[str, object]) -> None:
            super().__init__(name, options)
            self.features = 3 * self.scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.clone()) * self.features

    pyiqa(lambda name, **options: Texts(name, options))
    metric = copy.deepcopy(load_metric("pyiqa:topiq_nr"))
    x = torch.rand(1, 3, 20, 24)
    assert not metric(x).requires_grad
    for _ in range(2):
        metric(x.clone().requires_grad_(True)).sum().backward()


@pytest.mark.parametrize(("name", "lower_better", "score_range"), [
    ("niqe", True, (0.0, 100.0)),
    ("clipiqa+", False, (0.0, 1.0)),
])  # fmt: skip
def test_direction_and_range_are_pyiqas(
    pyiqa: Callable[..., None], name: str, lower_better: bool, score_range: tuple[float, float] | None
) -> None:
    pyiqa()
    metric = load_metric(f"pyiqa:{name}")
    assert (metric.spec, metric.lower_better, metric.score_range) == (f"pyiqa:{name}", lower_better, score_range)
    assert not metric.bounded


def test_an_open_end_is_measured_on_photographs(pyiqa: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa.ranges.PHOTOGRAPHS", FEW)
    pyiqa()
    metric = load_metric("pyiqa:brisque")
    data = load_dataset(FEW)
    brightness = [2 * float(data.load(i).mean()) for i in range(len(data))]
    assert metric.empirical_range
    assert metric.score_range == pytest.approx(np.percentile(brightness, [1, 99]), rel=1e-4)
    assert load_metric("pyiqa:brisque").score_range == metric.score_range
    asked = load_metric("pyiqa:niqe[score_range=empirical]")
    assert asked.empirical_range
    assert asked.score_range == metric.score_range
    given = load_metric("pyiqa:brisque[score_range=0;2.5]")
    assert (given.score_range, given.empirical_range) == ((0.0, 2.5), False)
    with pytest.raises(BadParameter, match="expected LOW;HIGH"):
        load_metric("pyiqa:brisque[score_range=3;2]")


@pytest.fixture
def measured(pyiqa: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A known network with an open end and a cache; the brightness of every image that it scores, as it does."""
    seen: list[float] = []

    class Told(FakeNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(x.detach().mean()))
            return super().forward(x) * float(self.options.get("gain", 1.0))  # type: ignore[arg-type]

    traits = Traits("fake", min_size=16)
    monkeypatch.setitem(_TABLE, "Fake", traits)
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa_adapter.needs", lambda about, **options: NEEDS)
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa.build.needs", lambda about, **options: [])
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa.build.missing", lambda about, **options: [])
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa_adapter.parse_options", lambda about, text: OPTIONS)
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr("robustiqa.bench.metrics.pyiqa.ranges.PHOTOGRAPHS", FEW)
    NEEDS.clear()
    OPTIONS.clear()
    WEIGHT[0] = 2.0

    def create(name: str, **options: object) -> nn.Module:
        net = Told(name, options)
        net.scale.data.fill_(WEIGHT[0])
        return net

    pyiqa(create)
    return seen


FEW = "photos[size=128,subset=references]"
"""Photographs without distortions, which take long to make, and of which a measured range is nothing special."""

NEEDS: list[Need] = []
OPTIONS: dict[str, object] = {}
WEIGHT = [2.0]


def test_a_measured_range_is_measured_once_for_the_same_metric(
    measured: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again for other weights, options, files, or versions; a damaged entry is measured again."""

    def load() -> tuple[tuple[float, float] | None, bool]:
        measured.clear()
        found = load_metric("pyiqa:brisque").score_range
        return found, bool(measured)

    first = load()
    assert first[1]
    assert load() == (first[0], False), "to the last bit"
    WEIGHT[0] = 4.0
    other, again = load()
    assert again
    assert other == pytest.approx([2 * end for end in first[0] or ()])
    WEIGHT[0] = 2.0
    assert load() == (first[0], False)
    OPTIONS["gain"] = 3.0
    assert load()[1]
    OPTIONS.clear()
    file = tmp_path / "forest.mat"
    file.write_bytes(b"one")
    NEEDS.append(Need("https://x.org/forest.mat", file, True))
    assert [load()[1], load()[1]] == [True, False]
    file.write_bytes(b"two")
    assert load()[1]
    NEEDS.clear()
    versions = "robustiqa.bench.metrics.pyiqa.ranges.version_of"
    with monkeypatch.context() as patch:
        patch.setattr(versions, lambda name: "9.9")
        assert load()[1]
    for entry in (tmp_path / "cache").rglob("*.npy"):
        content = bytearray(entry.read_bytes())
        content[-12] ^= 1  # a digit of the upper end
        entry.write_bytes(content)
    assert load() == first
    assert load() == (first[0], False)
    monkeypatch.delenv(FOLDER)
    assert load() == first, "without a cache it is the same, and measured"


def test_the_range_of_a_network_that_nobody_knows_is_measured_each_time(
    measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may read any file."""
    monkeypatch.delitem(_TABLE, "Fake")
    for _ in range(2):
        measured.clear()
        load_metric("pyiqa:brisque")
        assert len(measured) >= len(load_dataset(FEW))


class Odd(FakeNet):
    """What a network that nobody has met may do: see `test_what_is_tried`."""

    def __init__(self, way: str) -> None:
        super().__init__("", {})
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,1)."""
        score = self.scale * x.mean((1, 2, 3))
        if self.way == "alone":
            assert len(x) == 1, "one image at a time"
        elif self.way == "batch":
            score = score + x.mean()
        elif self.way == "large":
            assert min(x.shape[2:]) >= 100
        elif self.way == "multiples":
            assert x.shape[2] % 16 == x.shape[3] % 16 == 0
        elif self.way == "rounded":
            score = (100 * score).round()
        elif self.way == "inside":
            assert 0 <= float(x.detach().min()) <= float(x.detach().max()) <= 1
        elif self.way == "outside":
            score = score.detach()
        elif self.way == "random":
            score = score + torch.rand(())
        elif self.way == "empty":
            score = score * float("nan")
        return score[:, None]


@pytest.mark.parametrize(("way", "min_size", "multiple", "alone", "gradient"), [
    ("alone", 16, 1, True, True),
    ("batch", 16, 1, True, True),
    ("large", 112, 1, False, True),
    ("multiples", 16, 16, False, True),
    ("rounded", 16, 1, False, False),
    ("outside", 16, 1, False, False),
    ("inside", 16, 1, False, True),
])  # fmt: skip
def test_what_is_tried(
    pyiqa: Callable[..., None], way: str, min_size: int, multiple: int, alone: bool, gradient: bool
) -> None:
    pyiqa(lambda name, **options: Odd(way))
    metric = load_metric("pyiqa:niqe")
    assert isinstance(metric.module, Scores)
    found = (metric.min_size, metric.module.multiple, metric.module.alone, metric.differentiable)
    assert found == (min_size, multiple, alone, gradient)
    x = torch.rand(3, 3, 112, 128)
    apart = torch.cat([metric(image[None]) for image in x])
    torch.testing.assert_close(metric(x), apart)
    assert metric(x.requires_grad_(True)).requires_grad == gradient
    if way in ("alone", "inside"):
        noisy = 1.4 * x.detach() - 0.2  # as a smoothing defence hands over
        seen = noisy.clamp(0, 1) if way == "inside" else noisy
        torch.testing.assert_close(metric(noisy), 2 * seen.mean((1, 2, 3)))
    if way == "multiples":
        with pytest.raises(BadImage, match=r"120x112 px: expected multiples of 16"):
            metric(torch.rand(1, 3, 112, 120))
    if way == "large":
        with pytest.raises(BadImage, match="112x112"):
            metric(torch.rand(1, 3, 104, 104))


@pytest.mark.parametrize(("way", "words"), [("random", "two scores for one image"), ("empty", "no finite score")])
def test_what_cannot_be_repeated_or_scores_nothing_is_refused(pyiqa: Callable[..., None], way: str, words: str) -> None:
    pyiqa(lambda name, **options: Odd(way))
    with pytest.raises(BadScore, match=words):
        load_metric("pyiqa:niqe")


def test_attacks_know_what_has_no_gradient(pyiqa: Callable[..., None], photo: Path) -> None:
    pyiqa(lambda name, **options: Odd("rounded"))
    metric = load_metric("pyiqa:niqe")
    for defense in ("none", "jpeg", "median-smoothing[n=10,m=3]", "chain[steps=flip;unsharp]"):
        g = load_defense(defense, metric)
        assert not g.differentiable
        for attack in ("pgd", "apgd", "transfer", "naive", "torchattacks-pgd"):
            assert "metric 'pyiqa:niqe' does not give" in str(load_attack(attack).skip(g, Linf(0.1)))
        assert load_attack("square[queries=3]").skip(g, Linf(0.1)) is None
    assert load_defense("ensemble[others=tiny-iqa;lip-iqa]", metric).differentiable
    g = load_defense("none", metric)
    x = load_image(photo)[None]
    result = load_attack("auto-iqa")(g, x, Linf(0.1))
    assert int(result.backwards.sum()) == 0
    assert int(result.queries[0]) > 0


def test_both_spellings_are_one_metric(pyiqa: Callable[..., None]) -> None:
    pyiqa()
    assert load_metric("pyiqa[name=niqe]").lower_better
    assert unique("metric", ["pyiqa:niqe", "pyiqa[name=niqe]", "pyiqa:brisque"]) == ["pyiqa:niqe", "pyiqa:brisque"]
    assert identity_of("metric", "pyiqa:niqe") == identity_of("metric", "pyiqa[name=niqe]")
    assert identity_of("metric", "pyiqa:niqe") != identity_of("metric", "pyiqa:brisque")
    with pytest.raises(BadParameter, match="already gives 'name'"):
        load_metric("pyiqa:niqe[name=brisque]")
    with pytest.raises(UnknownName, match="did you mean 'tiny-iqa'"):
        load_metric("tiny-iqa:niqe")


def test_identity_has_the_version_of_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for version in ("0.1.16", "0.1.17"):
        monkeypatch.setattr("robustiqa.bench.registry.version_of", lambda name, version=version: version)
        found.add(identity_of("metric", "pyiqa:niqe"))
    assert len(found) == 2


def test_own_weights(pyiqa: Callable[..., None], tmp_path: Path) -> None:
    pyiqa()
    weights = tmp_path / "weights.pth"
    with pytest.raises(BadData, match="do not exist"):
        load_metric(f"pyiqa:topiq_nr[weights={weights}]")
    torch.save({"w": torch.zeros(1)}, weights)
    metric = load_metric(f"pyiqa:topiq_nr[weights={weights}]")
    assert isinstance(metric, Metric)
    assert metric.module.net.options["pretrained_model_path"] == str(weights)  # type: ignore[union-attr, index]
    first = identity_of("metric", metric.spec)
    torch.save({"w": torch.ones(1)}, weights)
    assert first != identity_of("metric", metric.spec)
    pyiqa(failing(RuntimeError("size mismatch")))
    with pytest.raises(BadData, match=r"do not fit .*size mismatch"):
        load_metric(metric.spec)


@pytest.mark.parametrize(("error", "kind", "words"), [
    (URLError("no network"), Absent, r"cannot be downloaded .*no network.*create_metric\('niqe'\)"),
    (ImportError("No module named 'clip'"), Absent, "needs another package .*clip"),
    (RuntimeError("odd"), BadPlugin, "cannot build its metric 'niqe' .*odd"),
])  # fmt: skip
def test_what_cannot_be_built(
    pyiqa: Callable[..., None], error: Exception, kind: type[RobustIQAError], words: str
) -> None:
    pyiqa(failing(error))
    with pytest.raises(RobustIQAError, match=words) as found:
        load_metric("pyiqa:niqe")
    assert type(found.value) is kind


def test_unknown_names_and_measures_of_many_images(pyiqa: Callable[..., None]) -> None:
    pyiqa()
    with pytest.raises(UnknownName, match="did you mean 'topiq_nr'"):
        load_metric("pyiqa:topiq_nq")
    with pytest.raises(UnknownName, match="metric of pyiqa 'fid'"):
        load_metric("pyiqa:fid")
    with pytest.raises(BadParameter, match=r"pyiqa\[name="):
        load_metric("pyiqa")


@pytest.mark.parametrize(("source", "kind", "words"), [
    ("import no_such_package", Absent, "package 'no_such_package', which is not installed: pip install"),
    ("raise RuntimeError('operator torchvision::nms does not exist')", BadPlugin, r"nms.*builds for each other"),
])  # fmt: skip
def test_a_lacking_package_is_absent_and_a_wrong_build_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, kind: type[RobustIQAError], words: str
) -> None:
    (tmp_path / "pyiqa.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(RobustIQAError, match=words) as found:
        load_metric("pyiqa:niqe")
    assert type(found.value) is kind


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(Absent, match=r"package 'pyiqa', which is not installed: pip install 'robustiqa\[pyiqa\]'"):
        load_metric("pyiqa:niqe")


@pytest.mark.parametrize(("name", "words"), [
    ("topiq_nrr", "no metric of one image called 'topiq_nrr': did you mean 'topiq_nr'?"),
    ("topiq-nr", "did you mean 'topiq_nr'?"),
    ("qwertz", "no metric of one image called 'qwertz': docs/pyiqa.md lists them"),
    ("fid", "no metric of one image called 'fid'"),
])  # fmt: skip
def test_not_installed_and_mistyped(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(Absent, match=r"not installed: pip install") as found:
        load_metric(f"pyiqa:{name}")
    assert words in str(found.value)


def test_the_names_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "pyiqa.md").read_text().split("## Every no-reference metric")[1]
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `") for row in rows if "not a metric of one image" not in row[-2]} == KNOWN
