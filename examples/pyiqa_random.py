"""pyiqa's architectures with random weights: for trying machinery, never for scores.

    robustiqa check --plugin examples/pyiqa_random.py --metric pyiqa-random:dbcnn --no-ladder

The networks of pyiqa are built as `pyiqa:NAME` builds them, except that what would be downloaded is drawn at random
from a fixed seed. So the ways of an architecture (sizes, gradients, batches) can be examined on a machine without its
weights; its scores mean nothing. `bare` of a network, written to a file, is also what `pyiqa:NAME[weights=FILE]` takes.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.io
import torch
from robustiqa.bench import Metric, register_metric
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.metrics.pyiqa.build import bare, create
from robustiqa.bench.metrics.pyiqa.options import parse_options
from robustiqa.bench.metrics.pyiqa.package import Declared, declared, module_of
from robustiqa.bench.metrics.pyiqa.ranges import declared_range
from robustiqa.bench.metrics.pyiqa.scores import Scores
from torch import nn

SEED = 7
CLIP = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
"""Sizes of CLIP's networks (Radford et al. 2021, arXiv 2103.00020, table 19 and 20) in the order that pyiqa takes."""


@register_metric("pyiqa-random", packages=("pyiqa", "torchvision", "timm"))
def pyiqa_random(name: str, options: str = "") -> Metric:
    """A metric of pyiqa with random weights, written `pyiqa-random:NAME`; its scores mean nothing.

    Args:
        name: as pyiqa calls it.
        options: as for `pyiqa`.
    """
    about = declared(name)
    net = random_network(about, **parse_options(about, options)).eval().requires_grad_(False)
    traits = about.traits
    scores = Scores(net, f"pyiqa-random:{name}", traits.multiple, traits.alone, traits.gradient, traits.clamp)
    return Metric(scores, f"pyiqa-random:{name}", lower_better=about.lower_better, min_size=max(1, traits.min_size),
                  score_range=declared_range(about.score_range), differentiable=traits.gradient)  # fmt: skip


def random_network(about: Declared, **options: Any) -> Any:
    """What `pyiqa.create_metric` gives, with weights drawn from a fixed seed; the global generator stays as it is."""
    if about.type in FILES:
        with tempfile.TemporaryDirectory() as folder:
            path = FILES[about.type](Path(folder) / "random.mat")
            return create(about.name, list, list, options | {"pretrained_model_path": str(path)})
    if about.traits.weights in ("mat", "pickle") or about.type in ("PI", "QAlign", "QReAlign", "Compare2Score"):
        raise BadParameter(f"pyiqa-random:{about.name}: its parameters cannot be drawn at random; give pyiqa:"
                           f"{about.name}[weights=FILE]")  # fmt: skip
    module = module_of(about)
    with bare(about, lambda *_, **__: None), contextlib.ExitStack() as stack, torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if hasattr(module, "load"):
            stack.enter_context(mock.patch.object(module, "load", _clip))
        if about.type == "LAIONAes":
            stack.enter_context(mock.patch.object(module.clip, "load", return_value=(_clip("ViT-L/14"), None)))
        if about.type == "QualiCLIP":
            checkpoint = _clip("RN50").state_dict() | {"prompts_features": torch.randn(14, 1024)}
            stack.enter_context(mock.patch.object(module, "load_file_from_url", return_value=""))
            stack.enter_context(mock.patch.object(torch, "load", return_value=dict(checkpoint)))
        if about.type == "ARNIQA":
            _arniqa(module, stack)
        return create(about.name, list, list, dict(about.traits.bare) | options)


def write_random(name: str, path: Path, **options: Any) -> Path:
    """Random weights of a network as a file for `pyiqa:NAME[weights=FILE]`."""
    about = declared(name)
    if about.type in FILES:
        return FILES[about.type](path)
    torch.save(random_network(about, **options).net.state_dict(), path)
    return path


def _niqe(path: Path) -> Path:
    """A Gaussian of 36 features, as NIQE's file holds one."""
    rng = np.random.default_rng(SEED)
    root = rng.normal(size=(36, 36))
    model = {"mu_prisparam": 1 + 0.1 * rng.normal(size=(1, 36)), "cov_prisparam": root @ root.T / 36 + np.eye(36)}
    scipy.io.savemat(path, model)
    return path


def _brisque(path: Path) -> Path:
    """Coefficients of 60 support vectors of 36 features, in the range to which BRISQUE scales them."""
    source = torch.Generator().manual_seed(SEED)
    coefficients, vectors = torch.randn(60, generator=source), 2 * torch.rand(60, 36, generator=source) - 1
    torch.save((20 * coefficients, vectors), path)
    return path


FILES = {"NIQE": _niqe, "BRISQUE": _brisque}
"""Models that are no networks: what their files hold is drawn."""


def _clip(name: str, *_: Any, **__: Any) -> nn.Module:
    return importlib.import_module("pyiqa.archs.clip_model").CLIP(*CLIP[name]).float().eval()


def _arniqa(module: Any, stack: contextlib.ExitStack) -> None:
    """Its encoder comes through torch.hub, its regressor as a script."""
    encoder = nn.Sequential(*list(module.torchvision.models.resnet50(weights=None).children())[:-1])
    state = {f"model.{key}": value for key, value in encoder.state_dict().items()}
    regressor = nn.Linear(2 * 2048, 1)
    for owner, name, value in (
        (module.torch.hub, "load_state_dict_from_url", state),
        (module, "load_file_from_url", ""),
        (torch.jit, "load", regressor),
    ):
        stack.enter_context(mock.patch.object(owner, name, return_value=value))
