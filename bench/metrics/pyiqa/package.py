"""The installed pyiqa: its names, what it declares of each, and the class behind it."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any

from ...errors import Absent, BadPlugin, UnknownName, did_you_mean
from ...registry import version_of
from .names import NAMES, VERSION
from .traits import UNKNOWN, Traits, traits_of

INSTALL = "pip install 'robustiqa[pyiqa]', or '.[pyiqa]' in a clone"
MANY_IMAGES = {
    **dict.fromkeys(("fid", "sfid", "fid_dinov2"), "it compares two sets of images"),
    "inception_score": "it scores a set of images",
    "clipscore": "it compares an image with a caption",
}
"""Listed by pyiqa among the metrics without reference, but not metrics of one image; and why."""


@dataclass(frozen=True)
class Declared:
    """What pyiqa says of a metric before it is built.

    Attributes:
        name: as pyiqa calls it.
        type: name of the class of its network.
        options: what pyiqa gives to that class besides its defaults.
        lower_better: whether a smaller score means a better image.
        score_range: as text, such as "~0, ~100".
    """

    name: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)
    lower_better: bool = False
    score_range: str = ""

    @property
    def traits(self) -> Traits:
        """What this package knows of the network, `UNKNOWN` for a class that it has never met."""
        return traits_of(self.type, str(self.options.get("model_name", "")))


def import_pyiqa() -> Any:
    """The module pyiqa.

    Raises:
        Absent: it, or a package that it needs, is not installed.
        BadPlugin: it is installed and cannot be imported, mostly because torchvision is for another torch.
    """
    try:
        return importlib.import_module("pyiqa")
    except ModuleNotFoundError as error:
        raise Absent(f"metrics of pyiqa need the package {error.name!r}, which is not installed: {INSTALL}") from error
    except Exception as error:
        found = f"torch {version_of('torch')} and torchvision {version_of('torchvision')}"
        reason = " ".join(str(error).split())
        raise BadPlugin(
            f"pyiqa is installed but cannot be imported ({reason}): {found} have to be builds for each other; "
            "https://pytorch.org lists which torchvision goes with a torch, install both from the same index"
        ) from error


def names() -> list[str]:
    """Every metric without reference that pyiqa lists, also those of many images."""
    return list(import_pyiqa().list_models("NR"))


def declared(name: str) -> Declared:
    """What pyiqa declares of a metric of one image; raises `UnknownName` for others.

    Where pyiqa is not installed, `Absent` also says whether the name is one of its names.
    """
    try:
        known = set(names()) - MANY_IMAGES.keys()
    except Absent as error:
        if name in NAMES:
            raise
        raise Absent(f"{error}; besides, pyiqa {VERSION} has no metric of one image called {name!r}: "
                     f"{did_you_mean(name, NAMES) or 'docs/pyiqa.md lists them'}") from error  # fmt: skip
    if name not in known:
        raise UnknownName("metric of pyiqa", name, known)
    entry = dict(importlib.import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS[name])
    options = dict(entry["metric_opts"])
    kind = options.pop("type")
    return Declared(name, kind, options, bool(entry.get("lower_better", False)), str(entry.get("score_range", "")))


def module_of(about: Declared) -> Any:
    """The module of pyiqa that defines the network; raises `Absent` where a package that it needs is not installed."""
    try:
        return importlib.import_module(f"pyiqa.archs.{about.traits.module}_arch")
    except ImportError as error:
        package = getattr(error, "name", None) or str(error)
        raise Absent(
            f"metric 'pyiqa:{about.name}' needs the package {package!r}, which pyiqa does not install: pip install "
            f"{package}"
        ) from error


def parameters(about: Declared) -> dict[str, Any]:
    """Every option of the network's class with the value that it gets by default; {} for an unknown class."""
    if about.traits is UNKNOWN:
        return dict(about.options)
    signature = inspect.signature(getattr(module_of(about), about.type).__init__).parameters.values()
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    return defaults | about.options
