"""Reading, checking, writing and comparing images."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from skimage.metrics import structural_similarity

from .cache import cached
from .errors import BadImage
from .files import make_folder, write_atomically

MIN_SIDE = 16
"""Smallest side in pixels that is taken for a photograph at all; a metric may ask for more."""

_PNG_DEPTH = 24
"""Byte of a PNG file that is its bit depth."""

_MODES = {
    "L": "grey, 8-bit (1 channel)",
    "1": "black and white (1 bit)",
    "I;16": "grey, 16-bit",
    "I": "grey, 32-bit integer",
    "F": "grey, float",
    "LA": "grey with alpha",
    "RGBA": "RGB with an alpha channel",
    "P": "a palette image",
    "CMYK": "CMYK",
}


def load_image(path: str | Path, min_side: int = MIN_SIDE, grey: bool = False) -> torch.Tensor:
    """Read an 8-bit RGB image file as float32 (3,H,W) in [0,1].

    Nothing is converted silently: a grey, 16-bit, palette or transparent image changes its score with the way of the
    conversion, so the user has to choose it. Only the EXIF orientation is applied. With `ROBUSTIQA_CACHE` set, a file
    that was decoded before is not decoded again.

    Args:
        path: the file.
        min_side: shortest side in pixels.
        grey: whether an 8-bit grey image is taken too, as three equal channels.

    Raises:
        BadImage: what the file is, and what to do about it.
    """
    path = Path(path)
    with _readable(path):
        content = path.read_bytes()
        pixels = cached(content, lambda: _decode(content, path))
    if len(pixels) == 1 and not grey:
        raise _refused(path, _MODES["L"])
    check_size(pixels.shape[1], pixels.shape[2], min_side, f"image {str(path)!r}")
    return torch.from_numpy(pixels).float().div_(255.0).expand(3, -1, -1).contiguous()


def file_size(path: str | Path, min_side: int = MIN_SIDE, grey: bool = False) -> tuple[int, int]:
    """Height and width of an image file by its header; an EXIF orientation may still swap them.

    Raises:
        BadImage: what `load_image` with the same arguments would refuse, as far as the header tells.
    """
    path = Path(path)
    with _readable(path), _no_bombs(), path.open("rb") as file:
        head = file.read(_PNG_DEPTH + 1)
        file.seek(0)
        with Image.open(file) as image:
            what = _unsuitable(image, head) or (_MODES["L"] if image.mode == "L" and not grey else None)
            width, height = image.size
    if what:
        raise _refused(path, what)
    check_size(height, width, min_side, f"image {str(path)!r}")
    return height, width


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """`BadImage` where a file is missing, or where the system or Pillow refuses it."""
    if not path.exists():
        raise BadImage(f"image {str(path)!r} does not exist: check the path")
    if not path.is_file():
        raise BadImage(f"{str(path)!r} is not a file: give image files, not folders")
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error).split(",")[0]  # the rest speaks of attacks
        raise BadImage(f"image {str(path)!r} is too large to be read safely ({reason}): reduce it, or cut a part out"
                       ) from error  # fmt: skip
    except (OSError, SyntaxError, ValueError) as error:
        # That error names a buffer of ours, not the file.
        what = "no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"image {str(path)!r} is corrupt or of an unknown format ({what}): expected PNG, JPEG, WebP, "
                       "BMP, TIFF or JPEG 2000; save it again") from error  # fmt: skip


def _decode(content: bytes, path: Path) -> np.ndarray:
    """The bytes of an image file as uint8, (3,H,W) or, if it is grey, (1,H,W); raises `BadImage`, or Pillow's error."""
    with _no_bombs(), _whole_files(), Image.open(io.BytesIO(content)) as image:
        what = _unsuitable(image, content)
        if what:
            raise _refused(path, what)
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1), order="C")


@contextlib.contextmanager
def _no_bombs() -> Iterator[None]:
    """A decompression bomb is an error, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def _whole_files() -> Iterator[None]:
    """Pillow refuses files that are cut short or damaged, whatever other code has set.

    `ImageFile.LOAD_TRUNCATED_IMAGES = True` is a common line in code that users import: the missing part is then grey,
    and is scored like a picture.
    """
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _refused(path: Path, what: str) -> BadImage:
    how = "convert it first, for example with Pillow: Image.open(f).convert('RGB').save(g)"
    if "16-bit" in what:
        how = "scale its values to 0-255 first: Pillow's convert clips them"
    elif "sequence" in what:
        how = "save the one that you mean as a file of its own"
    return BadImage(f"image {str(path)!r} is {what}: expected 8-bit RGB; {how}")


def check_size(height: int, width: int, min_side: int, what: str) -> None:
    """Raise `BadImage` when a side is shorter than `min_side` pixels."""
    if min(height, width) < min_side:
        raise BadImage(f"{what} is {width}x{height} px: expected at least {min_side}x{min_side}; use a larger "
                       "image (enlarging a small one changes its quality)")  # fmt: skip


def _unsuitable(image: Image.Image, content: bytes) -> str | None:
    """Why an opened image is neither plain 8-bit RGB nor plain 8-bit grey, or None if it is."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's file of several views, of which the first is the photograph
        return f"a sequence of {frames} images"
    if image.mode not in ("RGB", "L"):
        return _MODES.get(image.mode, f"mode {image.mode}")
    tiff_bits = getattr(image, "tag_v2", {}).get(258, (8,))
    # Pillow opens 16-bit RGB as 8-bit without a word.
    bits = content[_PNG_DEPTH] if image.format == "PNG" else max(np.ravel(tiff_bits))
    colour = {"RGB": "RGB", "L": "grey"}[image.mode]
    if bits != 8:
        return f"{bits}-bit {colour}"
    return f"{colour} with a transparent colour" if "transparency" in image.info else None


def from_uint8(array: np.ndarray) -> torch.Tensor:
    """(H,W,3) uint8 to float32 (3,H,W) in [0,1]."""
    return torch.from_numpy(np.array(array, copy=True)).permute(2, 0, 1).contiguous().float().div_(255.0)


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """(3,H,W) in [0,1] to (H,W,3) uint8, rounded to the nearest grey level (never truncated)."""
    return image.detach().cpu().clamp(0, 1).mul(255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def through_codec(image: np.ndarray, **options: object) -> np.ndarray:
    """(H,W,3) uint8, encoded and decoded by Pillow with the options of its `save`."""
    with io.BytesIO() as buffer:
        Image.fromarray(image).save(buffer, **options)  # type: ignore[arg-type]
        with Image.open(buffer) as decoded:
            return np.array(decoded.convert("RGB"))


def quantise(x: torch.Tensor) -> torch.Tensor:
    """The image as an 8-bit file would hold it: rounded to multiples of 1/255, same shape and dtype."""
    return x.clamp(0, 1).mul(255.0).round().div(255.0)


def straight_through(value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
    """BPDA (Athalye et al. 2018): forward `value` to the bit, backward through `surrogate`."""
    # value + (s - s) rather than (value - s) + s: the latter rounds.
    return value.detach() + (surrogate - surrogate.detach())


def save_png(image: torch.Tensor, path: str | Path) -> Path:
    """Write (3,H,W) in [0,1] as 8-bit PNG, atomically; raises `BadData` where that is impossible."""
    path = Path(path)
    make_folder(path.parent, "folder")
    with io.BytesIO() as buffer:
        Image.fromarray(to_uint8(image), "RGB").save(buffer, format="PNG")
        write_atomically(path, buffer.getvalue())
    return path


class Distortion(NamedTuple):
    """How far two images are apart: `linf` and `l2` in [0,1] pixel units, `psnr` in dB, `ssim` in [-1,1]."""

    linf: float
    l2: float
    psnr: float
    ssim: float


def compare(a: torch.Tensor, b: torch.Tensor) -> Distortion:
    """Measured distance of two (3,H,W) images; PSNR of equal images is infinite."""
    difference = (a.detach().double() - b.detach().double()).cpu()
    mse = float(difference.square().mean())
    return Distortion(
        linf=float(difference.abs().max()),
        l2=float(difference.norm()),
        psnr=float("inf") if mse == 0 else -10.0 * float(np.log10(mse)),
        ssim=ssim(a, b),
    )


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """SSIM as in Wang et al. 2004 (Gaussian window of sigma 1.5), mean over the channels; NaN below 11 px."""
    if min(a.shape[1:]) < 11:  # smaller than the window
        return float("nan")
    first, second = (t.detach().double().cpu().permute(1, 2, 0).numpy() for t in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(np.asarray(structural_similarity(first, second, channel_axis=2, data_range=1.0, **options)))


def largest_l2(norm: str, eps: float, height: int, width: int) -> float:
    """Largest l2 norm of a perturbation within a budget: eps itself, or eps sqrt(3HW) for l_inf."""
    return eps if norm == "l2" else eps * float(np.sqrt(3 * height * width))


def rms_grey_levels(eps: float, height: int, width: int) -> float:
    """RMS in 8-bit grey levels of a perturbation with l2 norm `eps`: 255 eps / sqrt(3HW)."""
    return 255.0 * eps / float(np.sqrt(3 * height * width))


def psnr_of_l2(eps: float, height: int, width: int) -> float:
    """PSNR in dB of a perturbation with l2 norm `eps`."""
    return float("inf") if eps == 0 else float(-20.0 * np.log10(eps / np.sqrt(3 * height * width)))
