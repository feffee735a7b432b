"""Archives of strangers: each trick of the trade is refused in a sentence, and nothing is written, run or believed."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from robustiqa.bench.errors import RobustIQAError
from robustiqa.bench.sources import members
from robustiqa.bench.submission import archive as archives
from robustiqa.bench.submission import packing
from robustiqa.bench.submission.packing import check_archive, pack, unpack_sources
from submissions import archive_of, changed_json, contents, folder_of, manifest_of, pickled, verified, zipped


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed submission."""
    folder = tmp_path_factory.mktemp("honest")
    return pack(verified(folder_of(folder)), out=folder / "honest.zip")[0]


@pytest.fixture(scope="module")
def files(honest: Path) -> dict[str, bytes]:
    """What is in it."""
    return contents(honest)


def refused(path: Path, words: str, tmp_path: Path) -> None:
    """By every way of reading; nothing is left behind."""
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    for read in (lambda: check_archive(path), lambda: unpack_sources(path, tmp_path / "new")):
        with pytest.raises(RobustIQAError, match=words) as caught:
            read()
        text = str(caught.value)
        assert "\n" not in text
        assert text.isprintable()
        assert len(text) < 700
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_honest_one_passes_also_when_made_by_hand(honest: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    assert check_archive(honest).submission.name == "half-way"
    assert check_archive(archive_of(tmp_path / "a.zip", files)).submission.name == "half-way"
    assert set(unpack_sources(honest, tmp_path / "new")) == {"defense.py", "submission.yml"}
    assert (tmp_path / "new" / "defense.py").read_bytes() == files["source/defense.py"]
    with pytest.raises(RobustIQAError, match="is there already: choose a new folder"):
        unpack_sources(honest, tmp_path / "new")


NAMES = {
    "source/../../x.py": "leads out of the folder",
    "../x.py": "leads out of the folder",
    "/etc/x.py": "absolute name",
    "C:/x.py": "the character ':'",
    "C:x.py": "the character ':'",
    "source\\x.py": "the character",
    "..\\x.py": "the character",
    "\\\\server\\share\\x.py": "the character",
    "source/nul.py": "a device on Windows",
    "source/x.py.": "ends in a dot or a space",
    "source/a\x1b[2Jb.py": "the character",
    "source/\u202egnp.py": "no part of a submission",
    "source//x.py": "no plain name",
    "source/./x.py": "no plain name",
    "source/.hidden.py": "no part of a submission",
    "extra.py": "no part of a submission",
    "run/leaderboard/summary.csv": "no part of a submission",
    "run/cells/x.parquet": "no part of a submission",
    "run/job.json": "no part of a submission",
    "run/cells/sub/x.arrow.gz": "no part of a submission",
    "source/" + "a/" * 600 + "x.py": "more than 1000 characters",
    "source/" + "a/" * 20 + "x.py": "no part of a submission",
    "source/verified/plan.json": "take the place of another file, or of results",
    "source/submission.yml": "take the place of another file",
    "images/x.png": "no part of a defence|no PNG file",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    refused(archive_of(tmp_path / "a.zip", files | {name: b"# nothing\n"}), NAMES[name], tmp_path)


@pytest.mark.parametrize("other", ["source/DEFENSE.py", "source/Defense.PY", "Source/defense.py"])
def test_names_that_differ_by_case(files: dict[str, bytes], other: str, tmp_path: Path) -> None:
    refused(archive_of(tmp_path / "a.zip", files | {other: b"x"}), "differ by case only|no part", tmp_path)


def test_names_of_other_scripts(files: dict[str, bytes], tmp_path: Path) -> None:
    """Two spellings of one letter, and letters that look like others: names are plain ASCII."""
    for name in ("source/\u00e9.py", "source/e\u0301.py", "source/d\u0435fense.py", "source/\uff41.py"):
        refused(archive_of(tmp_path / "a.zip", files | {name: b"x"}), "no part of a submission", tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(files: dict[str, bytes], tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", files)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("source/defense.py", b"import os\n")
    refused(path, "twice, or under names that differ by case only", tmp_path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices(files: dict[str, bytes], mode: int, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", files)
    info = zipfile.ZipInfo("source/link.py")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, b"/etc/passwd")
    refused(path, "a link or a device", tmp_path)


def with_entry(path: Path, name: str, content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), content, kind)
    return path


def test_bombs(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ratio, by the size of a file, by the number of entries, by the index, and by the archive."""
    monkeypatch.setattr(members, "ALWAYS_ALLOWED", 2**20)
    refused(archive_of(tmp_path / "a.zip", files | {"source/a.txt": bytes(2**22)}), "decompression bomb", tmp_path)
    monkeypatch.undo()
    many = files | {"run/cells/a.arrow.gz": bytes(17 * 2**20)}
    refused(archive_of(tmp_path / "a.zip", many), "more than the .* that such a file may have", tmp_path)
    monkeypatch.setattr(archives, "MOST_ENTRIES", len(files))
    refused(archive_of(tmp_path / "a.zip", files), r"1\d entries, .*: expected at most", tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MOST_INDEX", 100)
    refused(archive_of(tmp_path / "a.zip", files), "entries, .* of names: expected at most", tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MOST_ARCHIVE", 1000)
    refused(archive_of(tmp_path / "a.zip", files), "expected at most 1.0 kB; refused", tmp_path)


def test_bombs_inside_the_records(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are compressed within the archive: one by one, and all together."""
    name = next(name for name in files if name.startswith("run/cells/"))
    sizes = {n: len(gzip.decompress(c)) for n, c in files.items() if n.endswith(".gz")}
    monkeypatch.setattr(packing, "MOST_RECORD", max(sizes.values()))
    path = archive_of(tmp_path / "a.zip", files)
    check_archive(path)
    refused(archive_of(path, files | {name: gzip.compress(bytes(10**7))}), "refused as a decompression bomb", tmp_path)
    refused(archive_of(path, files | {name: b"no gzip"}), "corrupt", tmp_path)
    monkeypatch.setattr(packing, "MOST_RECORDS", sum(sizes.values()) - 1)
    refused(archive_of(path, files), "refused as a decompression bomb", tmp_path)
    monkeypatch.setattr(packing, "MOST_RECORDS", sum(sizes.values()))
    check_archive(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(files: dict[str, bytes], kind: int, tmp_path: Path) -> None:
    path = with_entry(archive_of(tmp_path / "a.zip", files), "source/a.txt", b"a" * 1000, kind)
    refused(path, "packed in another way than ours", tmp_path)


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def index_of(content: bytearray, name: bytes) -> int:
    """Where the entry of a name is in the index."""
    place = content.rindex(name)
    return content.rindex(b"PK\1\2", 0, place)


def test_overlapping_entries(files: dict[str, bytes], tmp_path: Path) -> None:
    """The trick of Fifield's bomb: several names for one entry's bytes."""

    def point_elsewhere(content: bytearray) -> None:
        first, second = (index_of(content, name) for name in (b"source/defense.py", b"submission.yml"))
        content[second + 42 : second + 46] = content[first + 42 : first + 46]

    refused(patched(archive_of(tmp_path / "a.zip", files), point_elsewhere), "overlap, or something lies", tmp_path)


def test_something_between_before_and_behind(files: dict[str, bytes], tmp_path: Path) -> None:
    """Files that are two things at once."""
    path = archive_of(tmp_path / "a.zip", files)
    content = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + content)
    refused(path, "not one plain zip file from its first byte to its last|does not end", tmp_path)
    path.write_bytes(content + b"more")
    refused(path, "does not end as an archive of ours does", tmp_path)
    with zipfile.ZipFile(archive_of(path, files), "a") as archive:
        archive.comment = b"PK\5\6"
    refused(path, "does not end as an archive of ours does|not one plain zip", tmp_path)
    path.write_bytes(b"no zip at all")
    refused(path, "does not end as an archive", tmp_path)
    with pytest.raises(RobustIQAError, match="is no file: give the archive"):
        check_archive(tmp_path)


def test_an_entry_that_says_something_else_where_it_lies(files: dict[str, bytes], tmp_path: Path) -> None:
    def larger(content: bytearray) -> None:
        place = content.index(b"source/defense.py") - 30
        (size,) = struct.unpack_from("<I", content, place + 22)
        struct.pack_into("<I", content, place + 22, size + 1)

    refused(patched(archive_of(tmp_path / "a.zip", files), larger), "says something else in the index", tmp_path)


def test_encrypted(files: dict[str, bytes], tmp_path: Path) -> None:
    def flag(content: bytearray) -> None:
        content[index_of(content, b"source/defense.py") + 8] |= 1

    refused(patched(archive_of(tmp_path / "a.zip", files), flag), "encrypted", tmp_path)


def test_every_cut_and_many_flips(honest: Path, tmp_path: Path) -> None:
    """A sentence each, never a traceback; a flip that passes has changed nothing that counts."""
    content, path = honest.read_bytes(), tmp_path / "a.zip"
    digest = check_archive(honest).digest
    for cut in range(0, len(content), 997):
        path.write_bytes(content[:cut])
        with pytest.raises(RobustIQAError):
            check_archive(path)
    for place in range(0, len(content), 211):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert check_archive(path).digest == digest
        except RobustIQAError:
            continue


WEIGHTS = {
    "source/weights.pt": (pickled(), "is a pickle, or may hold one"),
    "source/weights.pkl": (b"anything", "is a pickle, or may hold one"),
    "source/weights.npz": (b"anything", "is a pickle, or may hold one"),
    "source/notes.txt": (pickled(), "is a pickle, or may hold one"),
    "source/weights.safetensors": (pickled(), "is a pickle, or may hold one"),
    "source/inner.md": (zipped(pickled()), "is an archive, or compressed"),
    "source/more.zip": (zipped(b"x"), "is an archive, or compressed"),
    "source/long.safetensors": (b"\xff" * 16, "no safetensors file"),
    "source/empty.safetensors": (b"", "no safetensors file"),
    "source/library.so": (b"\x7fELF", "of a kind that a submission may not hold"),
    "source/cached.pyc": (b"\0\0", "of a kind that a submission may not hold"),
    "source/page.html": (b"<script>", "of a kind that a submission may not hold"),
    "source/latin.md": (b"\xe9", "no UTF-8 text"),
    "source/nul.md": (b"a\0b", "a device on Windows"),
    "source/zero.md": (b"a\0b", "no text"),
    "source/picture.png": (b"GIF89a", "no PNG file"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_contents_that_run_or_hide(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    content, words = WEIGHTS[name]
    refused(archive_of(tmp_path / "a.zip", files | {name: content}), words, tmp_path)


def test_edited_files(files: dict[str, bytes], tmp_path: Path) -> None:
    """With the manifest left as it was."""
    before = manifest_of(files)
    cell = next(name for name in files if name.startswith("run/cells/attack"))
    for name in ("source/defense.py", "submission.yml", "verification.json", "run/run.json", cell):
        edited = archive_of(tmp_path / "a.zip", files | {name: files[name] + b" "}, before)
        refused(edited, r"is not what its manifest says \(SHA-256\)", tmp_path)


def test_manifests(files: dict[str, bytes], tmp_path: Path) -> None:
    def with_manifest(content: bytes) -> Path:
        return archive_of(tmp_path / "a.zip", files, content)

    without = {name: content for name, content in files.items() if name != "source/defense.py"}
    refused(with_manifest(manifest_of(without)), "'source/defense.py' is not in its manifest", tmp_path)
    refused(with_manifest(manifest_of(files | {"source/more.py": b""})), "but not in the archive", tmp_path)
    refused(with_manifest(b"[" * 100_000), "no JSON that can be read", tmp_path)
    refused(with_manifest(b"[]"), "holds no JSON object", tmp_path)
    refused(with_manifest(b'{"a": 1, "a": 2}'), "a key is there twice", tmp_path)
    refused(with_manifest(b'{"a": NaN}'), "NaN is no number", tmp_path)
    refused(with_manifest(b"\xff"), "no JSON that can be read", tmp_path)
    refused(with_manifest(manifest_of(files, schema=2)), "format 2, this program reads 1", tmp_path)
    refused(with_manifest(manifest_of(files, schema=True)), "does not say its format", tmp_path)
    refused(with_manifest(manifest_of(files, robustiqa="\x1b]0;mine\x07")), "key 'robustiqa'", tmp_path)
    refused(with_manifest(manifest_of(files, more="x")), "key 'more'", tmp_path)
    refused(with_manifest(manifest_of(files, name="other")), "do not name the same submission", tmp_path)
    long = changed_json(manifest_of(files), lambda data: data["files"]["submission.yml"].update(bytes=10**30))
    refused(with_manifest(long), "'submission.yml' is not what its manifest says", tmp_path)


def test_the_plug_in_has_to_be_there(files: dict[str, bytes], tmp_path: Path) -> None:
    def forget(data: dict[str, dict[str, str]]) -> None:
        del data["files"]["defense.py"]

    less = {name: content for name, content in files.items() if name != "source/defense.py"}
    less["verification.json"] = changed_json(less["verification.json"], forget)
    refused(archive_of(tmp_path / "a.zip", less), "has no 'defense.py', which its submission.yml names", tmp_path)


def test_a_source_that_was_exchanged_with_its_manifest(files: dict[str, bytes], tmp_path: Path) -> None:
    """The verification says which files it has seen."""
    exchanged = archive_of(tmp_path / "a.zip", files | {"source/defense.py": b"# another\n"})
    refused(exchanged, "'defense.py' is not what was verified", tmp_path)
    added = archive_of(tmp_path / "a.zip", files | {"source/more.py": b"# another\n"})
    refused(added, "'more.py' is not what was verified", tmp_path)


def test_verifications(files: dict[str, bytes], tmp_path: Path) -> None:
    def with_change(**changes: object) -> Path:
        content = changed_json(files["verification.json"], lambda data: data.update(changes))
        return archive_of(tmp_path / "a.zip", files | {"verification.json": content})

    refused(with_change(ok=False, problems=["it is slow"]), r"did not pass \(it is slow\)", tmp_path)
    refused(with_change(problems=["\x1b[2J"]), "without control characters", tmp_path)
    refused(with_change(name="other"), "the verification is of 'other'", tmp_path)
    refused(with_change(more=1), "key 'more'", tmp_path)
    for value in ("NaN", "Infinity", "-Infinity"):
        content = files["verification.json"].replace(b'"claimed":0.5', f'"claimed":{value}'.encode())
        refused(archive_of(tmp_path / "a.zip", files | {"verification.json": content}), "is no number", tmp_path)
    less = {name: content for name, content in files.items() if name != "verification.json"}
    refused(archive_of(tmp_path / "a.zip", less), "has no 'verification.json'", tmp_path)


def test_nothing_of_it_is_imported_or_run(files: dict[str, bytes], tmp_path: Path) -> None:
    """A program that would leave a trace, packed in order: shown and unpacked, not run."""
    trace = tmp_path / "trace"
    program = f"open({str(trace)!r}, 'w')\n".encode()

    def known(data: dict[str, dict[str, str]]) -> None:
        import hashlib

        data["files"]["defense.py"] = hashlib.sha256(program).hexdigest()

    more = files | {"source/defense.py": program}
    more["verification.json"] = changed_json(files["verification.json"], known)
    path = archive_of(tmp_path / "a.zip", more)
    check_archive(path)
    unpack_sources(path, tmp_path / "new")
    assert not trace.exists()


def test_what_is_no_submission_is_not_packed(tmp_path: Path) -> None:
    """The author's side says the same, before anything leaves the machine."""
    root = folder_of(tmp_path)
    with pytest.raises(RobustIQAError, match=r"holds no verification\.json: `robustiqa submit verify` first"):
        pack(root, out=tmp_path / "a.zip")
    (root / "link.py").symlink_to("/etc/passwd")
    with pytest.raises(RobustIQAError, match="is a link"):
        pack(root, out=tmp_path / "a.zip")
    (root / "link.py").unlink()
    (root / "weights.pt").write_bytes(pickled())
    with pytest.raises(RobustIQAError, match=r"'weights\.pt' is a pickle"):
        pack(root, out=tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_an_archive_that_is_exchanged_while_it_is_read(honest: Path, tmp_path: Path) -> None:
    """What was written of it is what was checked: contents are held against the manifest that was read first."""
    path = tmp_path / "a.zip"
    shutil.copy(honest, path)
    with archives.opened_archive(path) as opened:
        sink = io.BytesIO(path.read_bytes())
        path.unlink()
        path.write_bytes(sink.getvalue()[::-1])
        assert opened.read("submission.yml") == contents(honest)["submission.yml"]
