"""What a zip or tar archive says that it holds, looked at before anything of it is written."""

from __future__ import annotations

import contextlib
import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import BadData
from ..files import no_os_errors
from .names import folded, safe_parts, shown
from .places import human

MOST_MEMBERS = 1_000_000
MOST_TIMES, ALWAYS_ALLOWED = 50, 100 * 2**20
"""Unpacked size that is taken for a bomb: this many times the archive's, and more than these bytes. Photographs hardly
shrink, bitmaps to a third; deflate can reach a thousandth."""


LONGEST_HEADER = 2**20
"""Bytes of a long name or of extended attributes in a tar archive, which are read into memory at once."""
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BadArchive(BadData):
    """An archive that is damaged, or refused: it will not get better by unpacking it again."""


class Member(NamedTuple):
    """A file in an archive: its path below the folder it is unpacked to, its size, and its own name there."""

    parts: tuple[str, ...]
    bytes: int
    name: str


class _Entry(tarfile.TarInfo):
    """An entry of a tar archive whose sizes are looked at before anything of that size is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in _HEADERS and entry.size > LONGEST_HEADER):
            raise BadArchive(f"the archive has an entry of {entry.size} bytes of kind {entry.type!r}: refused, because "
                             "it is damaged, or made to fill the memory")  # fmt: skip
        return entry


Raw = zipfile.ZipInfo | tarfile.TarInfo
Archive = zipfile.ZipFile | tarfile.TarFile


@contextlib.contextmanager
def opened(path: Path, kind: str) -> Iterator[Archive]:
    """The archive, of kind "zip" or "tar"; what is wrong inside it while it is read becomes `BadArchive`.

    An error of the disk it lies on is `BadData` only: the archive may be as good as before.
    """
    try:
        with no_os_errors(path, "--to"):
            file = path.open("rb")
        with (
            file,
            zipfile.ZipFile(file)
            if kind == "zip"
            else tarfile.open(fileobj=file, mode="r:*", tarinfo=_Entry) as archive,
        ):
            yield archive
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, UnicodeError,
            NotImplementedError, ValueError, OSError) as error:  # fmt: skip
        # Decompressors raise OSError without a number; a position beyond all files is invalid.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise BadData(f"archive {str(path)!r} cannot be read ({error.strerror}): check the disk") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadArchive(f"archive {path.name!r} is damaged, or no {kind} file ({reason}): fetch it again") from error


def raw_members(archive: Archive) -> Iterator[Raw]:
    """Its entries in the order of the file, one by one: a list of a bomb's would itself be one."""
    yield from archive.infolist() if isinstance(archive, zipfile.ZipFile) else archive


def open_member(archive: Archive, raw: Raw) -> IO[bytes]:
    """The content of an entry that `members` let pass."""
    if isinstance(archive, zipfile.ZipFile):
        assert isinstance(raw, zipfile.ZipInfo)
        return archive.open(raw)
    assert isinstance(raw, tarfile.TarInfo)
    content = archive.extractfile(raw)
    assert content is not None, "plain files have content"
    return content


def members(archive: Archive, path: Path, strip: tuple[str, ...]) -> Iterator[tuple[Raw, Member]]:
    """The plain files of an archive, each entry checked before it is given out; folders are checked and left out.

    Args:
        archive: it, opened.
        path: where it is.
        strip: leading folders that are left out; every file must lie below them.

    Raises:
        BadArchive: an entry is a link, a device, encrypted, named so that it would leave the folder, or named like
            another one; together they are too many or too large for an honest archive.
    """
    where = f"archive {path.name!r}"
    limit = max(ALWAYS_ALLOWED, MOST_TIMES * path.stat().st_size)
    files: set[str] = set()
    folders: dict[str, tuple[str, ...]] = {}
    total = 0
    for count, raw in enumerate(raw_members(archive)):
        name, size, plain = _facts(raw, where)
        total += size
        if count >= MOST_MEMBERS or total > limit:
            raise BadArchive(
                f"{where} of {human(path.stat().st_size)} would unpack to more than {human(limit)} or {MOST_MEMBERS} "
                "files: refused as a decompression bomb"
            )
        try:
            parts = safe_parts(name, where)
        except BadData as error:
            raise BadArchive(str(error)) from error
        for depth in range(1, len(parts) + (not plain)):
            folder = parts[:depth]
            if folders.setdefault(folded(folder), folder) != folder or folded(folder) in files:
                raise _twice(where, "/".join(folder))
        if not plain:
            continue
        if not parts or parts[: len(strip)] != strip or len(parts) == len(strip):
            raise BadArchive(f"{where} holds {name!r}, which is not below {'/'.join(strip) or 'any folder'!r}: not the "
                          "archive that the table describes")  # fmt: skip
        if folded(parts) in files or folded(parts) in folders:
            raise _twice(where, name)
        files.add(folded(parts))
        yield raw, Member(parts[len(strip) :], size, name)


def _twice(where: str, name: str) -> BadArchive:
    return BadArchive(
        f"{where} holds {name!r} twice, or under names that differ by case only: refused, because one would overwrite "
        "the other"
    )


def _facts(raw: Raw, where: str) -> tuple[str, int, bool]:
    """Name and size of an entry, and whether it is a plain file; raises `BadArchive` if neither that nor a folder."""
    if isinstance(raw, tarfile.TarInfo):
        if raw.isdir():
            return raw.name, 0, False
        kind = "a link" if raw.issym() or raw.islnk() else "a device or a pipe" if raw.isdev() else None
        kind = kind or (None if raw.isreg() and not raw.issparse() and raw.size >= 0 else "of an unknown kind")
        if kind:
            raise BadArchive(f"{where} holds {shown(raw.name)}, which is {kind}, not a plain file: refused")
        return raw.name, raw.size, True
    # `filename` was cut at a NUL and had the system's separators replaced: look at what the archive says.
    name, mode = raw.orig_filename, stat.S_IFMT(raw.external_attr >> 16)
    if raw.flag_bits & 1:
        raise BadArchive(f"{where} holds {shown(name)}, which is encrypted: unpack it by hand with its password")
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadArchive(f"{where} holds {shown(name)}, which is a link or a device, not a plain file: refused")
    folder = name.endswith("/")
    if folder and raw.file_size:
        raise BadArchive(f"{where} holds the folder {shown(name)} with content: refused")
    return name, raw.file_size, not folder
