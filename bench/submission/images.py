"""The images of a break: read as strangers' files, held to size and budget, and handed to the board as an attack."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..api import Threat
from ..build import AttackLike
from ..datasets import Dataset
from ..errors import BadSubmission, did_you_mean
from ..images import compare, file_size, load_image
from ..registry import PACKAGE, registry, resolve_target
from ..seeds import image_key
from .belonging import attack_named, images_digest
from .metadata import BreakSubmission, file_of
from .paths import inside, members

MOST_FILE = 64 * 2**20
"""Bytes of one image."""
FLOAT = 1e-5
"""Share of the budget that a measured distance may be above it: differences of 8-bit images in float32 are that exact.
Eight bits themselves need nothing: whoever saves an image rounds inwards."""
_ATTACK = f"{PACKAGE}.attacks.given:GivenImages"
_PNG = b"\x89PNG\r\n\x1a\n"


class Given(NamedTuple):
    """The files of a break.

    Attributes:
        files: image key of the clean image -> file.
        digest: of names and contents.
        n: images of the data set that have a file.
    """

    files: Mapping[str, Path]
    digest: str
    n: int


def read_given(root: Path, submission: BreakSubmission, dataset: Dataset) -> Given:
    """The images of a break, each checked against its clean one.

    Raises:
        BadSubmission: the folder has no image, a file of another name than that of an image, a link, a file that is no
            8-bit RGB PNG of the clean image's size, or one whose distance, as saved, is above the budget.
        BadImage: an image that cannot be read.
    """
    folder = inside(root, submission.images)
    if not folder.is_dir():
        raise BadSubmission(f"{str(folder)!r} is no folder: put the images there, named by image id")
    places: dict[str, int] = {}
    for k, item in enumerate(dataset.items):
        if places.setdefault(file_of(item.id), k) != k:
            name = file_of(item.id)
            raise BadSubmission(f"two images of {submission.target.dataset!r} would be {name!r}: it takes no breaks")
    digests, files = dict[str, str](), dict[str, Path]()
    for member in members(folder):
        if member.name not in places:
            near = did_you_mean(member.name, places)
            raise BadSubmission(f"{str(folder / member.name)!r} is named by no image of {submission.target.dataset!r}: "
                                f"{near or 'expected names such as ' + repr(next(iter(places), 'a.png'))}")  # fmt: skip
        path = folder / member.name
        clean = dataset.load(places[member.name])
        digests[member.name] = hashlib.sha256(_content(path, member.size)).hexdigest()
        check_image(path, clean, submission.target.threat)
        files[image_key(clean)] = path
    if not digests:
        raise BadSubmission(f"{str(folder)!r} has no images: expected PNG files named by image id, such as "
                            f"{next(iter(places), 'a.png')!r}")  # fmt: skip
    return Given(files, images_digest(digests), len(digests))


def check_image(path: Path, clean: torch.Tensor, threat: Threat) -> None:
    """Raise `BadSubmission` unless a file is a PNG of the clean image's size within the budget, as it is on disk."""
    _check_size(path, file_size(path), clean)  # before anything is decoded
    image = load_image(path)
    _check_size(path, (image.shape[1], image.shape[2]), clean)  # an orientation in the file may have turned it
    found = compare(image, clean)
    measured = getattr(found, threat.norm)
    if not measured <= threat.eps * (1 + FLOAT):
        raise BadSubmission(f"image {str(path)!r} is {measured:.6g} away from the clean one in {threat.norm}, as it is "
                            f"saved: the budget is {threat.eps:.6g}; round inwards")  # fmt: skip


def _check_size(path: Path, size: tuple[int, int], clean: torch.Tensor) -> None:
    height, width = clean.shape[1:]
    if size != (height, width):
        given, expected = f"{size[1]}x{size[0]} px", f"{width}x{height}, the size of the clean one"
        raise BadSubmission(f"image {str(path)!r} is {given}: expected {expected}")


def _content(path: Path, size: int) -> bytes:
    if size > MOST_FILE:
        raise BadSubmission(f"image {str(path)!r} has {size} bytes: expected at most {MOST_FILE // 2**20} MB")
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise BadSubmission(f"image {str(path)!r} is no PNG file: only those keep every pixel as it was made")
    return content


def register_given(name: str, given: Given) -> str:
    """Make the images of a break an attack of this process; returns its plug-in string, which tells their content."""
    attack = resolve_target(_ATTACK)

    def images(digest: str = "") -> AttackLike:
        return attack(given.files)

    registry.register("attack", f"break-{name}", 1)(images)
    return attack_named(name, given.digest)
