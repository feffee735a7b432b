"""Reading images: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from robustiqa.bench import images
from robustiqa.bench.errors import BadImage
from support import KINDS, bad_images


@pytest.mark.parametrize("kind", KINDS)
def test_bad_image_gets_one_clear_sentence(tmp_path: Path, kind: str) -> None:
    path, word = bad_images(tmp_path)[kind]
    with pytest.raises(BadImage, match=word) as caught:
        images.load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ":" in message


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_says_what_loading_would(tmp_path: Path, kind: str) -> None:
    path, _ = bad_images(tmp_path)[kind]
    with pytest.raises(BadImage) as loaded:
        images.load_image(path)
    if kind == "cut":  # only decoding shows it
        assert images.file_size(path) == (32, 32)
        return
    with pytest.raises(BadImage) as read:
        images.file_size(path)
    assert str(read.value) == str(loaded.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "jp2"])
def test_size_by_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 20)).save(path)
    assert images.file_size(path) == images.load_image(path).shape[1:] == (20, 40)
    Image.new("L", (40, 20)).save(tmp_path / "grey.png")
    assert images.file_size(tmp_path / "grey.png", grey=True) == (20, 40)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = images.save_png(images.from_uint8(array), tmp_path / "deep" / "a.png")
    assert np.array_equal(images.to_uint8(images.load_image(path)), array)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_eight_bit_by_rounding_not_truncation() -> None:
    x = torch.tensor([0.0, 0.6 / 255, 254.6 / 255, 1.0])
    assert (images.quantise(x) * 255).round().tolist() == [0, 1, 255, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert images.load_image(tmp_path / "turned.jpg").shape == (3, 40, 20)


def test_grey_files_are_taken_where_that_is_asked(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "grey.png")
    x = images.load_image(tmp_path / "grey.png", grey=True)
    assert x.is_contiguous()
    assert np.array_equal(images.to_uint8(x), np.stack([array] * 3, axis=2))
    for kind, (path, word) in bad_images(tmp_path).items():
        if kind != "grey":
            with pytest.raises(BadImage, match=word):
                images.load_image(path, grey=True)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_several_images_in_a_file_are_told_before_their_colours(tmp_path: Path, suffix: str) -> None:
    """A palette's advice, to convert it, would take the first image without a word."""
    rng = np.random.default_rng(4)
    frames = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="is a sequence of 3 images: expected 8-bit RGB; save the one that you mean"):
        images.load_image(tmp_path / f"a.{suffix}")


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (80, 60)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):  # Pillow warns of the former
        with pytest.raises(BadImage, match=r"too large to be read safely \(Image size .*\): reduce it") as caught:
            images.load_image(tmp_path / name)
        assert "bomb" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_that_are_cut_short_are_refused_whatever_others_have_set(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is common in code of metrics makes Pillow fill what is missing with grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(content[: len(content) // 2])
    images.load_image(tmp_path / f"a.{suffix}")
    with pytest.raises(BadImage, match="corrupt"):
        images.load_image(tmp_path / f"b.{suffix}")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_distances_match_their_formulas() -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(3, 32, 32, generator=generator)
    b = (a + 0.02 * torch.randn(3, 32, 32, generator=generator)).clamp(0, 1)
    d = images.compare(a, b)
    assert d.l2 == pytest.approx(float((a - b).norm()), rel=1e-5)
    assert d.linf == pytest.approx(float((a - b).abs().max()), rel=1e-5)
    assert d.psnr == pytest.approx(images.psnr_of_l2(d.l2, 32, 32), abs=1e-6)
    assert images.compare(a, a).psnr == float("inf")
    assert images.ssim(a, a) == pytest.approx(1.0)


def test_l2_budgets_in_grey_levels() -> None:
    """A full linf 4/255 attack has l2 norm 1.74 at 64x64, and an RMS of 4 grey levels by definition."""
    eps = 4 / 255 * np.sqrt(3 * 64 * 64)
    assert eps == pytest.approx(1.74, abs=0.005)
    assert images.rms_grey_levels(eps, 64, 64) == pytest.approx(4.0)
