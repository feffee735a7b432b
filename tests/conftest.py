"""Fixtures that several test files use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.bench import Metric, load_metric, run_suite, trust
from robustiqa.bench.executors import supervisor
from robustiqa.bench.registry import Plugin, registry
from robustiqa.bench.session import SESSION
from small_runs import FAULTS, tiny

# Two threads on a busy machine wait for each other at every barrier: ten times slower than one.
torch.set_num_threads(1)

PLUGIN = Path(__file__).parent / "plugins" / "linear.py"

LONG = ("test_soundness", "test_attacks", "test_certified_methods", "test_executors", "test_run_faults", "test_dask",
        "test_attacks_query", "test_attacks_all", "test_train_denoiser")  # fmt: skip
"""Files that begin first where several processes share them: the last one to begin is what all others wait for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", autouse=True)
def linear_plugin() -> Path:
    """The plug-in file with the linear metrics, loaded once."""
    registry.load_file(PLUGIN)
    return PLUGIN


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """No test cuts the power: waiting until files are on the disk would be a tenth of the time of all runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def own_plugins(linear_plugin: Path) -> Iterator[None]:
    """What a file of tests registers and trusts ends with it: the next one in the same process begins anew."""
    with _forgotten():
        yield


@pytest.fixture
def plugins_of_this_test() -> Iterator[None]:
    """What the test registers and trusts ends with it."""
    with _forgotten():
        yield


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    of_files = {kind: _of_files(found) for kind, found in registry._loaded.items()}
    files, trusted = dict(registry._files), set(trust._TRUSTED)
    yield
    for kind, found in registry._loaded.items():
        for name in _of_files(found):
            del found[name]
        found |= of_files[kind]
    registry._files, trust._TRUSTED = files, trusted


def _of_files(found: Mapping[str, Plugin]) -> dict[str, Plugin]:
    """Those that are not built in: modules of these are not imported again, so they would be lost."""
    return {name: plugin for name, plugin in found.items() if plugin.origin.startswith(("file", SESSION))}


@pytest.fixture(scope="module")
def faults(own_plugins: None) -> None:
    """The plug-ins that the tests of the runner are made of (`small_runs.tiny`)."""
    registry.load_file(FAULTS)


@pytest.fixture(scope="module")
def inline(faults: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, undisturbed."""
    out = tmp_path_factory.mktemp("runs") / "inline"
    assert run_suite(tiny(), out, progress=False).ok
    return out


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting before a cell is tried again."""
    monkeypatch.setattr(supervisor, "PAUSE", 0.0)


@pytest.fixture
def linear() -> Metric:
    return load_metric("linear")


@pytest.fixture
def images() -> torch.Tensor:
    """Three 48x40 images in [0.2, 0.8]: the box does not bind for small budgets."""
    generator = torch.Generator().manual_seed(11)
    return 0.2 + 0.6 * torch.rand(3, 3, 48, 40, generator=generator)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An 8-bit RGB file with mid-range values, 64x64."""
    rng = np.random.default_rng(5)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(60, 196, (64, 64, 3), dtype=np.uint8), "RGB").save(path)
    return path


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real data (CLIVE, BSDS500, ...): $ROBUSTIQA_DATA, or `shared/data` beside the repository."""
    named = os.environ.get("ROBUSTIQA_DATA")
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(named) if named else beside
    if not root.is_dir():
        pytest.skip("real data not present: set ROBUSTIQA_DATA to the folder that holds them")
    return root
