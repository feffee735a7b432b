"""Which files a metric of pyiqa loads, from where, and where they have to lie: asked of the installed packages."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from ...errors import Absent
from .package import Declared, declared, module_of, parameters

_SAME_FILE = {"niqe_original": "url", "brisque_original": "url"}
"""Options whose value is not the key of pyiqa's table of weights."""
_NO_FILE = {"clipiqa"}
"""Values that name no file of their own: plain CLIP-IQA is CLIP."""
_HUGGING_FACE = "https://huggingface.co/"


@dataclass(frozen=True)
class Need:
    """One file, or one repository of the Hugging Face hub, that a metric loads when it is built.

    Attributes:
        url: where it comes from.
        path: where it has to lie on this machine.
        here: whether it lies there.
        repository: name of the repository on the hub, if it is one, and which file of it is wanted, if one suffices.
        replaced: whether a user's file of weights makes it needless.
    """

    url: str
    path: Path
    here: bool
    replaced: bool = False
    repository: str = ""

    @property
    def name(self) -> str:
        """What it is called where it comes from."""
        return self.repository.split(" ")[0] or self.path.name

    def __str__(self) -> str:
        """The place and the source, for a sentence; the hub's cache has a layout that only its own command writes."""
        return f"{self.path} (" + (f"`hf download {self.repository}`)" if self.repository else f"from {self.url})")


def files_of(name: str) -> list[Need]:
    """Files that `pyiqa:NAME` loads, in order: what a prefetch has to bring, and where to.

    Raises:
        UnknownName: pyiqa has no such metric of one image.
        Absent: pyiqa, or a package that the metric needs, is not installed.
    """
    return needs(declared(name))


def needs(about: Declared, **options: Any) -> list[Need]:
    """Files that a metric loads with these options besides its own; of a network that is not known, none are told."""
    if not about.traits.needs:
        return []
    values = parameters(about) | options
    found: dict[Path, Need] = {}
    for text in about.traits.needs:
        kind, _, name = text.partition(":")
        for need in _KINDS[kind](about, name.format(**values)):
            found.setdefault(need.path, need)
    return list(found.values())


def missing(about: Declared, own_weights: bool = False, **options: Any) -> list[Need]:
    """Those that are not here, without what a user's own file of weights makes needless."""
    return [n for n in needs(about, **options) if not n.here and not (own_weights and n.replaced)]


def _file(url: str, folder: Path, replaced: bool = False) -> list[Need]:
    # As pyiqa and torch.hub name it: the last part of the address as it stands, with its escapes.
    path = folder / os.path.basename(urlparse(url).path)  # noqa: PTH119
    return [Need(url, path, path.is_file(), replaced)]


def _hub() -> Path:
    return Path(torch.hub.get_dir())


def _own(about: Declared, key: str, module: Any = None, replaced: bool = True) -> list[Need]:
    """A file of pyiqa's own table of weights."""
    table = (module or module_of(about)).default_model_urls
    folder = Path(importlib.import_module("pyiqa.utils.download_util").DEFAULT_CACHE_DIR)
    key = _SAME_FILE.get(key, key)
    if key in _NO_FILE:
        return []
    if key not in table:
        raise Absent(f"metric 'pyiqa:{about.name}' has no weights {key!r} in pyiqa: it has {', '.join(sorted(table))}")
    return _file(table[key], folder, replaced)


def _niqe(about: Declared, key: str) -> list[Need]:
    return _own(about, key, importlib.import_module("pyiqa.archs.niqe_arch"))


def _through_hub(about: Declared, key: str) -> list[Need]:
    """One that torch.hub loads itself."""
    return _file(module_of(about).default_model_urls[key], _hub() / "checkpoints")


def _timm(_: Declared, name: str) -> list[Need]:
    timm = importlib.import_module("timm")
    config = timm.get_pretrained_cfg(name)
    if config.hf_hub_id:
        return _repository(config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), replaced=True)
    return _file(config.url, _hub() / "checkpoints", replaced=True)


def _features(about: Declared, name: str) -> list[Need]:
    """TOPIQ's backbone: a network of timm, or of pyiqa's own swin file."""
    if "swin" not in name:
        return _timm(about, name)
    config = importlib.import_module("pyiqa.archs.topiq_swin").default_cfgs[name]
    return _file(config["url"], _hub() / "checkpoints", replaced=True)


def _torchvision(_: Declared, name: str) -> list[Need]:
    weights = importlib.import_module("torchvision.models").get_weight(name)
    return _file(weights.url, _hub() / "checkpoints", replaced=True)


def _clip(_: Declared, name: str) -> list[Need]:
    table = importlib.import_module("pyiqa.archs.clip_model")._MODELS
    return _file(table[name], _hub() / "clip")


def _home_clip(_: Declared, name: str) -> list[Need]:
    """Two metrics load CLIP as OpenAI's package does, into the home folder."""
    table = importlib.import_module("pyiqa.archs.clip_model")._MODELS
    return _file(table[name], Path("~/.cache/clip").expanduser())


def _hugging_face(_: Declared, name: str) -> list[Need]:
    return _repository(name, ("config.json",))


def _named_model(about: Declared, name: str) -> list[Need]:
    """A word for one of the repositories that the network knows."""
    return _repository(module_of(about).MODELS.get(name, name), ("config.json",))


def _repository(name: str, files: tuple[str, ...], replaced: bool = False) -> list[Need]:
    hub = importlib.import_module("huggingface_hub")
    here = any(isinstance(hub.try_to_load_from_cache(name, file), str) for file in files)
    cache = Path(hub.constants.HF_HUB_CACHE)
    file = files[0] if len(files) > 1 else ""
    url = _HUGGING_FACE + name + (f"/resolve/main/{file}" if file else "")
    wanted = f"{name} {file}".strip()
    return [Need(url, cache / f"models--{name.replace('/', '--')}", here, replaced, wanted)]


def _face(about: Declared, name: str) -> list[Need]:
    """What facexlib aligns faces with, beside pyiqa's own weights; it has no table that could be asked."""
    if "gfiqa" not in name:
        return []
    base = "https://github.com/xinntao/facexlib/releases/download/"
    folder = Path(importlib.import_module("pyiqa.utils.download_util").DEFAULT_CACHE_DIR)
    files = ("v0.1.0/detection_Resnet50_Final.pth", "v0.2.2/parsing_parsenet.pth")
    return [need for file in files for need in _file(base + file, folder)]


_KINDS: dict[str, Callable[[Declared, str], list[Need]]] = {
    "own": _own,
    "also": lambda about, key: _own(about, key, replaced=False),
    "niqe": _niqe,
    "hub": _through_hub,
    "timm": _timm,
    "features": _features,
    "torchvision": _torchvision,
    "clip": _clip,
    "home-clip": _home_clip,
    "hf": _hugging_face,
    "model": _named_model,
    "face": _face,
}
