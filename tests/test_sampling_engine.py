"""The sampling engine: streams, pools that resume, progress, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.bench import load_metric
from robustiqa.bench.errors import BadData, BadImage, BadScore
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import engine
from robustiqa.defenses.certified.engine import sample_scores
from robustiqa.defenses.certified.noise import noised

ROOT = Path(__file__).parents[1]
KEYS = ("a", "b", "c")


def _streams(*keys: str) -> Streams:
    return Streams.create(keys, Role.CERTIFICATION)


def test_samples_are_scores_of_the_image_plus_the_streams_noise(linear, images) -> None:
    found = sample_scores(linear, images, 0.1, 7, _streams(*KEYS))
    for i, stream in enumerate(_streams(*KEYS).generators):
        for j in range(7):
            noise = torch.randn(images.shape[1:], generator=stream)
            assert found[i, j] == pytest.approx(float(linear((images[i] + 0.1 * noise)[None])), abs=1e-5)


@pytest.mark.parametrize("pixels", [1, 48 * 40, 5 * 48 * 40, 10**9])
@pytest.mark.parametrize("n", [1, 4, 13])
def test_samples_do_not_depend_on_the_batch(linear, images, monkeypatch, pixels: int, n: int) -> None:
    """One draw a batch, several draws of an image, all draws of several images: the same samples to float rounding."""
    expected = sample_scores(linear, images, 0.12, n, _streams(*KEYS))
    monkeypatch.setattr(engine, "MAX_PIXELS", pixels)
    assert np.allclose(sample_scores(linear, images, 0.12, n, _streams(*KEYS)), expected, rtol=1e-6, atol=1e-6)
    alone = sample_scores(linear, images[1:2], 0.12, n, _streams("b"))
    assert np.allclose(alone[0], expected[1], rtol=1e-6, atol=1e-6)


def test_more_draws_begin_with_the_fewer(linear, images) -> None:
    few, many = (sample_scores(linear, images, 0.12, n, _streams(*KEYS)) for n in (5, 900))
    assert np.allclose(many[:, :5], few, atol=1e-6)


class _Counting:
    """A metric that counts the images it sees, and stops like an interruption after so many."""

    def __init__(self, metric, most: int = 10**9) -> None:
        self.metric, self.seen, self.most = metric, 0, most

    def __call__(self, noisy: torch.Tensor) -> torch.Tensor:
        if self.seen + len(noisy) > self.most:
            raise KeyboardInterrupt
        self.seen += len(noisy)
        return self.metric(noisy)


def test_an_interrupted_certificate_goes_on_from_its_pool(images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(engine, "MAX_PIXELS", 50 * 48 * 40)
    g = load_defense("median-smoothing[n=200]", load_metric("linear"))
    whole = g.certify(images, [0.05, 0.1])
    counting = _Counting(load_metric("linear"), 350)
    monkeypatch.setattr(type(g), "base_score", lambda self, noisy: counting(noisy))
    with pytest.raises(KeyboardInterrupt):
        g.certify(images, [0.05, 0.1], pool=tmp_path)
    assert counting.seen == 350
    counting.most = 10**9
    resumed = g.certify(images, [0.05, 0.1], pool=tmp_path)
    # Not one draw was made twice, but for the first of each image, by which kept draws are recognised.
    assert counting.seen == 600 + 3
    assert np.array_equal(resumed.lo, whole.lo)
    assert np.array_equal(resumed.hi, whole.hi)


def test_one_pool_serves_every_eps_alpha_n_and_estimator(images, tmp_path: Path, monkeypatch) -> None:
    metric = load_metric("linear")
    seen = []
    monkeypatch.setattr(metric.module, "forward", lambda x, f=metric.module.forward: seen.append(len(x)) or f(x))
    load_defense("median-smoothing[n=300]", metric).certify(images, [0.05], pool=tmp_path)
    assert sum(seen) == 900
    plain = load_defense("trimmed-mean-smoothing[n=300]", metric).certify(images, [0.05])
    seen.clear()
    g = load_defense("median-smoothing[n=200,m=5]", metric)
    assert np.isfinite(g.certify(images, [0.01, 0.02], 0.01, pool=tmp_path).hi).all()
    pooled = load_defense("trimmed-mean-smoothing[n=300]", metric).certify(images, [0.05], pool=tmp_path)
    assert seen == [1] * 6  # one look at each image and certificate, whether the kept draws are of this metric
    seen.clear()
    assert np.array_equal(pooled.hi, plain.hi)
    load_defense("median-smoothing[n=400]", metric).certify(images, [0.05], pool=tmp_path)
    assert sum(seen) == 300 + 3  # only what was missing
    seen.clear()
    load_defense("median-smoothing[n=300,sigma=0.2]", metric).certify(images, [0.05], pool=tmp_path)
    load_defense("median-smoothing[n=300]", metric).certify(images, [0.05], seed=1, pool=tmp_path)
    load_defense("denoised-median-smoothing[n=300]", metric).certify(images, [0.05], pool=tmp_path)
    assert sum(seen) == 2700  # another noise, seed or denoiser shares nothing


def test_kept_draws_of_another_function_are_never_used(images, tmp_path: Path) -> None:
    """What no name shows: weights changed in memory, a denoiser set by hand."""
    metric = load_metric("linear")
    load_defense("median-smoothing[n=100]", metric).certify(images, [0.05], pool=tmp_path)
    metric.module.get_buffer("w").mul_(3)
    changed = load_defense("median-smoothing[n=100]", metric)
    expected = changed.certify(images, [0.05])
    assert np.array_equal(changed.certify(images, [0.05], pool=tmp_path).hi, expected.hi)
    own = load_defense("median-smoothing[n=100]", metric)
    own.denoiser = torch.nn.AvgPool2d(3, 1, 1)
    plain = own.certify(images, [0.05])
    assert np.array_equal(own.certify(images, [0.05], pool=tmp_path).hi, plain.hi)
    assert not np.array_equal(plain.hi, expected.hi)


def test_a_bad_score_is_not_kept(images, tmp_path: Path, monkeypatch) -> None:
    metric = load_metric("linear")
    inner = metric.module.forward
    monkeypatch.setattr(metric.module, "forward", lambda x: inner(x) * torch.nan)
    g = load_defense("median-smoothing[n=50]", metric)
    with pytest.raises(BadScore, match="NaN"):
        g.certify(images, [0.05], pool=tmp_path)
    monkeypatch.setattr(metric.module, "forward", inner)
    assert np.isfinite(g.certify(images, [0.05], pool=tmp_path).score).all()


def test_a_folder_that_cannot_be_made_is_one_sentence(linear, images, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadData, match="choose another folder"):
        load_defense("median-smoothing[n=50]", linear).certify(images, [0.05], pool=tmp_path / "file" / "pool")


@pytest.mark.parametrize("damage", ["cut", "garbage", "swapped"])
def test_a_damaged_pool_is_drawn_again(linear, images, tmp_path: Path, damage: str) -> None:
    g = load_defense("median-smoothing[n=100]", linear)
    first = g.certify(images, [0.05], pool=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    if damage == "cut":
        files[0].write_bytes(files[0].read_bytes()[:-200])
    elif damage == "garbage":
        files[0].write_bytes(b"\x00" * 100)
    else:
        with np.load(files[0]) as kept:
            arrays = dict(kept)
        np.savez(files[0], **(arrays | {"draws": arrays["draws"] + 1}))
    again = g.certify(images, [0.05], pool=tmp_path)
    assert np.array_equal(again.hi, first.hi)


def test_progress_counts_all_draws_up(linear, images, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_PIXELS", 30 * 48 * 40)
    calls: list[tuple[int, int]] = []
    g = load_defense("median-smoothing[n=100]", linear)
    g.certify(images, [0.05], progress=lambda n, of: calls.append((n, of)))
    assert [n for n, _ in calls] == sorted({n for n, _ in calls})
    assert calls[-1] == (300, 300)
    assert len(calls) == 3 * 3 + 1  # the last ten draws of all three images go together


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_score_among_many_draws_is_an_error(images, bad: float) -> None:
    metric = load_metric("linear")
    inner = metric.module.forward
    metric.module.forward = lambda x: torch.where(torch.arange(len(x)) == 17, bad, inner(x))  # type: ignore
    with pytest.raises(BadScore, match="NaN"):
        load_defense("median-smoothing[n=50]", metric).certify(images, [0.05])


@pytest.mark.parametrize(("x", "word"), [
    ([torch.rand(3, 32, 32), torch.rand(3, 40, 40)], "different sizes"),
    (torch.rand(3, 32, 32), "expected"),
    (torch.rand(1, 1, 32, 32), "expected"),
    (torch.rand(1, 3, 32, 32) + 0.5, "expected"),
    (torch.full((1, 3, 32, 32), torch.nan), "expected"),
])  # fmt: skip
def test_only_one_batch_of_rgb_images_is_certified(linear, x, word: str) -> None:
    g = load_defense("median-smoothing[n=50]", linear)
    with pytest.raises(BadImage, match=word):
        g.certify(x, [0.05])
    with pytest.raises(BadImage, match=word):
        g.decide(x, 0.05, 1.0)


def test_memory_does_not_grow_with_the_number_of_draws() -> None:
    """Peak resident memory of a fresh process while it certifies: n = 10,000 within 10 % of n = 1,000."""
    peaks = [
        float(subprocess.run([sys.executable, "-m", "benchmarks.peak", n, "cpu", "1"], cwd=ROOT, capture_output=True,
                             text=True, check=True).stdout)
        for n in ("1000", "10000")
    ]  # fmt: skip
    assert peaks[1] <= 1.1 * peaks[0]


@pytest.mark.parametrize("wanted", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last], ids=str)
def test_noise_in_one_pass_is_a_sum_with_its_gradient(images, given, wanted) -> None:
    x = images.contiguous(memory_format=given)
    noise = _streams(*KEYS).normal(x, 4)
    weights = torch.randn(12, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    found, slopes = [], []
    for leaf in (x.clone().requires_grad_(True), x.clone().requires_grad_(True)):
        noisy = (leaf + 0.3 * noise).flatten(0, 1) if found else noised(leaf, noise, 0.3, wanted)
        found.append(noisy.detach())
        slopes.append(torch.autograd.grad((noisy * weights).square().sum(), leaf)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(slopes[0], slopes[1])
    assert found[0].is_contiguous(memory_format=wanted)
