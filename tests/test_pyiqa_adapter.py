"""The adapter of pyiqa, against a package of that name that behaves as the real one does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from robustiqa.bench.api import Metric
from robustiqa.bench.errors import Absent, BadData, BadParameter, BadPlugin, RobustIQAError, UnknownName
from robustiqa.bench.metrics import load_metric
from robustiqa.bench.metrics import pyiqa_adapter as adapter
from robustiqa.bench.plan import unique
from robustiqa.bench.registry import identity_of
from torch import nn


class FakeNet(nn.Module):
    """Answers like pyiqa's wrapper: always with gradient, one dimension too many, spoiling its input, in train mode."""

    def __init__(self, name: str, options: dict[str, object]) -> None:
        super().__init__()
        self.options = options
        self.lower_better = name == "niqe"
        self.score_range = {"niqe": "~0, ~100", "brisque": "0, ~"}.get(name, "0, 1")
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
    module.list_models = lambda mode: {"NR": ["niqe", "brisque", "topiq_nr", "clipiqa+", "fid"]}[mode]  # type: ignore[attr-defined]
    module.create_metric = create or (lambda name, **options: FakeNet(name, options))  # type: ignore[attr-defined]
    return module


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a fake package."""

    def install(create: Callable[..., nn.Module] | None = None) -> None:
        monkeypatch.setitem(sys.modules, "pyiqa", fake(create))

    return install


def failing(error: Exception) -> Callable[..., nn.Module]:
    def create(name: str, **options: object) -> nn.Module:
        raise error

    return create


def test_scores_gradients_and_modes(pyiqa: Callable[..., None]) -> None:
    pyiqa()
    metric = load_metric("pyiqa:topiq_nr")
    assert isinstance(metric.module, adapter._Scores)
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


@pytest.mark.parametrize(("name", "lower_better", "score_range"), [
    ("niqe", True, (0.0, 100.0)),
    ("brisque", False, None),
    ("clipiqa+", False, (0.0, 1.0)),
])  # fmt: skip
def test_direction_and_range_are_pyiqas(
    pyiqa: Callable[..., None], name: str, lower_better: bool, score_range: tuple[float, float] | None
) -> None:
    pyiqa()
    metric = load_metric(f"pyiqa:{name}")
    assert (metric.spec, metric.lower_better, metric.score_range) == (f"pyiqa:{name}", lower_better, score_range)
    assert not metric.bounded


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
    weights.write_bytes(b"1")
    metric = load_metric(f"pyiqa:topiq_nr[weights={weights}]")
    assert isinstance(metric, Metric)
    assert metric.module.net.options["pretrained_model_path"] == str(weights)  # type: ignore[union-attr, index]
    first = identity_of("metric", metric.spec)
    weights.write_bytes(b"2")
    assert first != identity_of("metric", metric.spec)
    pyiqa(failing(RuntimeError("size mismatch")))
    with pytest.raises(BadData, match=r"do not fit .*size mismatch"):
        load_metric(metric.spec)


@pytest.mark.parametrize(("error", "kind", "words"), [
    (URLError("no network"), Absent, r"cannot be downloaded .*no network.*weights=FILE"),
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
