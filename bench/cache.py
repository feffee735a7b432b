"""Decoded images, and a few numbers, kept on disk: a file is decoded once, and mapped into memory afterwards.

Off unless `ROBUSTIQA_CACHE` names a folder. An entry is found by the SHA-256 of the image file's bytes, so that a
changed file never meets the pixels of an old one, in a folder of its own for every version of the decoders, which do
not agree on every bit. Results are the same with and without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import math
import mmap
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import features

from .errors import BadParameter

FOLDER = "ROBUSTIQA_CACHE"
"""Environment variable: the folder of the cache; empty or unset for none."""

LIMIT = "ROBUSTIQA_CACHE_GB"
"""Environment variable: how much it may hold, in 10^9 bytes."""

DEFAULT_GB = 50.0
_POLICY = 1
"""Raise it when `images.decode` gives other pixels for a file than before."""

_HEADER = 256
"""Bytes that hold the header of a .npy file of three dimensions, and more."""

_RECOUNT = 256
_STALE = 3600.0


class DecodedCache:
    """Arrays of uint8 by key, in files that several processes may share.

    An entry is a .npy file with 8 bytes behind it, the checksum of all before it and of its key: one that is damaged,
    cut short or under a wrong name is decoded again and replaced. Entries are written under a temporary name and
    renamed, but not synced: after a power cut the checksum finds what is missing.

    Nothing is thrown out to make room, because a data set is read in a circle, where the entry that was used least
    recently is the one that is needed next.

    Args:
        root: folder; what does not fit or cannot be written costs one warning, and is decoded each time.
        limit: bytes that the folder may hold; other processes' entries are counted every 256 entries, so it may end
            somewhat above.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self._held, self._stored, self._open = 0, 0, True

    def get(self, key: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, mapped from its file; where there is none, what `decode` gives, which is then kept."""
        path = self._path(key)
        kept = _read(path, key)
        if kept is not None:
            return kept
        array = decode()
        if self._open:
            self._write(path, key, array)
        return array

    def _path(self, key: str) -> Path:
        return self.root / _decoders() / key[:2] / f"{key}.npy"

    def _write(self, path: Path, key: str, array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = np.frombuffer(buffer.getbuffer(), dtype=np.uint8)
        try:
            if self._stored % _RECOUNT == 0:
                self._held = self._count()
            if self._held + len(content) > self.limit:
                self._close(f"is full ({LIMIT}={self.limit / 1e9:g})", f"set {LIMIT} higher or empty the folder")
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                try:
                    file.write(content.data)
                    file.write(_checksum(content, key))
                    file.close()
                    Path(file.name).replace(path)
                finally:
                    with contextlib.suppress(OSError):
                        Path(file.name).unlink(missing_ok=True)
        except OSError as error:
            self._close(f"cannot be written ({error.strerror})", f"free some space, or set {FOLDER} to another folder")
            return
        self._stored += 1
        self._held += len(content)

    def _close(self, what: str, advice: str) -> None:
        """Store nothing more in this process, and say why."""
        self._open = False
        warnings.warn(
            f"the cache of decoded images in {str(self.root)!r} {what}: images that are not in it are decoded each "
            f"time; {advice}",
            stacklevel=2,
        )

    def _count(self) -> int:
        """Bytes in the folder; what killed processes left half written is removed."""
        held = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # another process may have removed it
                    found = path.stat()
                    if path.suffix == ".tmp" and time.time() - found.st_mtime > _STALE:
                        path.unlink()
                    else:
                        held += found.st_size
        return held


def cached(content: bytes, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """What `decode` makes of the bytes of an image file: (3,H,W) uint8, from the cache where there is one.

    Raises:
        BadParameter: `ROBUSTIQA_CACHE_GB` is no positive number.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        return decode()
    return _cache(folder, os.environ.get(LIMIT, "")).get(hashlib.sha256(content).hexdigest(), decode)


def remembered(what: str, compute: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    """What `compute` gives, from the cache where there is one: numbers that take long, to the last bit.

    Args:
        what: text that says all that the numbers depend on.
        compute: takes long.

    Raises:
        BadParameter: `ROBUSTIQA_CACHE_GB` is no positive number; and what `compute` raises.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        return compute()
    key = hashlib.sha256(f"numbers|{what}".encode()).hexdigest()
    kept = _cache(folder, os.environ.get(LIMIT, "")).get(key, lambda: np.array(compute(), dtype="<f8").view(np.uint8))
    return tuple(np.frombuffer(kept.tobytes(), dtype="<f8").tolist())


@functools.lru_cache
def _cache(folder: str, limit: str) -> DecodedCache:
    try:
        gigabytes = float(limit or DEFAULT_GB)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise BadParameter(f"{LIMIT}={limit}: expected the largest size of the cache in GB, such as {DEFAULT_GB:g}")
    return DecodedCache(Path(folder) / "decoded", int(gigabytes * 1e9))


@functools.cache
def _decoders() -> str:
    """Name of the folder for this version of the decoders."""
    libraries = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "zlib", "libtiff", "webp")
    versions = [f"{name} {features.version(name)}" for name in libraries]
    text = "|".join([str(_POLICY), sys.byteorder, *versions])
    return f"{_POLICY}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _read(path: Path, key: str) -> np.ndarray | None:
    """A whole entry, copy on write: changing the array leaves the file alone. None where there is none."""
    try:
        with path.open("rb") as file:
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
    except (OSError, ValueError):  # not there; or empty, which cannot be mapped
        return None
    if _checksum(content[:-8], key) != content[-8:].tobytes():
        return None
    header = io.BytesIO(content[:_HEADER].tobytes())
    np.lib.format.read_magic(header)
    shape, _, _ = np.lib.format.read_array_header_1_0(header)
    return content[header.tell() : -8].reshape(shape)


def _checksum(content: np.ndarray, key: str) -> bytes:
    """8 bytes: the sum of content and key as 64-bit words.

    No single damaged word keeps it, nor a block of zeros. A CRC would take a fifth of the time of decoding a JPEG.
    """
    whole = len(content) // 8 * 8
    total = int(content[:whole].view("<u8").sum(dtype=np.uint64))
    total += int.from_bytes(content[whole:].tobytes(), "little") + int(key[:16], 16)
    return (total % 2**64).to_bytes(8, "little")
