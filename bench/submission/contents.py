"""What may be in the folder of a submission: text, numbers and pictures, nothing that runs when it is read."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from ..errors import BadSubmission

TEXT = frozenset(
    {".py", ".pyi", ".md", ".txt", ".rst", ".yml", ".yaml", ".toml", ".cfg", ".ini", ".json", ".csv", ".bib"}
)
NAMED = frozenset({"LICENSE", "LICENCE", "NOTICE", "README", "COPYING", "CITATION.cff", "Makefile"})
"""Text files by their whole name."""

WEIGHTS = ".safetensors"
PICTURES = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".webp": (b"RIFF",),
}
"""Suffix -> how the content begins."""

_PROGRAMS = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".npz", ".joblib", ".h5", ".keras"})
_PACKED = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
"""How zip, gzip, bzip2, xz, 7z, rar and zstd begin."""

_LONGEST_HEADER = 10 * 2**20
"""Bytes of the header of a safetensors file; a tensor has about a hundred there."""


def check_source(name: str, content: bytes) -> None:
    """Raise `BadSubmission` unless a file of the submitted folder is of a kind that can be read without running it.

    Args:
        name: its path below the folder.
        content: all of it.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix in _PROGRAMS or content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise BadSubmission(f"{name!r} is a pickle, or may hold one, and a pickle can run any program when it is read: "
                            "save weights as safetensors (safetensors.torch.save_file)")  # fmt: skip
    if content.startswith(_PACKED):
        raise BadSubmission(f"{name!r} is an archive, or compressed: a submission holds plain files; unpack it, or "
                            "leave it out (weights that torch.save wrote are archives, too: save them as safetensors)"
                            )  # fmt: skip
    if suffix == WEIGHTS:
        _check_weights(name, content)
    elif suffix in PICTURES:
        if not content.startswith(PICTURES[suffix]):
            raise BadSubmission(f"{name!r} is no {suffix[1:].upper()} file: save it again, or leave it out")
    elif suffix in TEXT or path.name in NAMED:
        _check_text(name, content)
    else:
        raise BadSubmission(f"{name!r} is of a kind that a submission may not hold: expected text "
                            f"({', '.join(sorted(TEXT))}), weights ({WEIGHTS}) or pictures ({', '.join(PICTURES)}); "
                            "leave it out")  # fmt: skip


def _check_text(name: str, content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BadSubmission(f"{name!r} is no UTF-8 text ({error.reason}): save it as UTF-8, or leave it out") from error
    if "\0" in text:
        raise BadSubmission(f"{name!r} is no text (it holds a NUL): leave it out")


def _check_weights(name: str, content: bytes) -> None:
    """A safetensors file: the length of a header, that header as JSON, and then numbers only."""
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or not 2 <= length <= min(_LONGEST_HEADER, len(content) - 8):
            raise ValueError("its header does not fit")
        if not isinstance(json.loads(content[8 : 8 + length].decode()), dict):
            raise ValueError("its header is no table")
    except (ValueError, RecursionError) as error:
        raise BadSubmission(f"{name!r} is no safetensors file: save the weights again (safetensors.torch.save_file)"
                            ) from error  # fmt: skip
