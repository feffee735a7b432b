"""Reading images: what is refused, and with which words."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.bench import images
from robustiqa.bench.errors import BadImage


def png16(path: Path) -> Path:
    """A 16-bit RGB PNG, written by hand: Pillow cannot write one, and reads it as 8-bit without a word."""
    width = height = 32
    rows = b"".join(b"\x00" + np.full((width, 3), 30000, ">u2").tobytes() for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def bad_images(folder: Path) -> dict[str, tuple[Path, str]]:
    """Every kind of bad image, with a word that its message must hold."""
    array = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    rgb = Image.fromarray(array, "RGB")
    files = {
        "grey": (rgb.convert("L"), "grey"),
        "rgba": (rgb.convert("RGBA"), "alpha"),
        "palette": (rgb.convert("P"), "palette"),
        "grey16": (Image.fromarray(np.full((32, 32), 30000, np.uint16)), "16-bit"),
        "tiny": (rgb.resize((8, 8)), "8x8"),
    }
    found = {}
    for name, (image, word) in files.items():
        image.save(folder / f"{name}.png")
        found[name] = (folder / f"{name}.png", word)
    found["rgb16"] = (png16(folder / "rgb16.png"), "16-bit")
    rgb.save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    found["cut"] = (folder / "cut.png", "corrupt")
    (folder / "text.png").write_text("not an image")
    found["text"] = (folder / "text.png", "corrupt")
    (folder / "empty.png").touch()
    found["empty"] = (folder / "empty.png", "corrupt")
    found["missing"] = (folder / "missing.png", "does not exist")
    found["folder"] = (folder, "not a file")
    return found


KINDS = ["grey", "rgba", "palette", "grey16", "tiny", "rgb16", "cut", "text", "empty", "missing", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_image_gets_one_clear_sentence(tmp_path: Path, kind: str) -> None:
    path, word = bad_images(tmp_path)[kind]
    with pytest.raises(BadImage, match=word) as caught:
        images.load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ":" in message


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
