"""The real pyiqa, without a network and with empty caches; where it is not installed these tests are skipped."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from robustiqa.bench import load_dataset
from robustiqa.bench.images import save_png
from robustiqa.bench.registry import registry

PRESENT = importlib.util.find_spec("pyiqa") is not None
PLUGIN = Path(__file__).parents[2] / "examples" / "pyiqa_random.py"
_KEPT: list[torch.library.Library] = []
"""The library that defines an operator has to stay alive."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder; skip it where pyiqa is absent."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.pyiqa)
            if not PRESENT:
                item.add_marker(pytest.mark.skip(reason="pyiqa is not installed: run `make test-pyiqa`"))


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Empty caches in a temporary folder, before pyiqa is imported, which remembers where they are."""
    if not PRESENT:
        yield Path()
        return
    with pytest.MonkeyPatch.context() as patch:
        caches = tmp_path_factory.mktemp("caches")
        patch.setenv("TORCH_HOME", str(caches / "torch"))
        patch.setenv("HF_HOME", str(caches / "hf"))
        patch.setenv("HOME", str(caches / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        _cure_torchvision()
        yield caches


def _cure_torchvision() -> None:
    """PyPI's torchvision is built for CUDA: beside a CPU torch it lacks two operators, and then refuses to be imported.

    Who has a matching pair never sees this. What needs compiled code of torchvision still fails: RoIPool.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def random_pyiqa(offline: Path) -> ModuleType:
    """The plug-in file of the examples, loaded as `--plugin` loads it: two ways would be two plug-ins of one name."""
    registry.load_file(PLUGIN)
    return next(m for m in list(sys.modules.values()) if getattr(m, "__file__", "") == str(PLUGIN))


@pytest.fixture(scope="session")
def random_weights(random_pyiqa: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives files with random weights, made once: `random_weights("dbcnn")`."""
    folder = tmp_path_factory.mktemp("weights")
    made: dict[str, Path] = {}

    def give(name: str, **options: Any) -> Path:
        if name not in made:
            path = folder / (f"{name}.mat" if name == "niqe" else f"{name}.pth")
            made[name] = random_pyiqa.write_random(name, path, **options)
        return made[name]

    return give


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Gives a crop of a photograph, of a side in pixels, as a file."""
    folder = tmp_path_factory.mktemp("photographs")
    data = load_dataset("photos[size=256,subset=references]")

    def give(side: int) -> Path:
        path = folder / f"chelsea-{side}.png"
        if not path.exists():
            save_png(data.load(1)[:, 20 : 20 + side, 10 : 10 + side], path)
        with Image.open(path) as image:
            assert image.size == (side, side)
        return path

    return give
