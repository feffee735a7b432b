"""Unpacking an archive of others: into a new folder, plain files only, nothing outside it, nothing over another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import BadData
from ..files import make_folder, writing
from .members import Archive, BadArchive, Member, Raw, members, open_member, opened
from .names import safe_parts
from .places import Content
from .space import check_space

_CHUNK = 2**20


def unpack(path: Path, kind: str, folder: Path, strip: str = "") -> dict[str, Content]:
    """Unpack an archive below a folder.

    The whole archive is looked at first, so that nothing is written of one that is refused. Only contents are taken:
    no owners, permissions or dates. What was unpacked before an error stays: give a folder that is thrown away then.

    Args:
        path: the archive.
        kind: "zip" or "tar", the latter also compressed by gzip, bzip2 or xz.
        folder: where its files go.
        strip: leading folder of the members that is left out.

    Returns:
        size and SHA-256 of every file, by its path below `folder`.

    Raises:
        BadArchive: what `members` refuses; the archive is damaged, larger inside than it says, or empty.
        BadData: there is no room on the disk; a file is there already.
    """
    leading = safe_parts(strip, "the table")
    with opened(path, kind) as archive:
        needed = sum(member.bytes for _, member in members(archive, path, leading))
    make_folder(folder, "--to")
    check_space(folder, needed, f"unpacking {path.name!r}")
    found = {}
    # Checked again while it is written: the file could have been exchanged in between.
    with opened(path, kind) as archive:
        for raw, member in members(archive, path, leading):
            target = folder.joinpath(*member.parts)
            make_folder(target.parent, "--to")
            found["/".join(member.parts)] = _write(archive, raw, member, target)
    if not found:
        raise BadArchive(f"archive {path.name!r} holds no files: fetch it again, or get it from another place")
    return found


def _write(archive: Archive, raw: Raw, member: Member, target: Path) -> Content:
    """Write one member; raises `BadArchive` where its content is not of the size that the archive says."""
    digest, written = hashlib.sha256(), 0
    try:
        # "x": never over what is there, never through a link.
        with writing(target, "xb", "--to") as write, open_member(archive, raw) as content:
            while chunk := content.read(_CHUNK):
                written += len(chunk)
                if written > member.bytes:
                    break
                digest.update(chunk)
                write(chunk)
    except BadData as error:
        if isinstance(error.__cause__, FileExistsError):
            raise BadData(f"{member.name!r} of an archive is there already: refused to write over it") from error
        raise
    if written != member.bytes:
        raise BadArchive(f"{member.name!r} of an archive is not of the size that it says ({member.bytes} bytes): the "
                      "archive is damaged, or made to fill the disk")  # fmt: skip
    return Content(bytes=written, sha256=digest.hexdigest())
