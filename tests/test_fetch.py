"""Fetching and verifying sources: at once or not at all, killed and gone on with, two at a time, looked at again."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from robustiqa.bench.errors import BadData
from robustiqa.bench.sources.download import Patience
from robustiqa.bench.sources.fetch import OURS, Fetched, fetch
from robustiqa.bench.sources.places import RECEIPT, Roots
from robustiqa.bench.sources.table import Source, load_table
from robustiqa.bench.sources.verify import verify
from test_unpack import pack, tree
from webserver import Web, serving

COUNT = 12
QUICK = Patience(tries=2, first=0.001, longest=0.002, silence=5)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path / "data", tmp_path / "torch", tmp_path / "hub")


def koniq() -> tuple[dict[str, bytes], bytes]:
    """Images of a small KonIQ-10k below a folder koniq10k, and its table."""
    images, rows = {}, ["image_name,SD,MOS"]
    rng = np.random.default_rng(2)
    for i in range(COUNT):
        with io.BytesIO() as buffer:
            Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
            images[f"koniq10k/512x384/{i}.jpg"] = buffer.getvalue()
        rows.append(f"{i}.jpg,0.5,{1 + i / 4}")
    return images, "\n".join(rows).encode()


def source(files: list[dict[str, Any]], **changes: Any) -> Source:
    about = {"title": "T", "licence": "L", "citation": "C", "page": "https://example.org", "verified": "in a test"}
    return Source.model_validate({"name": "koniq10k", "kind": "dataset", **about, "files": files, **changes})


def pin(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


@pytest.fixture
def release(web: Web, tmp_path: Path) -> Source:
    """A data set of two files, an archive and a table, both pinned."""
    images, table = koniq()
    (tmp_path / "server").mkdir()
    archive = pack(tmp_path / "server", images, "tar.gz").read_bytes()
    name = "koniq10k_scores_and_distributions.csv"
    images_file = {"save": "images.tgz", "urls": [web.add("/i", archive)], "archive": "tar", "strip": "koniq10k"}
    return source([{**images_file, **pin(archive)}, {"save": name, "urls": [web.add("/t", table)], **pin(table)}])


def get(what: Source, roots: Roots, keep: bool = False) -> Fetched:
    return fetch(what, roots, keep, patience=QUICK)


def statuses(what: Source, roots: Roots) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for status, text in verify(what, roots, lambda indices, count: indices):
        found[status].append(text)
    return found


def test_fetched_data_set_is_verified_and_loads(release: Source, roots: Roots, web: Web) -> None:
    got = get(release, roots)
    assert got.folder == roots.data / "koniq10k"
    assert not got.before
    assert len(list((got.folder / "512x384").iterdir())) == COUNT
    assert sorted(p.name for p in roots.data.iterdir()) == [OURS, "koniq10k"]
    assert [p.name for p in (roots.data / OURS).iterdir()] == ["koniq10k.lock"], "archives are removed"
    found = statuses(release, roots)
    assert found.keys() == {"ok"}
    assert any(f"{COUNT} of {COUNT} images of its table are there and can be read; content hash" in t
               for t in found["ok"])  # fmt: skip
    web.log.clear()
    assert get(release, roots) == Fetched(got.folder, True, True)
    assert web.log == []


def test_entry_of_the_table_fits_the_authors_layout(web: Web, roots: Roots, tmp_path: Path) -> None:
    """The built-in entry of KonIQ-10k with small archives like the authors', elsewhere: its loader finds all."""
    images, scores = koniq()
    sets = "image_name,SD,c1,c2,c3,c4,c5,set\n" + "".join(f"{i}.jpg,0.5,1,1,1,1,1,test\n" for i in range(COUNT))
    (tmp_path / "server").mkdir()
    served = {
        "koniq10k_512x384.zip": {name.removeprefix("koniq10k/"): content for name, content in images.items()},
        "koniq10k_scores_and_distributions.zip": {"koniq10k_scores_and_distributions.csv": scores},
    }
    contents = {name: pack(tmp_path / "server", files, top="").read_bytes() for name, files in served.items()}
    contents["koniq10k_distributions_sets.csv"] = sets.encode()
    entry = load_table()["koniq10k"].model_dump()
    for file in entry["files"]:
        file["urls"] = [web.add(f"/{file['save']}", contents[file["save"]])]
    what = Source.model_validate(entry)
    get(what, roots)
    found = statuses(what, roots)
    assert found["wrong"] == []
    assert any(f"{COUNT} of {COUNT} images" in text for text in found["ok"])


def test_receipt_says_where_everything_came_from(release: Source, roots: Roots) -> None:
    receipt = json.loads((get(release, roots).folder / RECEIPT).read_text())
    assert [d["url"] for d in receipt["downloads"]] == [file.urls[0] for file in release.files]
    assert all(
        d["pinned"] and d["sha256"] == f.sha256 for d, f in zip(receipt["downloads"], release.files, strict=True)
    )
    on_disk = tree(roots.data / "koniq10k")
    on_disk.pop(RECEIPT)
    assert {name: c["sha256"] for name, c in receipt["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in on_disk.items()
    }


def test_archives_are_kept_when_asked(release: Source, roots: Roots, web: Web) -> None:
    get(release, roots, keep=True)
    kept = roots.data / "archives" / "koniq10k" / "images.tgz"
    assert kept.read_bytes() == web.files["/i"].content


def test_interrupted_and_gone_on_with(release: Source, roots: Roots, web: Web) -> None:
    """Cut for good in the second file: nothing looks finished, and neither the first nor the half is loaded again."""
    table = web.files["/t"]
    table.content += b"\n" * 100_000
    release = source([*(f.model_dump() for f in release.files[:1]),
                      {**release.files[1].model_dump(), **pin(table.content)}])  # fmt: skip
    table.cuts += [2**16, 0, 0]
    with pytest.raises(BadData, match="are kept"):
        get(release, roots)
    assert not (roots.data / "koniq10k").exists()
    assert statuses(release, roots)["absent"]
    table.cuts.clear()
    web.log.clear()
    get(release, roots)
    assert [(path, asked) for path, asked, _ in web.log] == [("/t", f"bytes={2**16}-")]
    assert statuses(release, roots).keys() == {"ok"}


@pytest.mark.parametrize("name", ["../../x", "koniq10k/../../../x"])
def test_archive_that_leaves_its_folder(release: Source, roots: Roots, web: Web, tmp_path: Path, name: str) -> None:
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        archive.addfile(tarfile.TarInfo("koniq10k/fine.jpg"))
        archive.addfile(tarfile.TarInfo(name))
    content = evil.read_bytes()
    release = source([{**release.files[0].model_dump(), "urls": [web.add("/evil", content)], **pin(content)}])
    before = tree(tmp_path.parent)
    with pytest.raises(BadData, match="leads out of the folder"):
        get(release, roots)
    after = {name for name in tree(tmp_path.parent).keys() - before.keys() if not name.endswith(".lock")}
    assert not after, "neither anything of its content nor the archive itself"
    assert not (roots.data / "koniq10k").exists()


def test_wrong_hash_leaves_nothing(release: Source, roots: Roots, web: Web) -> None:
    web.files["/i"].content = web.files["/i"].content[:-1] + b"x"
    with pytest.raises(BadData, match="other bytes than the pinned ones"):
        get(release, roots)
    assert tree(roots.data).keys() <= {f"{OURS}/koniq10k.lock"}


def test_two_at_once(release: Source, roots: Roots, web: Web) -> None:
    """The second says so at once; the first is not disturbed."""
    web.files["/i"].hold = threading.Event()
    first = threading.Thread(target=get, args=(release, roots))
    first.start()
    until = time.monotonic() + 10
    while not web.log and time.monotonic() < until:
        time.sleep(0.005)
    with pytest.raises(BadData, match=r"another fetch of 'koniq10k' .* is under way"):
        get(release, roots)
    web.files["/i"].hold.set()
    first.join(20)
    assert get(release, roots).before


_SCRIPT = """
import sys
from pathlib import Path
from robustiqa.bench.sources.fetch import fetch
from robustiqa.bench.sources.places import Roots
from robustiqa.bench.sources.table import Source
fetch(Source.model_validate_json(sys.argv[1]), Roots(*[Path(sys.argv[2])] * 3))
"""


def test_killed_and_gone_on_with(release: Source, roots: Roots, web: Web) -> None:
    """SIGKILL in the middle of a download: the lock is free again, and the rest is fetched."""
    file, half = web.files["/i"], 2**15
    file.content = np.random.default_rng(4).bytes(2**17)
    plain = {"strip": "", "archive": None}
    release = source([{**release.files[0].model_dump(), **plain, **pin(file.content)}])
    file.cuts, file.hold = [half], threading.Event()
    with subprocess.Popen([sys.executable, "-c", _SCRIPT, release.model_dump_json(), str(roots.data)]) as process:
        part = roots.data / OURS / "koniq10k" / "archives" / "images.tgz.part"
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            part.exists() and len(web.log) == 1 and part.with_name(part.name + ".json").exists()
        ):
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    file.hold.set()
    assert part.stat().st_size == half
    assert not (roots.data / "koniq10k").exists()
    web.log.clear()
    get(release, roots)
    assert web.ranges() == [f"bytes={half}-"]
    assert (roots.data / "koniq10k" / "images.tgz").read_bytes() == file.content


def test_killed_while_unpacking(release: Source, roots: Roots, web: Web) -> None:
    """What lies half unpacked is thrown away; the archives are not downloaded again."""
    work = roots.data / OURS / "koniq10k"
    (work / "files" / "512x384").mkdir(parents=True)
    (work / "files" / "512x384" / "left over.jpg").touch()
    (work / "archives").mkdir()
    (work / "archives" / "images.tgz").write_bytes(web.files["/i"].content)
    get(release, roots)
    assert [path for path, *_ in web.log] == ["/t"]
    assert not (roots.data / "koniq10k" / "512x384" / "left over.jpg").exists()


def test_archive_of_an_earlier_call_that_went_bad(release: Source, roots: Roots, web: Web) -> None:
    path = roots.data / OURS / "koniq10k" / "archives" / "images.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(web.files["/i"].content[:-1] + b"x")
    get(release, roots)
    assert [path for path, *_ in web.log] == ["/i", "/t"]


def test_killed_at_the_very_end(release: Source, roots: Roots, web: Web) -> None:
    """The folder has its name, and the archives are still there: the next call clears them away."""
    get(release, roots)
    left = roots.data / OURS / "koniq10k" / "archives" / "images.tgz"
    left.parent.mkdir(parents=True)
    left.touch()
    assert get(release, roots).before
    assert not left.parent.parent.exists()


def test_completed_file_without_a_pin_is_not_loaded_again(web: Web, roots: Roots) -> None:
    files = [{"save": "a", "urls": [web.add("/a", b"a")]}, {"save": "b", "urls": [web.add("/b", b"b", codes=[404])]}]
    what = source(files, name="unpinned")
    with pytest.raises(BadData, match="404"):
        get(what, roots)
    web.log.clear()
    first, second = get(what, roots).downloads
    assert [path for path, *_ in web.log] == ["/b"]
    assert (first.url, second.url) == (None, what.files[1].urls[0])


def test_bad_archive_without_a_pin_is_not_kept(release: Source, roots: Roots, web: Web) -> None:
    """Only unpacking shows that it is bad: kept, it would be taken for the download of every later call."""
    good = web.files["/i"].content
    web.files["/i"].content = good[: len(good) // 2]
    loose = source([{**release.files[0].model_dump(), "sha256": None, "bytes": None}])
    with pytest.raises(BadData, match=r"damaged.*the archive was deleted"):
        get(loose, roots)
    web.files["/i"].content = good
    assert len(list((get(loose, roots).folder / "512x384").iterdir())) == COUNT


def test_weights_of_the_users_that_are_not_all_there(web: Web, roots: Roots) -> None:
    files = [{"save": x, "urls": [web.add(f"/{x}", b"x")], **pin(b"x")} for x in "ab"]
    weights = source(files, kind="weights", name="net")
    mine = roots.data / "weights" / "net" / "a"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(BadData, match="without all of 'net'"):
        get(weights, roots)
    assert tree(roots.data) == {"weights/net/a": b"mine"}


def test_folder_of_the_users_is_left_alone(release: Source, roots: Roots, web: Web) -> None:
    mine = roots.data / "koniq10k" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert get(release, roots) == Fetched(mine.parent, True, False)
    assert web.log == []
    assert tree(roots.data) == {"koniq10k/mine.txt": b"mine"}


def test_other_version_is_not_taken_for_this_one(release: Source, roots: Roots, web: Web) -> None:
    get(release, roots)
    other = source([{**f.model_dump(), "sha256": "0" * 64} for f in release.files])
    with pytest.raises(BadData, match="another version than is pinned now"):
        get(other, roots)
    assert any("another version" in text for text in statuses(other, roots)["wrong"])


def test_file_in_the_way_and_no_permission(release: Source, roots: Roots, tmp_path: Path) -> None:
    roots.data.mkdir()
    (roots.data / "koniq10k").write_text("mine")
    with pytest.raises(BadData, match="is a file, and 'koniq10k' needs a folder"):
        get(release, roots)
    with pytest.raises(BadData, match="choose another --to"):
        get(release, Roots(roots.data / "koniq10k" / "below a file", tmp_path, tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(release: Source, roots: Roots) -> None:
    roots.data.mkdir(mode=0o500)
    with pytest.raises(BadData, match="check the folder's permissions, or choose another --to"):
        get(release, roots)


def test_read_only_folder_that_has_it(release: Source, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compute node may see the data on a disk where it cannot write: nothing is tried there."""
    get(release, roots)

    def refuse(*args: Any, **more: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "replace", "unlink", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert get(release, roots).before


def test_disk_that_fills_up_while_unpacking(
    release: Source, roots: Roots, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BadData, match="free some space and run again"):
        get(release, roots)
    assert not (roots.data / "koniq10k").exists()
    monkeypatch.undo()
    web.log.clear()
    get(release, roots)
    assert web.log == [], "the downloads were kept"


def test_disk_too_small_for_all_of_it(release: Source, roots: Roots, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 2**20))  # type: ignore[attr-defined]
    with pytest.raises(BadData, match="koniq10k needs"):
        get(release, roots)
    assert web.log == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("no second file system to write to")
    there = memory / f"robustiqa-test-{os.getpid()}"
    there.mkdir()
    yield there
    shutil.rmtree(there)


def test_on_another_file_system(release: Source, tmp_path: Path, elsewhere: Path) -> None:
    get(release, Roots(elsewhere, tmp_path, tmp_path))
    assert (elsewhere / "koniq10k" / RECEIPT).is_file()


def test_links_to_another_file_system(release: Source, roots: Roots, web: Web, elsewhere: Path) -> None:
    """As on clusters, where the caches of a small home lead to a large disk."""
    net = [{"save": "a.pth", "urls": [web.add("/a", b"a")], **pin(b"a")}]
    for root, name in ((roots.torch, "hub"), (roots.data, "weights")):
        root.mkdir()
        (elsewhere / name).mkdir()
        (root / name).symlink_to(elsewhere / name)
    get(source(net, kind="weights", name="net", below="torch", folder="hub/checkpoints"), roots)
    get(source(net, kind="weights", name="net"), roots)
    assert (elsewhere / "hub" / "checkpoints" / "a.pth").read_bytes() == b"a"
    assert (elsewhere / "weights" / "net" / "a.pth").read_bytes() == b"a"
    web.log.clear()
    for there in (elsewhere / "empty", elsewhere / "none"):
        (elsewhere / "empty").mkdir(exist_ok=True)
        (roots.data / "koniq10k").symlink_to(there)
        with pytest.raises(BadData, match="is a link or a mount"):
            get(release, roots)
        (roots.data / "koniq10k").unlink()
    assert web.log == [], "said before anything is downloaded"


def test_weights_in_torchs_cache(web: Web, roots: Roots) -> None:
    """Beside the files of others, which stay; a file of the name that is another one is not written over."""
    about = {"kind": "weights", "name": "net", "below": "torch", "folder": "hub/checkpoints"}
    files = [{"save": f"{x}.pth", "urls": [web.add(f"/{x}", x.encode())], **pin(x.encode())} for x in "ab"]
    weights = source(files, **about)
    folder = roots.torch / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "other.pth").write_bytes(b"other")
    (folder / "a.pth").write_bytes(b"a")
    got = get(weights, roots)
    assert [d.save for d in got.downloads] == ["b.pth"]
    assert tree(folder) == {"other.pth": b"other", "a.pth": b"a", "b.pth": b"b"}
    assert len(statuses(weights, roots)["ok"]) == 2
    (folder / "a.pth").write_bytes(b"mine")
    assert "has the SHA-256" in statuses(weights, roots)["wrong"][0]
    with pytest.raises(BadData, match="is not the pinned file"):
        get(weights, roots)
    assert (folder / "a.pth").read_bytes() == b"mine"


def test_verify_finds_every_change(release: Source, roots: Roots) -> None:
    folder = get(release, roots).folder
    image, other = folder / "512x384" / "3.jpg", folder / "512x384" / "4.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    wrong = statuses(release, roots)["wrong"]
    assert any(f"1 of {COUNT + 1} files changed since they were unpacked: '512x384/3.jpg'" in text for text in wrong)
    image.write_bytes(b"not an image")
    other.unlink()
    found = statuses(release, roots)
    assert "files are missing: '512x384/4.jpg'" in found["incomplete"][0]
    wrong = " ".join(found["wrong"])
    assert f"{COUNT - 1} of {COUNT} images of its table are there, 1 of them cannot be read ('3.jpg')" in wrong
    (folder / RECEIPT).write_text("{}")
    assert "receipt" in statuses(release, roots)["wrong"][0]


def test_verify_of_what_was_unpacked_by_hand(release: Source, roots: Roots) -> None:
    """No digests of single files to compare with: the loader says whether all is there."""
    folder = get(release, roots).folder
    (folder / RECEIPT).unlink()
    by_hand = source([], by_hand="unpack it there")
    found = statuses(by_hand, roots)
    assert found["wrong"] == []
    assert "put there by hand" in found["unknown"][0]
    assert "can be read" in found["ok"][0]
    (folder / "512x384" / "0.jpg").unlink()
    assert f"{COUNT - 1} of {COUNT}" in statuses(by_hand, roots)["incomplete"][0]
    assert statuses(by_hand, roots)["wrong"] == []
    shutil.rmtree(folder / "512x384")
    assert "expected 512x384/" in statuses(by_hand, roots)["incomplete"][0]
    shutil.rmtree(folder)
    assert "nothing in" in statuses(by_hand, roots)["absent"][0]


def test_verify_of_a_data_set_without_a_loader(web: Web, roots: Roots) -> None:
    """Names that a later version may know are fetched all the same."""
    what = source([{"save": "a", "urls": [web.add("/a", b"a")], **pin(b"a")}], name="not-registered-yet")
    get(what, roots)
    found = statuses(what, roots)
    assert found["wrong"] == []
    assert "no loader" in found["unknown"][0]


def test_not_pinned(web: Web, roots: Roots) -> None:
    """The digest of the first download is recorded, shown, and what verify compares with."""
    what = source([{"save": "a", "urls": [web.add("/a", b"a")]}], name="unpinned")
    (download,) = get(what, roots).downloads
    assert not download.pinned
    digest = hashlib.sha256(b"a").hexdigest()
    assert download.sha256 == digest
    assert digest in statuses(what, roots)["unknown"][0]
    (roots.data / "unpinned" / "a").write_bytes(b"b")
    assert statuses(what, roots)["wrong"]


def test_verify_names_what_is_missing_and_what_was_added(web: Web, roots: Roots) -> None:
    """One of two files is not "not there"; a file beside those of the receipt may be read by a loader."""
    files = [{"save": x, "urls": [web.add(f"/{x}", x.encode())], **pin(x.encode())} for x in "ab"]
    for weights in (source(files, kind="weights", name="net"),
                    source(files, kind="weights", name="net", below="torch", folder="hub")):  # fmt: skip
        folder = get(weights, roots).folder
        (folder / "c").touch()
        added = [text for text in statuses(weights, roots)["unknown"] if "added" in text]
        assert added == ([] if weights.below == "torch" else ["1 files were added to what was unpacked: 'c'"])
        (folder / "a").unlink()
        (missing,) = statuses(weights, roots)["incomplete"]
        assert "missing" in missing
        assert "a'" in missing


def test_two_files_of_one_name(web: Web, roots: Roots, tmp_path: Path) -> None:
    content = pack(tmp_path, {"a": b"x"}, top="").read_bytes()
    archive = {"save": "z.zip", "urls": [web.add("/z", content)], "archive": "zip", **pin(content)}
    with pytest.raises(BadData, match="has two files 'a'"):
        get(source([archive, {"save": "a", "urls": [web.add("/a", b"a")], **pin(b"a")}]), roots)


def test_folder_that_cannot_be_looked_into(release: Source, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence from fetch and verify alike; a receipt that one may not read is not damaged."""
    get(release, roots)

    def refuse(*args: Any, **more: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", "the folder")

    for name in ("is_file", "read_bytes", "is_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refuse)
            with pytest.raises(BadData, match="'the folder' cannot be read"):
                get(release, roots)
            assert any("'the folder' cannot be read" in text for text in statuses(release, roots)["wrong"])
