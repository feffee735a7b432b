"""Adversarial images of a cell on disk: exact floats for scoring again, 8-bit PNGs to look at.

The floats are a safetensors file, a format that holds numbers only and runs nothing when it is read: an array (3,H,W)
for each image under the image's id, as the attack returned it, to the last bit. `crc32` in its metadata is over the
arrays' bytes in the order of their sorted names, and every reading checks it.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .errors import BadData
from .files import no_links, no_os_errors, write_atomically
from .images import save_png

SUFFIX = ".safetensors"
_FORMAT = "1"


def write_images(path: Path, images: Mapping[str, np.ndarray]) -> None:
    """Write PATH, and a PNG an image into the folder of that name without its suffix, numbered in the order given.

    PATH itself comes last: if it is there, everything is.

    Args:
        path: the safetensors file, in a folder that is made if need be.
        images: by image id, (3,H,W) in [0,1].

    Raises:
        BadData: the disk is full or read-only.
    """
    with no_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    no_links(path.parent, [folder_of(path).name])
    arrays = {name: np.ascontiguousarray(image) for name, image in images.items()}
    for k, (name, image) in enumerate(arrays.items()):
        save_png(torch.from_numpy(image), folder_of(path) / f"{k:03d}-{re.sub(r'[^A-Za-z0-9.]+', '-', name)[-80:]}.png")
    write_atomically(path, save(arrays, {"robustiqa_images": _FORMAT, "crc32": _crc(arrays)}))


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Images by id, (3,H,W), as they were written.

    Raises:
        BadData: the file is not there, damaged, or of a newer program.
    """
    with no_os_errors(path):
        if not path.is_file():
            raise BadData(f"no images {str(path)!r}: the run was not told to keep them (`robustiqa run --save-images`)")
        content = path.read_bytes()
    try:
        arrays, about = load(content), _metadata(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if about.get("robustiqa_images") != _FORMAT:
        raise BadData(f"images {str(path)!r} are of format {about.get('robustiqa_images')!r}, this program reads "
                      f"{_FORMAT!r}: update robustiqa")  # fmt: skip
    if about.get("crc32") != _crc(arrays):
        raise _damaged(path)
    return arrays


def folder_of(path: Path) -> Path:
    """Where the PNGs of a file of images are."""
    return path.with_suffix("") if path.name.endswith(SUFFIX) else path


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file, which `load` does not give."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _crc(arrays: Mapping[str, np.ndarray]) -> str:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _damaged(path: Path) -> BadData:
    return BadData(f"images {str(path)!r} are corrupt (cut short or changed): delete the file and run again")
