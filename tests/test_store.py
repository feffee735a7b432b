"""The store's promises: whole or not there, several writers, and what a disk can do to it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.bench import files, saved_images
from robustiqa.bench import store as store_module
from robustiqa.bench.errors import BadData
from robustiqa.bench.files import STALE_SECONDS, temporary_name, write_atomically
from robustiqa.bench.images import load_image, quantise
from robustiqa.bench.store import OVERWRITE, Store
from support import small_file_system

ROW = {"image": "a", "status": "ok", "clean": 0.5}
BAD = {"image": "b", "status": "error", "message": "why"}


def rows_of(cell: str, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"cell": cell, **row} for row in rows]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Cells whole, with-errors (one bad row), cut (truncated), flipped (one bit), failed; absent is not there."""
    store = Store(tmp_path / "out")
    store.create()
    for cell in ("whole", "cut", "flipped"):
        store.write_cell(cell, rows_of(cell, ROW))
    store.write_cell("with-errors", rows_of("with-errors", ROW, BAD))
    content = bytearray(store.path("cut").read_bytes())
    store.path("cut").write_bytes(content[: len(content) // 2])
    content[len(content) // 2] ^= 16
    store.path("flipped").write_bytes(content)
    store.write_error("failed", {"error": "a bug", "traceback": "..."})
    return store


CELLS = ["whole", "with-errors", "cut", "flipped", "failed", "absent"]


def test_only_what_is_whole_is_done(store: Store) -> None:
    whole = {"whole", "with-errors"}
    assert {cell for cell in CELLS if store.done(cell)} == store.completed(CELLS) == whole
    assert store.completed(CELLS, verify=False) == {*whole, "cut", "flipped"}
    assert store.completed(["whole", "elsewhere"]) == {"whole"}
    there = store.snapshot()
    assert set(there.results) == {*whole, "cut", "flipped"}
    assert there.errors == {"failed"}
    assert store.failed(CELLS) == {"failed": "a bug"}
    for cell, words in (("cut", "corrupt"), ("flipped", "corrupt"), ("absent", r"no result '.*absent\.arrow\.gz'")):
        with pytest.raises(BadData, match=words):
            store.read_cell(cell)
    with pytest.raises(BadData, match=r"flipped\.arrow\.gz.*corrupt.*delete it"):
        store.read_rows(["whole", "flipped"])


@pytest.mark.parametrize(("overwrite", "again"), [
    ("never", ["cut", "flipped", "absent"]),
    ("failed", ["cut", "flipped", "failed", "absent"]),
    ("errors", ["with-errors", "cut", "flipped", "failed", "absent"]),
    ("all", CELLS),
])  # fmt: skip
def test_what_is_computed_again(store: Store, overwrite: Any, again: list[str]) -> None:
    assert store.todo(CELLS, overwrite) == again
    assert overwrite in OVERWRITE
    if overwrite == "failed":
        assert store.todo(CELLS) == again


def test_a_result_replaces_the_error_and_an_error_keeps_the_result(store: Store) -> None:
    store.write_cell("failed", rows_of("failed", ROW))
    assert not store.has_error("failed")
    assert store.reason("failed") is None
    # Computed once more with --overwrite all, and failed: the old result is not lost, the failure is known.
    store.write_error("whole", {"error": "worse"})
    assert store.read_cell("whole")["clean"].to_pylist() == [0.5]
    assert store.failed(CELLS) == {}
    assert (store.has_error("whole"), store.reason("whole")) == (True, "worse")
    # A damaged result beside an error is none.
    store.write_error("cut", {"error": "full"})
    (store.errors / "flipped.json").write_text("{")
    assert store.failed(CELLS) == {"cut": "full", "flipped": "its error file cannot be read: run again"}


def test_cells_without_their_images_are_not_complete(store: Store) -> None:
    assert store.todo(["whole", "with-errors"], images=["whole"]) == ["whole"]
    store.write_images("whole", {"a": np.zeros((3, 16, 16), np.float32)})
    assert store.todo(["whole", "with-errors"], images=["whole"]) == []
    store.forget("whole")
    assert not list(store.root.rglob("*whole*"))
    store.forget("whole")


def test_images_come_back_to_the_last_bit(store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    images = {"a/b c": torch.rand(3, 17, 31, generator=generator), "ä": torch.rand(3, 16, 16, generator=generator)}
    store.write_images("c", {name: image.numpy() for name, image in images.items()})
    found = store.read_images("c")
    assert {n: (v.dtype, v.tobytes()) for n, v in found.items()} == {
        n: (np.dtype(np.float32), v.numpy().tobytes()) for n, v in images.items()
    }
    pictures = sorted((store.images / "c").iterdir())
    assert [p.name for p in pictures] == ["000-a-b-c.png", "001--.png"]
    assert torch.equal(load_image(pictures[0]), quantise(images["a/b c"]))


def test_damaged_images_are_one_sentence(store: Store) -> None:
    store.write_images("c", {"a": np.random.default_rng(0).random((3, 16, 16), np.float32)})
    path = store.images / f"c{saved_images.SUFFIX}"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    for damaged in (content[:-7], bytes(flipped), b"", b"{}" * 20):
        path.write_bytes(damaged)
        with pytest.raises(BadData, match=r"c\.safetensors.*corrupt"):
            store.read_images("c")
    with pytest.raises(BadData, match="--save-images"):
        store.read_images("whole")


def _write(root: Path, name: str, together: Any) -> None:
    store = Store(root)
    store.create()
    together.wait()
    for k in range(25):
        store.write_cell("same", [{"cell": "same", "status": "ok", "clean": 1.0}] * 40)
        store.write_cell(f"{name}-{k}", [{"cell": "own", "status": "ok"}])
        store.create()


def test_several_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two processes on the same cell, both cleaning up all the time: each file is whole at every moment."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    together, store, seen = context.Barrier(3), Store(tmp_path), 0
    processes = [context.Process(target=_write, args=(tmp_path, name, together)) for name in ("0", "1")]
    for process in processes:
        process.start()
    together.wait()
    while any(process.is_alive() for process in processes):
        if store.completed(["same"], verify=False):
            assert len(store.read_cell("same")) == 40
            seen += 1
    assert seen
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(store.completed(store.snapshot().results)) == 51
    assert not list(tmp_path.rglob(".*.tmp"))


def test_leftovers_go_when_their_process_has_ended_or_they_are_old(tmp_path: Path) -> None:
    """Of this host's dead processes at once, of other hosts by the file system's clock; never a live one's."""
    store = Store(tmp_path)
    store.create()
    mine = temporary_name(store.cells / "c.arrow.gz")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    place = mine.name.removeprefix(".c.arrow.gz.").split("-")[0]
    other = mine.with_name(dead.name.replace(place, "0badc0de"))
    old = mine.with_name(other.name.replace("0badc0de", "5badc0de"))
    future = mine.with_name(other.name.replace("0badc0de", "6badc0de"))
    for path in (mine, dead, other, old, future):
        path.write_bytes(b"half")
    now = mine.stat().st_mtime
    for path, age in ((old, STALE_SECONDS + 60), (future, -10 * STALE_SECONDS)):  # the clock was set back since
        os.utime(path, (now - age, now - age))
    store.create()
    assert set(store.cells.iterdir()) == {mine, other, future}


def test_the_hosts_clock_does_not_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backwards by years, with all files from the future: the same work is left, the same is kept."""
    other = temporary_name(store.cells / "c")
    other = other.with_name(other.name.replace(f"-{os.getpid()}-", "-1-"))
    other.write_bytes(b"being written on another host")
    before = store.todo(CELLS)
    for path in store.root.rglob("*"):
        os.utime(path, (2e9, 2e9))
    for name in ("time", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 1e6)
    store.create()
    assert other.exists()
    assert store.todo(CELLS) == before
    store.write_cell("absent", rows_of("absent", ROW))
    assert store.todo(CELLS) == [cell for cell in before if cell != "absent"]


def test_one_run_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_PATIENCE", 0.0)
    assert not store.is_locked()
    with store.locked():
        assert store.is_locked()
        with pytest.raises(BadData, match=rf"another run \(process {os.getpid()} on .*another --out"), store.locked():
            pass
        store.write_cell("absent", rows_of("absent", ROW))  # workers need no lock
    assert not store.is_locked()
    with store.locked():
        pass


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_a_link_in_a_strangers_folder_empties_no_file(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (store.root / ".lock").unlink(missing_ok=True)
    (store.root / ".lock").symlink_to(precious)
    with pytest.raises(BadData, match=r"cannot write"), store.locked():
        pass
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", ["cells", "errors", "images", "log", "runs", "leaderboard", "leaderboard-violated"])
def test_a_linked_folder_in_a_strangers_run_is_not_written_to(tmp_path: Path, name: str) -> None:
    """The user names the run, and may do so by a link; what is in it is somebody else's."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadData, match=rf"{name}' is a link"):
        Store(tmp_path / "run").create()
    (tmp_path / "run" / name).unlink()
    (tmp_path / "mine").symlink_to(tmp_path / "run")
    Store(tmp_path / "mine").create()
    (tmp_path / "run" / "images").mkdir()
    (tmp_path / "run" / "images" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadData, match="a' is a link"):
        Store(tmp_path / "mine").write_images("a", {"x": np.zeros((3, 8, 8), np.float32)})
    assert not list((tmp_path / "elsewhere").iterdir())


def test_asking_for_the_lock_does_not_stop_a_run(store: Store) -> None:
    """`status` holds it for an instant; a run that starts then waits."""
    fcntl = pytest.importorskip("fcntl")
    with store.locked():
        pass
    with (store.root / ".lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        sleep = time.sleep

        def wait(seconds: float) -> None:
            fcntl.flock(file, fcntl.LOCK_UN)
            sleep(0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", wait)
            with store.locked():
                assert store.is_locked()


def test_a_file_system_without_locks_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"), store.locked():
        pass
    assert not store.is_locked()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", 64) as folder:
        yield folder


def _fill(store: Store) -> int:
    for k in range(1000):
        store.write_cell(f"c{k}", rows_of(f"c{k}", ROW))
    raise AssertionError("the disk never filled")


def test_a_full_disk_keeps_what_is_complete(small_disk: Path) -> None:
    """A tmpfs of 64 kB: one sentence, every written cell whole, no half one, and it goes on once there is room."""
    store = Store(small_disk / "out")
    store.create()
    (small_disk / "ballast").write_bytes(bytes(20_000))
    with pytest.raises(BadData, match=r"No space left.*free some space and run again: what is complete is kept"):
        _fill(store)
    there = store.snapshot().results
    assert 0 < len(there) == len(store.completed(there))
    assert not list(store.root.rglob(".*.tmp"))
    (small_disk / "ballast").unlink()
    store.write_cell("more", rows_of("more", ROW))
    assert store.done("more")


def test_a_read_only_disk_is_one_sentence(small_disk: Path) -> None:
    store = Store(small_disk / "out")
    store.create()
    store.write_cell("c", rows_of("c", ROW))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for action in (
        lambda: store.write_cell("d", rows_of("d", ROW)),
        lambda: store.write_error("d", {"error": "x"}),
        lambda: store.write_images("d", {"a": np.zeros((3, 16, 16), np.float32)}),
        lambda: store.forget("c"),
        Store(small_disk / "other").create,
        lambda: Store(small_disk / "out").locked().__enter__(),
    ):
        with pytest.raises(BadData, match=r"cannot write .*Read-only file system.*another --out"):
            action()
    assert store.done("c")
    assert not store.is_locked()


def _refusing(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(files.os, "fsync", refuse)


@pytest.mark.parametrize(("kind", "words"), [
    (errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "choose another --out"),
    (errno.EIO, "choose another --out"),
])  # fmt: skip
def test_what_the_system_refuses_leaves_the_old_file(
    kind: int, words: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no disk can be mounted: the same by a system call that fails, over a cell that was complete."""
    with monkeypatch.context() as patch:
        _refusing(kind, patch)
        with pytest.raises(BadData, match=words):
            store.write_cell("whole", rows_of("whole", ROW, ROW))
    assert len(store.read_cell("whole")) == 1
    assert not list(store.root.rglob(".*.tmp"))


def test_a_limit_on_file_size_is_one_sentence(tmp_path: Path) -> None:
    """EFBIG, as a quota of another kind: in a process of its own, since the limit stays."""
    pytest.importorskip("resource")
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom robustiqa.bench.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_atomically(Path(sys.argv[1]), bytes(5000))\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_records_of_a_newer_program_are_said(store: Store) -> None:
    write_atomically(store.root / "plan.json", json.dumps({"schema": 9}).encode())
    with pytest.raises(BadData, match=r"plan\.json.*schema 9.*update robustiqa"):
        store.read_json("plan.json")


def test_listing_does_not_open_or_stat_cells(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked about a single cell")

    for name in ("stat", "open", "is_file", "exists", "read_bytes"):
        monkeypatch.setattr(Path, name, forbidden)
    assert store.completed(CELLS, verify=False)
    assert store.snapshot().errors == {"failed"}
