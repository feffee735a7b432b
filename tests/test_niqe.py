"""NIQE against known distributions and distortions, and the attack whose budget it sets."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.adaptive import AmiFgsm
from robustiqa.attacks.niqe import FEATURES, MODEL, Pristine, aggd, fit, mscn, niqe, patches, save, shipped
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.distortions import distort
from robustiqa.bench.errors import BadData, BadImage, BadParameter
from robustiqa.bench.images import from_uint8, to_uint8
from robustiqa.defenses import load_defense
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.special import gamma
from scipy.stats import gennorm, spearmanr
from skimage import data as photographs
from support import optimum


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Grey Gaussian noise around the middle."""
    plane = 0.5 + 0.1 * torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    return plane.clamp(0, 1).expand(3, -1, -1)


# --- fits


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_the_generalised_gaussian_is_recovered(shape) -> None:
    sample = np.asarray(gennorm.rvs(shape, scale=1.7, size=(2, 300_000), random_state=np.random.default_rng(1)))
    alpha, left, right = aggd(sample)
    assert np.allclose(alpha, shape, rtol=0.05)
    assert np.allclose(left, 1.7, rtol=0.1), "the scale of a heavy-tailed sample varies most"
    assert np.allclose(right, 1.7, rtol=0.1)


@pytest.mark.parametrize(("shape", "left", "right"), [(0.8, 1.0, 0.4), (2.0, 0.5, 1.5)])
def test_the_asymmetric_one_is_recovered(shape, left, right) -> None:
    """A side is drawn in proportion to its scale, then a generalised Gaussian of that scale: that is the density."""
    rng = np.random.default_rng(2)
    size = np.abs(gennorm.rvs(shape, size=200_000, random_state=rng))
    sample = np.where(rng.random(size.shape) < left / (left + right), -left * size, right * size)
    found = [float(v[0]) for v in aggd(sample[None])]
    assert found == pytest.approx([shape, left, right], rel=0.05)


def test_rows_without_two_sides_have_no_fit() -> None:
    alpha, *_ = aggd(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [-1.0, 1.0, 2.0]]))
    assert np.isnan(alpha).tolist() == [True, True, False]


def test_coefficients_are_those_of_the_definition() -> None:
    """The window of 7x7 and sigma 7/6 is scipy's Gaussian cut at 3 pixels."""
    grey = np.random.default_rng(3).uniform(0, 255, (20, 30))

    def mean(v: np.ndarray) -> np.ndarray:
        return gaussian_filter(v, 7 / 6, truncate=3 / (7 / 6), mode="nearest")

    deviation = np.sqrt(np.abs(mean(grey**2) - mean(grey) ** 2))
    found = mscn(grey)
    assert np.allclose(found[0], (grey - mean(grey)) / (deviation + 1))
    assert np.allclose(found[1], deviation)


# --- features


def test_features_of_white_noise() -> None:
    """Shape and scale of its coefficients are what scipy's maximum likelihood says; neighbours hardly correlate."""
    image = noise(288, 288)
    features = patches(image).features.mean(0)
    assert features.shape == (FEATURES,)
    shape, _, scale = gennorm.fit(mscn(255.0 * image[0].double().numpy())[0][:96].ravel(), floc=0)
    assert features[:2] == pytest.approx([shape, scale], rel=0.15)
    pair = np.asarray(gennorm.rvs(shape, scale=scale, size=(2, 100_000), random_state=np.random.default_rng(5)))
    product = pair[0] * pair[1]
    flat = np.abs(product).mean() ** 2 / np.square(product).mean()
    product_shape = brentq(lambda a: gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - flat, 0.3, 5)
    for direction in range(4):
        shape, mean, left, right = features[2 + 4 * direction : 6 + 4 * direction]
        assert shape == pytest.approx(product_shape, rel=0.1), "as of independent neighbours"
        assert mean == pytest.approx(right - left, abs=0.1)
        assert abs(right - left) < 0.15


def test_directions_are_told_apart() -> None:
    """Stripes agree with their neighbours along them and are opposed across; the order is that of the authors."""
    rng = np.random.default_rng(4)
    rows = torch.from_numpy(np.repeat(rng.uniform(0.2, 0.8, (192, 1)), 192, axis=1)).float()
    image = (rows + 0.3 * (noise(192, 192)[0] - 0.5)).clamp(0, 1).expand(3, -1, -1)
    features = patches(image).features.mean(0)
    along, across = features[3], features[7]
    assert along > 0.3
    assert across < 0


@pytest.mark.parametrize(("height", "width", "count"), [
    (288, 385, 12), (192, 192, 4), (191, 300, 6), (128, 128, 4), (40, 48, 4), (32, 33, 4),
])  # fmt: skip
def test_patches_are_cut_to_what_fits(height, width, count) -> None:
    assert len(patches(noise(height, width)).features) == count


def test_too_small_and_flat_images() -> None:
    with pytest.raises(BadImage, match="at least 32x32"):
        niqe(noise(31, 64))
    assert niqe(torch.full((3, 64, 64), 0.4)) == float("inf")


def test_sharpness_is_the_mean_local_deviation() -> None:
    sharp = patches(noise(192, 192)).sharpness
    flat = patches(0.5 + 0.5 * (noise(192, 192) - 0.5)).sharpness
    assert np.allclose(flat, sharp / 2, rtol=1e-3)


# --- the model


def test_a_model_is_at_distance_0_of_its_own_image() -> None:
    image = from_uint8(photographs.coffee())
    features = patches(image).features
    own = Pristine(features.mean(0), np.cov(features, rowvar=False))
    assert niqe(image, own) == 0
    away = Pristine(own.mean + 1.0, own.covariance)
    d = np.ones(FEATURES)
    assert niqe(image, away) == pytest.approx(np.sqrt(d @ np.linalg.pinv(own.covariance, hermitian=True) @ d))


def test_fitting_takes_the_sharp_patches(tmp_path) -> None:
    image = noise(576, 576).clone()
    image[:, :, 288:] = 0.5 + 0.5 * (image[:, :, 288:] - 0.5)
    model = fit([image, noise(576, 576, 1)])
    found = patches(image)
    kept = np.concatenate([found.features[found.sharpness > 0.075 * 255 * 0.9], patches(noise(576, 576, 1)).features])
    assert len(kept) == 54
    assert np.allclose(model.mean, kept.mean(0))
    assert np.allclose(model.covariance, np.cov(kept.T))
    save(model, tmp_path / "model.safetensors")
    loaded = Pristine(**load_file(tmp_path / "model.safetensors"))
    assert np.array_equal(loaded.mean, model.mean)
    assert np.array_equal(loaded.covariance, model.covariance)
    with pytest.raises(BadData, match="36 sharp patches"):
        fit([noise(576, 576)])


def test_the_card_is_that_of_the_file() -> None:
    card = MODEL.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in card
    assert re.search(rf"{MODEL.stat().st_size:,} bytes", card)
    model = shipped()
    assert model.covariance.shape == (FEATURES, FEATURES)
    assert np.linalg.eigvalsh(model.covariance)[0] > 0


@pytest.mark.parametrize("kind", ["gaussian-blur", "white-noise", "jpeg"])
def test_distortions_raise_it(kind) -> None:
    """On the embedded photographs; a sky without noise makes one of them an exception at low levels."""
    data = load_dataset("photos[size=256,subset=quick]")
    originals = [to_uint8(data.load(i)) for i, item in enumerate(data.items) if item.id.endswith("reference")]
    correlations = []
    for i, image in enumerate(originals):
        versions = [distort(image, kind, level, np.random.default_rng(i)) for level in range(1, 6)]
        values = [niqe(from_uint8(v)) for v in (image, *versions)]
        correlations.append(spearmanr(range(6), values)[0])
        assert values[5] > values[0] or kind == "gaussian-blur"
    assert np.mean(correlations) > 0.7
    assert np.median(correlations) > 0.9


# --- AMI-FGSM


def test_the_budget_is_inverse_to_niqe(linear) -> None:
    data = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i) for i in (0, 3, 20)])
    # Values of 0 or 255 cannot move everywhere: images are pulled to the middle, which NIQE hardly notices.
    x = 0.5 + 0.8 * (x - 0.5)
    values = np.array([niqe(image) for image in x])
    reference = float(np.median(values))
    share = np.minimum(1.0, reference / values)
    assert share.min() < 0.9
    assert share.max() == 1.0
    for threat in (L2(0.5), Linf(4 / 255)):
        result = load_attack(f"ami-fgsm[reference={reference!r}]")(load_defense("none", linear), x, threat)
        used = result.l2 if threat.norm == "l2" else result.linf
        assert np.allclose(used, share * threat.eps, rtol=1e-3)
        assert np.all(used <= threat.eps)
        assert np.allclose(result.gain, share * optimum(linear, x[:1], threat), rtol=1e-2)


@pytest.mark.parametrize("defense", ["none", "median-smoothing[n=200,m=7]"])
def test_with_the_whole_budget_it_is_mi_fgsm(defense) -> None:
    data = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 3)])
    g, attack, plain = load_defense(defense, load_metric("tiny-iqa")), AmiFgsm(reference=1e9), load_attack("mi-fgsm")
    attack.spec = plain.spec  # the streams depend on the name
    found, expected = (a(g, x, Linf(4 / 255)) for a in (attack, plain))
    assert torch.allclose(found.adversarial, expected.adversarial, atol=1e-5)
    assert found.forwards.tolist() == expected.forwards.tolist()
    assert found.backwards.tolist() == expected.backwards.tolist()


def test_an_image_alone_is_attacked_as_in_a_batch() -> None:
    data = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 3, 20)])
    g = load_defense("none", load_metric("tiny-iqa"))
    together = load_attack("ami-fgsm")(g, x, Linf(4 / 255))
    for i in range(3):
        alone = load_attack("ami-fgsm")(g, x[i : i + 1], Linf(4 / 255))
        assert torch.allclose(alone.adversarial[0], together.adversarial[i], atol=1e-5)
        assert alone.gain[0] == pytest.approx(together.gain[i], abs=1e-3)


def test_flat_images_stay_and_impossible_settings_are_named(linear) -> None:
    flat = torch.full((1, 3, 64, 64), 0.4)
    assert torch.equal(load_attack("ami-fgsm")(load_defense("none", linear), flat, L2(0.5)).adversarial, flat)
    for text in ("ami-fgsm[reference=0]", "ami-fgsm[steps=0]", "ami-fgsm[draws=0]"):
        with pytest.raises(BadParameter, match="expected"):
            load_attack(text)
