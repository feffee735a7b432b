"""Distortions: monotone, deterministic, and clear about bad arguments."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import skimage.data
from robustiqa.bench.distortions import DISTORTIONS, LEVELS, distort, distort_strength
from robustiqa.bench.errors import BadParameter, UnknownName
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture(scope="module", params=["astronaut", "coffee", "chelsea"])
def photo(request: pytest.FixtureRequest) -> np.ndarray:
    image = getattr(skimage.data, request.param)()
    return np.ascontiguousarray(image[60:188, 150:278])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.asarray(structural_similarity(a, b, channel_axis=2, data_range=255)))


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_each_level_is_further_from_the_photograph(photo: np.ndarray, kind: str) -> None:
    levels = [distort(photo, kind, level, rng(level)) for level in range(1, LEVELS + 1)]
    psnr = [peak_signal_noise_ratio(photo, image) for image in levels]
    similarity = [ssim(photo, image) for image in levels]
    assert all(image.shape == photo.shape and image.dtype == np.uint8 for image in levels)
    assert np.all(np.diff(psnr) < -0.5), psnr
    assert np.all(np.diff(similarity) < 0), similarity
    assert similarity[0] > 0.75, "level 1 is only just visible"
    assert similarity[-1] < 0.85, "level 5 is severe"


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_equal_arguments_give_equal_bytes(photo: np.ndarray, kind: str) -> None:
    before = photo.copy()
    digests = {hashlib.sha256(distort(photo, kind, 3, rng(7)).tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1
    np.testing.assert_array_equal(photo, before)


def test_only_noise_depends_on_the_generator(photo: np.ndarray) -> None:
    changed = {
        kind for kind in DISTORTIONS if np.any(distort(photo, kind, 2, rng(0)) != distort(photo, kind, 2, rng(1)))
    }
    assert changed == {"white-noise"}


def test_noise_has_the_deviation_of_the_table() -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    for level in range(1, LEVELS):
        noise = distort(flat, "white-noise", level, rng()).astype(float) - 128
        assert noise.std() == pytest.approx(DISTORTIONS["white-noise"].strengths[level], rel=0.03)
        assert abs(noise.mean()) < 0.5


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_strength_interpolates_the_levels(photo: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(distort_strength(photo, kind, 0, rng()), photo)
    np.testing.assert_array_equal(distort_strength(photo, kind, 4.0, rng()), distort(photo, kind, 4, rng()))
    psnr = [peak_signal_noise_ratio(photo, distort_strength(photo, kind, s, rng())) for s in (1.0, 2.5, 4.0)]
    assert psnr[0] > psnr[1] > psnr[2]


@pytest.mark.parametrize("kind", DISTORTIONS)
@pytest.mark.parametrize("shape", [(17, 33, 3), (64, 64, 3)])
def test_any_size_and_flat_images_work(kind: str, shape: tuple[int, int, int]) -> None:
    assert distort(np.full(shape, 200, np.uint8), kind, 5, rng()).shape == shape


def test_bad_arguments_are_named(photo: np.ndarray) -> None:
    with pytest.raises(UnknownName, match="did you mean 'gaussian-blur'"):
        distort(photo, "gausian-blur", 1, rng())
    for level in (0, 6, True):
        with pytest.raises(BadParameter, match="from 1 to 5"):
            distort(photo, "jpeg", level, rng())
    with pytest.raises(BadParameter, match="from 0 to 5"):
        distort_strength(photo, "jpeg", 5.5, rng())
    with pytest.raises(BadParameter, match="uint8"):
        distort(photo.astype(np.float32), "jpeg", 1, rng())
    with pytest.raises(BadParameter, match="H,W,3"):
        distort(photo[..., 0], "jpeg", 1, rng())
