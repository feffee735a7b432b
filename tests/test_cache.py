"""The cache of decoded images: the same pixels, whatever happens to its files."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from robustiqa.bench import cache, images
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.errors import BadImage, BadParameter
from support import KINDS, bad_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache is, which the environment names."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.LIMIT, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of several formats, odd sizes, and one that the camera held sideways."""
    rng = np.random.default_rng(0)
    found = []
    for k, suffix in enumerate(("jpg", "png", "webp", "tif", "bmp")):
        image = Image.fromarray(rng.integers(0, 256, (33 + k, 47, 3), dtype=np.uint8), "RGB")
        found.append(tmp_path / f"{k}.{suffix}")
        image.save(found[-1])
    exif = Image.Exif()
    exif[274] = 6
    Image.open(found[0]).save(tmp_path / "turned.jpg", exif=exif)
    return [*found, tmp_path / "turned.jpg"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    found: list[Path] = []
    original = images._decode

    def counting(content: bytes, path: Path) -> np.ndarray:
        found.append(path)
        return original(content, path)

    monkeypatch.setattr(images, "_decode", counting)
    return found


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def plain(path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as without:
        without.delenv(cache.FOLDER)
        return images.load_image(path)


def test_same_pixels_decoded_once(
    folder: Path, files: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [images.load_image(path) for path in files]
    assert decoded == files
    again = [images.load_image(path) for path in files]
    assert decoded == files, "the second time nothing is"
    assert len(entries(folder)) == len(files)
    for path, a, b in zip(files, first, again, strict=True):
        x = plain(path, monkeypatch)
        assert torch.equal(a, x)
        assert torch.equal(b, x)
        assert b.is_contiguous()
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.ROTATE_270) if path.name == "turned.jpg" else image.copy()
        assert np.array_equal(images.to_uint8(x), np.asarray(turned))


def test_entries_are_npy_files_of_pixels(folder: Path, files: list[Path]) -> None:
    x = images.load_image(files[1])
    (entry,) = entries(folder)
    assert entry.stem == hashlib.sha256(files[1].read_bytes()).hexdigest()
    array = np.load(entry, mmap_mode="r")
    assert array.dtype == np.uint8
    assert np.array_equal(array.transpose(1, 2, 0), images.to_uint8(x))


def test_off_unless_asked(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER, "")
    before = set(tmp_path.rglob("*"))
    images.load_image(files[0])
    assert set(tmp_path.rglob("*")) == before


def test_a_changed_file_is_another_image(folder: Path, files: list[Path]) -> None:
    """Same name, size and time."""
    old = images.load_image(files[4])
    content, stat = bytearray(files[4].read_bytes()), files[4].stat()
    content[-20] ^= 255  # the last ones fill up a row
    files[4].write_bytes(content)
    os.utime(files[4], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not torch.equal(images.load_image(files[4]), old)


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[at] ^= 1
        return bytes(changed)

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": flip(70),
    "magic": flip(0),
    "first pixel": flip(128),
    "last pixel": flip(-9),
    "checksum": flip(-1),
    "cut": lambda content: content[: len(content) // 2],
    "cut by one": lambda content: content[:-1],
    "longer": lambda content: content + b"\0" * 8,
    "zeros": lambda content: content[:512] + bytes(len(content) - 520) + content[-8:],
    "all zeros": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "short": lambda content: content[:5],
    "text": lambda content: b"not an array" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_decoded_again_and_replaced(
    folder: Path, files: list[Path], decoded: list[Path], damage: str
) -> None:
    x = images.load_image(files[0])
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](whole))
    assert torch.equal(images.load_image(files[0]), x)
    assert entry.read_bytes() == whole
    assert len(decoded) == 2


def test_an_entry_under_another_name_is_not_taken(folder: Path, files: list[Path]) -> None:
    images.load_image(files[0])
    (other,) = entries(folder)
    content = other.read_bytes()
    x = images.load_image(files[1])
    entry = next(path for path in entries(folder) if path != other)
    entry.write_bytes(content)
    assert torch.equal(images.load_image(files[1]), x)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_stay_bad(folder: Path, tmp_path: Path, kind: str) -> None:
    """The same sentence the second time; a small or grey image is kept, and refused all the same."""
    path, word = bad_images(tmp_path)[kind]
    messages = []
    for _ in range(2):
        with pytest.raises(BadImage, match=word) as caught:
            images.load_image(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert len(entries(folder)) == (kind in ("tiny", "grey"))


def test_a_grey_image_is_taken_or_refused_with_and_without(folder: Path, tmp_path: Path) -> None:
    """What one reader has put into the cache is not what another takes."""
    path, _ = bad_images(tmp_path)["grey"]
    taken = [images.load_image(path, grey=True) for _ in range(2)]
    assert torch.equal(*taken)
    assert len(entries(folder)) == 1
    with pytest.raises(BadImage, match="grey"):
        images.load_image(path)


def test_nothing_is_stored_beyond_the_limit(folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "0.00001")  # 10 kB, two of these images
    with pytest.warns(UserWarning, match="is full") as caught:
        found = [images.load_image(path) for path in files * 2]
    assert all(torch.equal(x, plain(path, monkeypatch)) for x, path in zip(found, files * 2, strict=True))
    assert len(caught) == 1, "once, not at every image"
    assert "ROBUSTIQA_CACHE_GB=1e-05" in str(caught[0].message)
    held = [path.stat().st_size for path in entries(folder)]
    assert 1 <= len(held) < len(files)
    assert sum(held) <= 10_000


def test_what_is_there_already_counts(folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    images.load_image(files[0])
    size = entries(folder)[0].stat().st_size
    monkeypatch.setenv(cache.LIMIT, str(1.5 * size / 1e9))
    with pytest.warns(UserWarning, match="is full"):
        images.load_image(files[1])
    assert len(entries(folder)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.load_image(files[0])


@pytest.mark.parametrize("text", ["many", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch,
                                         text: str) -> None:  # fmt: skip
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(BadParameter, match=f"ROBUSTIQA_CACHE_GB={text}: expected"):
        images.load_image(files[0])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_costs_one_warning(
    folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.warns(UserWarning, match=f"cannot be written .{os.strerror(code)}") as caught:
        found = [images.load_image(path) for path in files]
    assert len(caught) == 1
    assert all(torch.equal(x, plain(path, monkeypatch)) for x, path in zip(found, files, strict=True))


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(
    folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(UserWarning, match="cannot be written"):
        images.load_image(files[0])
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_file_in_the_place_of_the_folder_costs_one_warning(folder: Path, files: list[Path]) -> None:
    folder.write_text("not a folder")
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        assert len([images.load_image(path) for path in files]) == len(files)
    assert len(caught) == 1


def test_what_killed_processes_left_is_removed(folder: Path, files: list[Path]) -> None:
    stale, fresh = folder / "decoded" / "a.tmp", folder / "decoded" / "b.tmp"
    stale.parent.mkdir(parents=True)
    for path in (stale, fresh):
        path.write_bytes(b"half")
    os.utime(stale, (time.time() - 7200, time.time() - 7200))
    images.load_image(files[0])
    assert not stale.exists()
    assert fresh.exists(), "another process may be writing it"


def test_changing_an_image_changes_no_entry(folder: Path, files: list[Path]) -> None:
    x = images.load_image(files[0])
    pixels = cache.cached(files[0].read_bytes(), lambda: np.empty(0))
    pixels[:] = 0
    assert torch.equal(images.load_image(files[0]), x)


def test_another_decoder_has_other_entries(
    folder: Path, files: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images.load_image(files[0])
    cache._decoders.cache_clear()
    monkeypatch.setattr(features, "version", lambda name: "another")
    try:
        images.load_image(files[0])
    finally:
        cache._decoders.cache_clear()
    assert decoded == [files[0]] * 2
    assert len(entries(folder)) == 2


def _load_all(files: list[Path]) -> list[str]:
    """Digests of all images, over and over."""
    return [hashlib.sha256(images.load_image(path).numpy().tobytes()).hexdigest() for path in files * 20]


def test_several_processes_share_it(folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin at once, with an empty cache."""
    with get_context("fork").Pool(3) as pool:
        found = pool.map(_load_all, [files] * 3, chunksize=1)
    expected = [hashlib.sha256(plain(path, monkeypatch).numpy().tobytes()).hexdigest() for path in files] * 20
    assert found == [expected] * 3
    assert len(entries(folder)) == len(files)
    assert not list(folder.rglob("*.tmp"))


def test_data_sets_use_it(folder: Path, files: list[Path], decoded: list[Path]) -> None:
    data = load_dataset(f"folder[root={files[0].parent}]")
    first = [data.load(i) for i in range(len(data))]
    assert len(decoded) == len(data) == len(files)
    assert all(torch.equal(data.load(i), x) for i, x in enumerate(first))
    assert len(decoded) == len(files)
