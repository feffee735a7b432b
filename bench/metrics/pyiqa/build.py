"""Building a metric of pyiqa: at once or not at all, and from a user's weights without what they would overwrite."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlparse

import torch

from ...errors import Absent, BadData, BadParameter, BadPlugin, RobustIQAError
from ...files import no_file
from .needs import Need, missing, needs
from .package import Declared, import_pyiqa, module_of
from .weights import check_pickle, fill, read_state

PATIENCE = 5
"""Seconds in which the host of a missing file has to answer."""
_BACKBONES = ("vgg16", "resnet18", "resnet34", "resnet50")
"""Networks of torchvision that pyiqa starts from."""


def build(about: Declared, options: dict[str, Any], weights: str = "") -> Any:
    """The metric of pyiqa: scores one by one, with gradients, on the CPU.

    Args:
        about: which one.
        options: of its constructor, besides pyiqa's own.
        weights: file of a user, or empty for pyiqa's.

    Raises:
        Absent: files are not here and cannot be fetched, or a package is not installed.
        BadData: the user's weights, or a file of pyiqa, cannot be read or do not fit.
        BadParameter: the metric takes no weights of a user.
        BadPlugin: pyiqa fails for another reason.
    """
    if about.traits.never:
        raise Absent(f"metric 'pyiqa:{about.name}' does not work here: {about.traits.never}")
    if not weights:
        hint = f"; or give pyiqa:{about.name}[weights=FILE]" if about.traits.weights else ""
        absent, used = partial(missing, about, **options), partial(needs, about, **options)
        return create(about.name, absent, used, options, hint=hint)
    path = Path(weights)
    if not path.is_file():
        raise BadData(f"weights {weights!r} of pyiqa:{about.name} {no_file(path, plural=True)}")
    absent = partial(missing, about, own_weights=True, **options)
    if about.traits.weights == "state":
        return _filled(about, options, path, absent)
    if about.traits.module and about.traits.weights == "":
        raise BadParameter(f"pyiqa:{about.name}[weights={weights}]: this metric has no single file of weights: put the "
                           "files that `robustiqa list metrics --pyiqa --json` names in their places")  # fmt: skip
    if about.traits.weights != "mat":  # what SciPy reads is no pickle
        check_pickle(path, f"pyiqa:{about.name}")
    return create(about.name, absent, partial(_kept, about, options), options | {"pretrained_model_path": weights},
                  weights)  # fmt: skip


def _kept(about: Declared, options: dict[str, Any]) -> list[Need]:
    """Files that a metric reads besides a user's own weights."""
    return [need for need in needs(about, **options) if not need.replaced]


def _filled(about: Declared, options: dict[str, Any], path: Path, absent: Callable[[], list[Need]]) -> Any:
    name = f"pyiqa:{about.name}"
    state = read_state(path, name)

    def load(net: torch.nn.Module, *_: object, **__: object) -> None:
        # Called by the constructor, which goes on with what the weights say; a part of the network is filled later.
        if type(net).__name__ == about.type:
            fill(net, state, path, name)

    settings = dict(about.traits.bare) | options
    with bare(about, load):
        metric = create(about.name, absent, partial(_kept, about, options), settings, str(path))
    fill(metric.net, state, path, name)
    return metric


@contextlib.contextmanager
def bare(about: Declared, load: Callable[..., None]) -> Iterator[None]:
    """Build networks without the weights of their backbones; `load` stands in for pyiqa's loading of its own.

    A whole state dict overwrites them: without this a machine that has it would still have to fetch them. The features
    of texts that LIQE computes from its weights are not left in pyiqa's cache, where its own networks would find them.
    """
    module = module_of(about)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        def replace(owner: Any, name: str, value: Any) -> None:
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, value))

        replace(module, "load_pretrained_network", load)
        if about.type == "LIQE":
            replace(module, "DEFAULT_CACHE_DIR", folder)
        if hasattr(module, "create_swin"):
            replace(module, "create_swin", _without(module.create_swin, pretrained=False))
        for owner, names, option in (("timm", ("create_model",), {"pretrained": False}),
                                     ("torchvision.models", _BACKBONES, {"weights": None})):  # fmt: skip
            library = importlib.import_module(owner)
            for name in names:
                replace(library, name, _without(getattr(library, name), **option))
        yield


def _without(make: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """A function that makes a network with some options fixed, whatever it is called with."""

    def made(*args: Any, **options: Any) -> Any:
        options.pop("pretrained", None)  # torchvision's old word for `weights`, refused beside it
        return make(*args, **(options | fixed))

    return made


def create(
    name: str,
    absent: Callable[[], list[Need]],
    used: Callable[[], list[Need]],
    options: dict[str, Any],
    weights: str = "",
    hint: str = "",
) -> Any:
    """Build a metric of pyiqa by its name there, and turn whatever goes wrong into one sentence.

    Args:
        name: as pyiqa calls it.
        absent: gives the files that it lacks.
        used: gives the files that it reads, one of which may be damaged.
        options: of its constructor.
        weights: the user's file, for the sentence.
        hint: what else helps where files are missing, with a semicolon before it.
    """
    pyiqa = import_pyiqa()
    try:
        lacking = absent()
        if lacking and not _reachable(lacking[0].url):
            raise Absent(_what_to_fetch(name, lacking) + hint)
        with _quiet(), torch.random.fork_rng(devices=[]), _no_look_ups(bool(used()) and not lacking):
            # As a loss and unreduced: otherwise there is no gradient, or one of the batch mean. On the CPU first: pyiqa
            # would choose a GPU by itself.
            return pyiqa.create_metric(name, as_loss=True, loss_reduction="none", device=torch.device("cpu"), **options)
    except RobustIQAError:
        raise
    except Exception as error:
        raise _sentence(name, error, absent, used, weights, hint) from error


def _sentence(
    name: str,
    error: Exception,
    absent: Callable[[], list[Need]],
    used: Callable[[], list[Need]],
    weights: str,
    hint: str,
) -> RobustIQAError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
    if isinstance(error, ImportError):
        return Absent(f"metric 'pyiqa:{name}' needs another package ({reason}): install it")
    if _is_missing(error):
        lacking = absent()
        if lacking:
            return Absent(_what_to_fetch(name, lacking, reason) + hint)
        return Absent(_unknown_files(name, reason, [need for need in used() if need.here]) + hint)
    if weights:
        return BadData(f"weights {weights!r} do not fit pyiqa:{name} ({reason}): give others")
    files = [str(need.path) for need in used() if need.here]
    if files:
        return BadData(f"pyiqa cannot build its metric {name!r} ({type(error).__name__}: {reason}): one of its files "
                       f"may be damaged ({', '.join(files)}); delete it and fetch it again")  # fmt: skip
    return BadPlugin(f"pyiqa cannot build its metric {name!r} ({type(error).__name__}: {reason})")


def _what_to_fetch(name: str, lacking: list[Need], reason: str = "no network") -> str:
    return (
        f"weights of 'pyiqa:{name}' or of its backbone are not on this machine and cannot be downloaded ({reason}): "
        f"bring {'; '.join(str(need) for need in lacking)}; where there is a network, `robustiqa score` with the "
        "metric fetches them to these places"
    )


def _unknown_files(name: str, reason: str, here: list[Need]) -> str:
    if here:  # CLIP's are held against their checksum, and fetched again where they differ
        return (
            f"weights of 'pyiqa:{name}' or of its backbone are damaged or not those that pyiqa expects, and cannot be "
            f"downloaded ({reason}): one of these files is to be brought again, {'; '.join(map(str, here))}"
        )
    return (
        f"weights of 'pyiqa:{name}' or of its backbone are not on this machine and cannot be downloaded ({reason}): "
        f"run pyiqa.create_metric({name!r}) where there is a network and bring its caches"
    )


def _is_missing(error: Exception) -> bool:
    """Whether an error says that a file is neither here nor to be had, and not that one is broken or the disk is full.

    The errors of the Hugging Face hub, of `requests` and of transformers are OSErrors that no system call gave.
    """
    kinds = (urllib.error.URLError, FileNotFoundError, ConnectionError, TimeoutError)
    return isinstance(error, kinds) or (isinstance(error, OSError) and error.errno is None)


def offline() -> bool:
    """Whether the user has said that there is no network."""
    said = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(word in ("1", "ON", "YES", "TRUE") for word in said)


def _reachable(url: str) -> bool:
    """Whether the host of an address answers at all: the libraries try for up to a minute before they give up."""
    if offline():
        return False
    parts = urlparse(url)
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False


@contextlib.contextmanager
def _no_look_ups(complete: bool) -> Iterator[None]:
    """Let the Hugging Face hub ask for nothing when every file is here: it would look for newer ones, and wait."""
    constants = importlib.import_module("huggingface_hub.constants") if complete and _has_hub() else None
    with mock.patch.object(constants, "HF_HUB_OFFLINE", True) if constants else contextlib.nullcontext():
        yield


def _has_hub() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pyiqa prints where it loads from: stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
