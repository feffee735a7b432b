"""Archives of others: honest ones whole, hostile ones not at all, and never a byte outside the folder."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robustiqa.bench.errors import BadData
from robustiqa.bench.sources import members
from robustiqa.bench.sources.unpack import unpack
from webserver import largest_file

RANDOM = np.random.default_rng(1).bytes(100_000)
FILES = {"set/images/1.png": RANDOM, "set/images/Grün 2.PNG": b"two", "set/mos.csv": b"", "set/a/b/c.txt": b"deep"}
KINDS = ["zip", "stored-zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def kind_of(suffix: str) -> str:
    return "zip" if "zip" in suffix else "tar"


def pack(folder: Path, files: dict[str, bytes], suffix: str = "zip", top: str = "set") -> Path:
    """An archive made by Python's own writers, with its top folder as an entry of its own."""
    path = folder / f"archive.{suffix}"
    if kind_of(suffix) == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if "stored" in suffix else zipfile.ZIP_DEFLATED) as archive:
            if top:
                archive.mkdir(top)
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    mode: Any = f"w:{suffix[4:]}"
    with tarfile.open(path, mode) as archive:
        archive.addfile(entry(f"./{top}", tarfile.DIRTYPE))
        for name, content in files.items():
            archive.addfile(entry(name, size=len(content)), io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def tar_of(folder: Path, *entries: tarfile.TarInfo) -> Path:
    path = folder / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for info in entries:
            archive.addfile(info, io.BytesIO(bytes(info.size)) if info.size else None)
    return path


def zip_of(folder: Path, *entries: zipfile.ZipInfo | str) -> Path:
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for info in entries:
            archive.writestr(info, b"content")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(path: Path, folder: Path, words: str) -> None:
    """The archive is refused in one sentence, and nothing at all was written."""
    before = tree(folder)
    with pytest.raises(BadData, match=words) as caught:
        unpack(path, kind_of(path.suffix), folder / "deep" / "out")
    assert "\n" not in str(caught.value)
    assert tree(folder) == before
    assert not (folder / "deep").exists()


@pytest.mark.parametrize("suffix", KINDS)
def test_whole_archive(tmp_path: Path, suffix: str) -> None:
    found = unpack(pack(tmp_path, FILES, suffix), kind_of(suffix), tmp_path / "out", strip="set")
    expected = {name.removeprefix("set/"): content for name, content in FILES.items()}
    assert tree(tmp_path / "out") == expected
    assert {name: (c.bytes, c.sha256) for name, c in found.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in expected.items()
    }


def test_only_contents_are_taken(tmp_path: Path) -> None:
    info = entry("tool", size=3)
    info.mode, info.uid = 0o4777, 12345
    unpack(tar_of(tmp_path, info), "tar", tmp_path / "out")
    status = (tmp_path / "out" / "tool").stat()
    assert stat.S_IMODE(status.st_mode) & 0o7111 == 0
    assert status.st_uid != 12345


NAMES = {
    "../../x": "leads out of the folder",
    "a/../../x": "leads out of the folder",
    "/etc/x": "absolute",
    "C:/x": "character ':'",
    "C:x": "character ':'",
    "..\\..\\x": "character",
    "a\\b": "character",
    "\\\\server\\x": "character",
    "NUL": "device on Windows",
    "a/con.txt": "device on Windows",
    "Lpt1.png": "device on Windows",
    "a./x": "ends in a dot or a space",
    "x ": "ends in a dot or a space",
    "a\nb": "character",
    "what?": "character",
    "n" * 300: "more than 255 bytes",
    "a/" * 10_000 + "x": r"^.{,200}of more than 1000 characters.{,50}$",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_hostile_names(tmp_path: Path, name: str, kind: str) -> None:
    honest, inside = "fine.txt", tmp_path / "in"
    inside.mkdir()
    path = zip_of(inside, honest, name) if kind == "zip" else tar_of(inside, entry(honest, size=2), entry(name, size=2))
    refused(path, tmp_path, NAMES[name])
    assert not (tmp_path.parent / "x").exists()


def test_hostile_folders(tmp_path: Path) -> None:
    """A folder leaves as a file does."""
    refused(tar_of(tmp_path, entry("../x", tarfile.DIRTYPE)), tmp_path, "leads out")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.mkdir("../x")
    refused(tmp_path / "archive.zip", tmp_path, "leads out")


@pytest.mark.parametrize(
    ("kind", "link", "words"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "a link"),
        (tarfile.SYMTYPE, "../../x", "a link"),
        (tarfile.LNKTYPE, "../../x", "a link"),
        (tarfile.LNKTYPE, "honest", "a link"),
        (tarfile.CHRTYPE, "", "a device or a pipe"),
        (tarfile.BLKTYPE, "", "a device or a pipe"),
        (tarfile.FIFOTYPE, "", "a device or a pipe"),
        (b"Z", "", "of an unknown kind"),
    ],
)
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes, link: str, words: str) -> None:
    refused(tar_of(tmp_path, entry("honest", size=4), entry("evil", kind, link)), tmp_path, words)


def test_write_through_a_link_in_tar(tmp_path: Path) -> None:
    """The classic: a link to a folder outside, then a file below it."""
    inside = entry("out/x", size=4)
    refused(tar_of(tmp_path, entry("out", tarfile.SYMTYPE, str(tmp_path)), inside), tmp_path, "a link")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path: Path, mode: int) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = (mode | 0o777) << 16
    refused(zip_of(tmp_path, "honest", info), tmp_path, "link or a device")


@pytest.mark.parametrize(
    "names",
    [("a/x.png", "a/x.png"), ("a/x.png", "a/X.PNG"), ("A/x", "a/y"), ("a", "a/b"), ("a/b", "a"), ("é", "e\u0301")],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_overwrite_each_other(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    path = zip_of(tmp_path, *names) if kind == "zip" else tar_of(tmp_path, *(entry(n, size=1) for n in names))
    refused(path, tmp_path, "twice, or under names that differ by case only")


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_bomb(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros shrink a thousandfold; the limit is lowered so that the test stays small."""
    path = pack(tmp_path, {f"{i}": bytes(3_000_000) for i in range(5)}, suffix)
    assert len(unpack(path, kind_of(suffix), tmp_path / "first")) == 5, "below the size that is always allowed"
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr(members, "ALWAYS_ALLOWED", 10_000_000)
    refused(path, tmp_path, "decompression bomb")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 9)
    refused(zip_of(tmp_path, *map(str, range(10))), tmp_path, "decompression bomb")


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def test_zip_that_is_larger_inside_than_it_says(tmp_path: Path) -> None:
    """Sizes in both headers made small: what is unpacked is never more than was counted."""
    size, small = (10_000_019).to_bytes(4, "little"), (19).to_bytes(4, "little")
    path = patched(pack(tmp_path, {"x": bytes(10_000_019)}), size, small)
    with pytest.raises(BadData, match="damaged"):
        unpack(path, "zip", tmp_path / "out")
    assert sum(map(len, tree(tmp_path / "out").values())) <= 19


def test_zip_whose_directory_lies_about_a_name(tmp_path: Path) -> None:
    path = zip_of(tmp_path, "honest.png")
    content = path.read_bytes()
    at = content.index(b"honest.png")
    path.write_bytes(content[:at] + b"../../evil" + content[at + 10 :])
    with pytest.raises(BadData, match="damaged"):
        unpack(path, "zip", tmp_path / "out")
    assert not any("evil" in p.name for p in tmp_path.parent.parent.glob("*"))


def test_zip_name_with_nul(tmp_path: Path) -> None:
    """Python cuts a name at its NUL: what the archive says counts."""
    path = patched(zip_of(tmp_path, "abcdefg"), b"abcdefg", b"abc\0efg")
    refused(path, tmp_path, "character")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = zip_of(tmp_path, "x")
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)
    refused(path, tmp_path, "encrypted")


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_archives(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path, FILES, suffix)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"not an archive" * 99, b""):
        path.write_bytes(content)
        with pytest.raises(BadData, match="damaged, or no"):
            unpack(path, kind_of(suffix), tmp_path / "out")


def test_corrupt_byte_in_a_zip(tmp_path: Path) -> None:
    path = pack(tmp_path, FILES, "stored-zip")
    with pytest.raises(BadData, match="damaged"):
        unpack(patched(path, RANDOM[5000:5010], b"xxxxxxxxxx"), "zip", tmp_path / "out")


def test_empty_archive_and_other_layout(tmp_path: Path) -> None:
    refused_by: dict[str, Any] = {"strip": "other"}
    with pytest.raises(BadData, match="not below 'other'"):
        unpack(pack(tmp_path, FILES), "zip", tmp_path / "out", **refused_by)
    with pytest.raises(BadData, match="holds no files"):
        unpack(pack(tmp_path, {}), "zip", tmp_path / "out")


def test_existing_file_and_link_are_not_written_over(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for make in (lambda p: p.write_text("mine"), lambda p: p.symlink_to(outside)):
        target = tmp_path / "out" / "set" / "mos.csv"
        target.parent.mkdir(parents=True)
        make(target)
        with pytest.raises(BadData, match="there already"):
            unpack(pack(tmp_path, FILES), "zip", tmp_path / "out")
        assert target.read_text() == outside.read_text() == "mine"
        shutil.rmtree(tmp_path / "out")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 64 * 2**20 + 100_000))  # type: ignore[attr-defined]
    with pytest.raises(BadData, match=r"needs 100\.0 kB"):
        unpack(pack(tmp_path, FILES), "zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """Also where a file is so small that a buffered one would be written only when it is closed."""
    for content in (bytes(5000), bytes(3_000_000)):
        path = pack(tmp_path, {"x": content}, "tar.gz", top="")
        with largest_file(1000), pytest.raises(BadData, match="cannot write") as caught:
            unpack(path, "tar", tmp_path / f"out {len(content)}")
        assert not isinstance(caught.value, members.BadArchive), "it would be deleted"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_disk_that_cannot_be_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is not damage of the archive, which would be deleted for it."""
    path = pack(tmp_path, FILES, suffix)

    def fails(*args: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(members, "raw_members", fails)
    with pytest.raises(BadData, match="check the disk") as caught:
        unpack(path, suffix, tmp_path / "out")
    assert not isinstance(caught.value, members.BadArchive)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_tar_header_that_fills_the_memory(tmp_path: Path, kind: bytes) -> None:
    """A long name or attributes of any size are read at once; a thousandth of it suffices in the compressed file."""
    path = tmp_path / "archive.tar"
    header = entry("h", kind, size=members.LONGEST_HEADER + 512).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + bytes(members.LONGEST_HEADER + 512) + entry("x").tobuf() + bytes(1024))
    refused(path, tmp_path, "made to fill the memory")


def test_tar_with_a_negative_size(tmp_path: Path) -> None:
    """It would set the reader back, and lower the sum that is held against the limits."""
    path = tmp_path / "archive.tar"
    path.write_bytes(entry("x", size=-1024).tobuf(tarfile.GNU_FORMAT) + entry("y").tobuf() + bytes(1024))
    refused(path, tmp_path, "entry of -1024 bytes")
    header = entry("x")
    header.pax_headers = {"size": "-512"}
    path.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + entry("y").tobuf() + bytes(1024))
    refused(path, tmp_path, "unknown kind|damaged")
