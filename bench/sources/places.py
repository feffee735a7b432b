"""Where sources are on this machine, and the receipt that tells a complete one from any other folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import BadData, BadParameter
from ..yaml_model import Strict
from .table import Source

RECEIPT = "robustiqa-source.json"
"""File in a fetched folder: where each file came from, and the digest of everything in it."""


class Content(Strict):
    """Size in bytes and SHA-256 of a file."""

    bytes: int
    sha256: str


class Download(Strict):
    """A downloaded file: from where (None: by an earlier call), its digest, and whether all of that was pinned."""

    save: str
    url: str | None
    sha256: str
    bytes: int
    pinned: bool


class Receipt(Strict):
    """What a fetched folder was made of, and what it holds by path below it."""

    schema_version: int = 1
    source: str
    fetched: str
    downloads: tuple[Download, ...]
    files: dict[str, Content]


class Roots(NamedTuple):
    """Folders below which sources are kept: what the suite looks for, torch's cache, and that of Hugging Face's hub."""

    data: Path
    torch: Path
    hub: Path


def find_roots(to: str = "") -> Roots:
    """The folders of this machine; `to` takes the place of $ROBUSTIQA_DATA.

    Raises:
        BadParameter: neither is given.
    """
    data = to or os.environ.get("ROBUSTIQA_DATA", "")
    if not data:
        raise BadParameter("no folder for data is given: set ROBUSTIQA_DATA to one, or add --to DIR")
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", _cache() / "huggingface")) / "hub"))
    return Roots(Path(data), torch_root(), hub.expanduser())


def torch_root() -> Path:
    """Torch's cache, as torch.hub finds it, without importing torch."""
    return Path(os.environ.get("TORCH_HOME", _cache() / "torch")).expanduser()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))


def base_of(source: Source, roots: Roots) -> Path:
    """The root below which the source's folder lies."""
    return {"data": roots.data, "torch": roots.torch, "hub": roots.hub}[source.below]


def folder_of(source: Source, roots: Roots) -> Path:
    """Where the source's files are, or will be."""
    return base_of(source, roots) / folder_below(source)


def folder_below(source: Source) -> str:
    """The source's folder, relative to the root below which it lies."""
    return source.folder or (source.name if source.kind == "dataset" else f"weights/{source.name}")


def is_here(source: Source, roots: Roots) -> bool:
    """Whether something is where the source belongs: every file of its own name, or a folder that is not empty.

    That it is the right thing, and whole, only `verify` tells.
    """
    folder = folder_of(source, roots)
    plain = [file for file in source.files if not file.archive]
    if source.files and len(plain) == len(source.files):
        with readable(folder):
            return all((folder / file.into / file.save).is_file() for file in plain)
    return is_filled(folder)


def is_filled(folder: Path) -> bool:
    """Whether it is a folder with something in it; raises `BadData` where that cannot be seen."""
    with readable(folder):
        return folder.is_dir() and any(folder.iterdir())


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to look into a folder into `BadData`."""
    try:
        yield
    except OSError as error:
        what = str(error.filename or folder)
        raise BadData(f"{what!r} cannot be read ({error.strerror}): check disk and permissions") from error


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of a fetched folder, None where there is none; raises `BadData` for one that is damaged."""
    path = folder / RECEIPT
    with readable(folder):
        if not path.is_file():
            return None
        content = path.read_bytes()
    try:
        return Receipt.model_validate_json(content)
    except ValueError as error:
        raise BadData(f"receipt {str(path)!r} is damaged: move the folder away and fetch it again") from error


def is_of(receipt: Receipt, source: Source) -> bool:
    """Whether what was fetched is the source as the table has it now: of its name, and by its pins."""
    digests = {download.save: download.sha256 for download in receipt.downloads}
    files = {file.save: file for file in source.files}
    same = files.keys() == digests.keys() and all(file.fits(digests[save]) for save, file in files.items())
    return receipt.source == source.name and same


def receipt_json(receipt: Receipt) -> bytes:
    """The receipt as `read_receipt` reads it."""
    return (json.dumps(receipt.model_dump(), indent=1, ensure_ascii=False) + "\n").encode()


def digest_of(path: Path) -> str:
    """SHA-256 of a file; raises `BadData` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadData(f"file {str(path)!r} cannot be read ({error.strerror}): check disk and permissions") from error


def human(size: int | None) -> str:
    """Bytes in the unit that reads best: 5.9 GB."""
    if size is None:
        return "size not known"
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
