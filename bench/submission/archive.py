"""A packed submission: one zip file, written the same way every time, and read as what it is, a stranger's.

Layout: `MANIFEST.json` (what wrote it, and size and SHA-256 of every other file), `submission.yml`,
`verification.json`, `source/` (the folder that was submitted), `run/` (records of the author's run), `images/` (of a
break). Nothing in it has to be run, imported or unpickled to read it.

Reading is stricter than zip is, because nothing but `submit pack` has to be read: entries lie one after the other from
the first byte to the last, stored or deflated, without comments, zip64, descriptors or encryption. What overlaps, hides
between entries, or is one file to this program and another one to the next, does not fit. Names are judged as those of
every archive (`sources.members`), and besides have to be among those of the layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ..errors import BadSubmission, first_line
from ..files import no_os_errors, temporary_name
from ..registry import PACKAGE
from ..sources.members import BadArchive, members, opened
from ..sources.places import human
from ..yaml_model import Strict

MANIFEST = "MANIFEST.json"
SOURCE, RUN, IMAGES = "source/", "run/", "images/"

MOST_ARCHIVE = 512 * 2**20
"""Bytes of the archive."""
MOST_ENTRIES = 20_000
MOST_INDEX = 4 * 2**20
"""Bytes of its central directory, which Python's reader takes into memory at once."""
_MEGABYTE = 2**20

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
LAYOUT: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(re.escape(MANIFEST)), 4 * _MEGABYTE),
    (re.compile(r"submission\.yml"), 64_000),
    (re.compile(r"verification\.json"), 16 * _MEGABYTE),
    (re.compile(rf"source/(?:{_ID}/){{0,8}}{_ID}"), 500 * _MEGABYTE),
    (re.compile(r"run/(?:run|plan)\.json"), 64 * _MEGABYTE),
    (re.compile(r"run/runs/\d{4,6}\.json"), 16 * _MEGABYTE),
    (re.compile(rf"run/cells/{_ID}\.arrow\.gz"), 16 * _MEGABYTE),
    (re.compile(rf"images/{_ID}\.png"), 64 * _MEGABYTE),
)
"""Names that an archive may hold, and the most bytes of each."""

_STORED = (".gz", ".safetensors", ".png", ".jpg", ".jpeg", ".webp")
"""Ends of names of what does not shrink."""
_END = struct.Struct("<4sHHHHIIH")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTOR = 1 << 3
_AGAIN = "make it with `robustiqa submit pack`"


class Entry(Strict):
    """Size and SHA-256 of a file."""

    bytes: Annotated[int, Field(ge=0, strict=True)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Strict):
    """What `MANIFEST.json` holds: the format's version, what wrote it, and every other file of the archive."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,60}$")]
    kind: Literal["defense", "break"]
    robustiqa: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]{1,40}$")]
    files: dict[str, Entry]


class Archive:
    """An opened archive that `opened_archive` let pass; contents are held against the manifest as they are read."""

    def __init__(self, archive: zipfile.ZipFile, raw: Mapping[str, zipfile.ZipInfo], manifest: bytes, where: str):
        self._archive, self._raw, self.where = archive, raw, where
        self.manifest_bytes = manifest
        self.manifest = parse_manifest(manifest, where)
        self.digest = hashlib.sha256(manifest).hexdigest()
        """SHA-256 of the manifest, and so of everything: it names the submission."""
        there, listed = set(raw) - {MANIFEST}, set(self.manifest.files)
        if MANIFEST in listed or there != listed:
            wrong = sorted(there ^ listed or {MANIFEST})[0]
            how = "is not in its manifest" if wrong in there else "is in its manifest, but not in the archive"
            raise BadSubmission(f"{where}: {wrong!r} {how}: refused; {_AGAIN}")

    def names(self, prefix: str = "") -> list[str]:
        """Names of its files that begin so, sorted, without the manifest's."""
        return sorted(name for name in self.manifest.files if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            BadSubmission: there is no such file, or it is not what the manifest says.
            BadArchive: the archive is damaged there.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BadSubmission(f"{self.where} has no {name!r}: refused; {_AGAIN}")
        content = _content(self._archive, self._raw[name], self.where)
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BadSubmission(f"{self.where}: {name!r} is not what its manifest says (SHA-256): it was changed after "
                                "it was packed; refused")  # fmt: skip
        return content


@contextlib.contextmanager
def opened_archive(path: str | Path) -> Iterator[Archive]:
    """A packed submission, its structure, names and manifest checked; contents are checked as they are read.

    Raises:
        BadSubmission: no such file, not one that `submit pack` writes, or one that was changed.
        BadArchive: damaged, a bomb, or an entry that is no plain file below the archive.
    """
    path = Path(path)
    where = f"submission {path.name!r}"
    if not path.is_file():
        raise BadSubmission(f"{str(path)!r} is no file: give the archive that `robustiqa submit pack` wrote")
    _check_index(path, where)
    with opened(path, "zip") as archive:
        assert isinstance(archive, zipfile.ZipFile)
        raw: dict[str, zipfile.ZipInfo] = {}
        for info, member in members(archive, path, ()):
            assert isinstance(info, zipfile.ZipInfo)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _DESCRIPTOR:
                raise BadSubmission(f"{where}: {member.name!r} is packed in another way than ours: refused; {_AGAIN}")
            if "/".join(member.parts) != member.name:
                raise BadSubmission(f"{where} holds {member.name!r}, which is no plain name: refused; {_AGAIN}")
            most = most_bytes(member.name)
            if most is None:
                raise BadSubmission(
                    f"{where} holds {member.name!r}, which is no part of a submission: refused; {_AGAIN}"
                )
            if member.bytes > most:
                raise BadSubmission(f"{where}: {member.name!r} has {human(member.bytes)}, more than the {human(most)} "
                                    "that such a file may have: refused")  # fmt: skip
            raw[member.name] = info
        _check_places(path, archive, where)
        if MANIFEST not in raw:
            raise BadSubmission(f"{where} has no {MANIFEST}: refused; {_AGAIN}")
        yield Archive(archive, raw, _content(archive, raw[MANIFEST], where), where)


def most_bytes(name: str) -> int | None:
    """Most bytes of a file of this name; None where it is no part of the layout."""
    return next((most for pattern, most in LAYOUT if pattern.fullmatch(name)), None)


def write_archive(path: Path, name: str, kind: Literal["defense", "break"], files: Mapping[str, bytes]) -> str:
    """Write an archive atomically, the same bytes for the same files; returns its digest.

    Args:
        path: of the archive.
        name, kind: of the submission.
        files: by their names in the archive.
    """
    temporary = temporary_name(path)
    try:
        with no_os_errors(path), zipfile.ZipFile(temporary, "w", allowZip64=False) as archive:
            for inner in sorted(files):
                content = files[inner]
                if len(content) > (most := most_bytes(inner) or 0):
                    raise BadSubmission(f"{inner!r} has {human(len(content))}, more than the {human(most)} that such a "
                                        "file may have: leave it out, or make it smaller")  # fmt: skip
                _add(archive, inner, content)
            manifest = manifest_of(name, kind, files)
            _add(archive, MANIFEST, manifest)
        with no_os_errors(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return hashlib.sha256(manifest).hexdigest()


def manifest_of(name: str, kind: Literal["defense", "break"], files: Mapping[str, bytes]) -> bytes:
    """The bytes of a manifest for these files."""
    entries = {
        inner: Entry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()) for inner, content in files.items()
    }
    about = Manifest(name=name, kind=kind, robustiqa=importlib.metadata.version(PACKAGE), files=entries)
    return (json.dumps(about.model_dump(by_alias=True), indent=1, sort_keys=True) + "\n").encode()


def load_json(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object of a stranger: no key twice, no number that is none, no bottomless nesting.

    Raises:
        BadSubmission: it is anything else.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        data = json.loads(content.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadSubmission(f"{what} is no JSON that can be read ({first_line(error)}): refused; {_AGAIN}") from error
    if not isinstance(data, dict):
        raise BadSubmission(f"{what} holds no JSON object: refused; {_AGAIN}")
    return data


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith(_STORED) else zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a `MANIFEST.json`; raises `BadSubmission` for anything else, or a newer format."""
    data = load_json(content, f"{where}: {MANIFEST}")
    version = data.get("schema")
    if type(version) is not int:  # true is equal to 1
        raise BadSubmission(f"{where}: {MANIFEST} does not say its format under 'schema': refused; {_AGAIN}")
    if version > 1:
        raise BadSubmission(f"{where} is of format {str(version)[:20]}, this program reads 1: update robustiqa")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise BadSubmission(f"{where}: {MANIFEST}, key {place!r}: {first['msg']}: refused; {_AGAIN}") from error


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise BadArchive(f"{where}: {info.filename!r} is not of the size that it says: the archive is damaged")
    return content


def _check_index(path: Path, where: str) -> None:
    """Look at the end of the file before Python's reader takes all of the index into memory."""
    size = path.stat().st_size
    if size > MOST_ARCHIVE:
        raise BadSubmission(f"{where} has {human(size)}: expected at most {human(MOST_ARCHIVE)}; refused")
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size))
        tail = file.read()
    if len(tail) < _END.size or not tail.startswith(b"PK\5\6"):
        raise BadSubmission(f"{where} does not end as an archive of ours does (a comment, bytes behind it, or no zip): "
                            f"refused; {_AGAIN}")  # fmt: skip
    _, disk, first, here, entries, index, start, comment = _END.unpack(tail)
    if entries > MOST_ENTRIES or index > MOST_INDEX:
        raise BadSubmission(f"{where} has {entries} entries, {human(index)} of names: expected at most {MOST_ENTRIES} "
                            f"and {human(MOST_INDEX)}; refused")  # fmt: skip
    if disk or first or here != entries or comment or start + index + _END.size != size:
        raise BadSubmission(f"{where} is not one plain zip file from its first byte to its last: refused; {_AGAIN}")


def _check_places(path: Path, archive: zipfile.ZipFile, where: str) -> None:
    """Entries follow each other from the first byte to the index: none overlaps another, nothing lies between them."""
    place = 0
    with path.open("rb") as file:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            file.seek(info.header_offset)
            head = file.read(_LOCAL.size)
            if info.header_offset != place or len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
                raise BadSubmission(f"{where}: entries overlap, or something lies between them, at {info.filename!r}: "
                                    f"refused; {_AGAIN}")  # fmt: skip
            _, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack(head)
            same = (method, crc, packed, size) == (info.compress_type, info.CRC, info.compress_size, info.file_size)
            if not same or extra or flags & _DESCRIPTOR:
                raise BadSubmission(f"{where}: {info.filename!r} says something else in the index than where it lies: "
                                    f"refused; {_AGAIN}")  # fmt: skip
            place += _LOCAL.size + name + packed
    if place != archive.start_dir:
        raise BadSubmission(f"{where}: something lies behind the last entry: refused; {_AGAIN}")
