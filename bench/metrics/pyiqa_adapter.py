"""Metrics of pyiqa (IQA-PyTorch) by their names there: an optional package, imported when such a metric is built.

pyiqa is under a noncommercial licence; nothing of it is part of this package.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import Metric
from ..errors import Absent, BadData, BadPlugin, UnknownName
from ..registry import register_metric, version_of

INSTALL = "pip install 'robustiqa[pyiqa]'"
_NOT_OF_ONE_IMAGE = {"fid", "sfid", "fid_dinov2", "inception_score", "clipscore"}


class _Scores(nn.Module):
    """A metric of pyiqa without the traps of its wrapper."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) in [0,1] to (B,)."""
        # A clone, because some metrics normalise their input in place. They answer in (B,), (B,1), (B,1,1) or ().
        score = self.net(x.clone()).reshape(-1)
        # As a loss, pyiqa tracks gradients even where the caller has switched them off.
        return score if torch.is_grad_enabled() else score.detach()


@register_metric("pyiqa", packages=("pyiqa", "torchvision", "timm"))
def pyiqa_metric(name: str, weights: str = "") -> Metric:
    """A no-reference metric of pyiqa, written `pyiqa:NAME`: `pyiqa:topiq_nr`, `pyiqa:musiq`; needs the extra `pyiqa`.

    Direction and range are those that pyiqa declares. Weights come from pyiqa's cache, or are downloaded by it.

    Args:
        name: as pyiqa calls it.
        weights: file with weights instead of pyiqa's own. pyiqa reads it as a pickle, which can run any code: use only
            files that you trust.

    Raises:
        Absent: pyiqa is not installed, or the weights are not here and cannot be downloaded.
        BadPlugin: pyiqa is installed and broken.
        BadData: the file of weights does not exist or does not fit.
        UnknownName: pyiqa has no such metric of single images.
    """
    pyiqa = _import()
    known = set(pyiqa.list_models("NR")) - _NOT_OF_ONE_IMAGE
    if name not in known:
        raise UnknownName("metric of pyiqa", name, known)
    if weights and not Path(weights).is_file():
        raise BadData(f"weights {weights!r} of pyiqa:{name} do not exist: check the path")
    fetch = f"score one image with it where there is a network, or give pyiqa:{name}[weights=FILE]"
    net = _create(pyiqa, name, fetch, weights)
    return Metric(_Scores(net), f"pyiqa:{name}", lower_better=bool(net.lower_better), score_range=_range(net))


class Difference(nn.Module):
    """A full-reference measure of pyiqa that is 0 for equal images: LPIPS, DISTS; without gradients of its own.

    Args:
        name: as pyiqa calls it: "lpips", "dists".

    Raises:
        Absent: pyiqa is not installed, or the weights are not here and cannot be downloaded.
        BadPlugin: pyiqa is installed and broken.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        fetch = f"run pyiqa.create_metric({name!r}) where there is a network, and copy its cache"
        self.net = _create(_import(), name, fetch).eval().requires_grad_(False)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B,) distances of images (B,3,H,W) in [0,1]."""
        return self.net(z.clone(), x.clone()).reshape(-1)  # clones as in `_Scores`


def _create(pyiqa: Any, name: str, fetch: str, weights: str = "") -> Any:
    """Build a metric of pyiqa by its name there; `fetch` says how its weights get here."""
    options: dict[str, Any] = {"pretrained_model_path": weights} if weights else {}
    try:
        # As a loss and unreduced: otherwise there is no gradient, or one of the batch mean. On the CPU first: pyiqa
        # would choose a GPU by itself.
        with contextlib.redirect_stdout(sys.stderr):  # pyiqa prints where it loads from: stdout is for results
            return pyiqa.create_metric(name, as_loss=True, loss_reduction="none", device=torch.device("cpu"), **options)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError):
            raise Absent(f"metric 'pyiqa:{name}' needs another package ({reason}): install it") from error
        if _is_missing(error):
            raise Absent(
                f"weights of 'pyiqa:{name}' or of its backbone are not on this machine and cannot be downloaded "
                f"({reason}): {fetch}"
            ) from error
        if weights:
            raise BadData(f"weights {weights!r} do not fit pyiqa:{name} ({reason}): give others") from error
        raise BadPlugin(f"pyiqa cannot build its metric {name!r} ({type(error).__name__}: {reason})") from error


def _is_missing(error: Exception) -> bool:
    """Whether an error says that a file is neither here nor to be had, and not that one is broken or the disk is full.

    The errors of the Hugging Face hub and of `requests` are kinds of OSError.
    """
    kinds = (urllib.error.URLError, FileNotFoundError, ConnectionError, TimeoutError)
    return isinstance(error, kinds) or (
        isinstance(error, OSError) and type(error).__module__.startswith(("huggingface_hub", "requests", "httpx"))
    )


def _import() -> Any:
    """The module pyiqa."""
    try:
        return importlib.import_module("pyiqa")
    except ModuleNotFoundError as error:
        raise Absent(f"metrics of pyiqa need the package {error.name!r}, which is not installed: {INSTALL}") from error
    except Exception as error:
        found = f"torch {version_of('torch')} and torchvision {version_of('torchvision')}"
        reason = " ".join(str(error).split())
        raise BadPlugin(
            f"pyiqa is installed but cannot be imported ({reason}): {found} have to be builds for each other"
        ) from error


def _range(net: Any) -> tuple[float, float] | None:
    """The range that a metric declares as text such as "~0, ~100"; None if an end is open."""
    match = re.fullmatch(r"\s*~?\s*(-?[\d.]+)\s*,\s*~?\s*(-?[\d.]+)\s*", str(getattr(net, "score_range", "")))
    low, high = map(float, match.groups()) if match else (0.0, 0.0)
    return (low, high) if low < high else None
