"""Sources of weights that another package loads, from what that package says of them: for `sources=` of plug-ins."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from .places import torch_root
from .table import File, Source, secure

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.[^.]+")
_WHOLE = re.compile(r"/([0-9a-f]{64})/[^/]+")
"""How the addresses of OpenAI's CLIP end: .../models/SHA256/RN50.pt; its loader holds the file against it."""


def loaded_by(plugin: str, url: str, path: Path, repository: str = "") -> Source:
    """The source of a file that a package would download when a plug-in is built, and that is not on this machine.

    It can be fetched if it belongs into torch's cache, and its name ends in the first digits of its SHA-256, as torch
    has it (`resnet50-0676ba61.pth`), or its address has the digest as the last folder, as CLIP has it: weights are not
    fetched without. Otherwise the source says what to do by hand.

    Args:
        plugin: the plug-in string, for the texts: "pyiqa:musiq".
        url: where the package would download it from.
        path: where the package looks for it.
        repository: of the Hugging Face hub, if it is loaded through the hub's own cache.
    """
    about = {
        "name": "-".join(re.findall(r"[a-z0-9]+", (repository or path.name).lower())),
        "kind": "weights",
        "title": f"{repository or path.name}, which {plugin} loads",
        "licence": "not verified; see the page",
        "citation": f"see the page, and that of {plugin}",
        "verified": "address and place as the installed package has them",
    }
    if repository:
        folder = "models--" + repository.replace("/", "--")
        by_hand = f"run `hf download {repository}` where there is a network; it goes to $HF_HOME/hub"
        page = f"https://huggingface.co/{repository}"
        return Source.model_validate({**about, "page": page, "below": "hub", "folder": folder, "by_hand": by_hand})
    page = f"https://{urlsplit(url).netloc}{urlsplit(url).path}"
    digits = _DIGITS.search(path.name) or _WHOLE.search(urlsplit(url).path)
    if digits and secure(url) and path.is_relative_to(torch_root()):
        file = File(save=path.name, urls=(url,), sha256=digits[1])
        folder = path.parent.relative_to(torch_root()).as_posix()
        return Source.model_validate({**about, "page": page, "below": "torch", "folder": folder, "files": [file]})
    by_hand = f"score one image with {plugin} where there is a network, or download {url}; it has to lie at {path}"
    return Source.model_validate({**about, "page": page, "by_hand": by_hand})
