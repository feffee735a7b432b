"""Noise that many images share, against a slow path written out here; batches that fit into the memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, load_attack
from robustiqa.bench import Metric, load_metric, seeds
from robustiqa.bench.memory import wanted_format
from robustiqa.bench.seeds import generator, image_key, image_keys
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import engine
from robustiqa.defenses.certified import noise as noise_module
from robustiqa.defenses.certified.batches import Batches, grown
from robustiqa.defenses.certified.engine import certification_scores
from robustiqa.defenses.certified.noise import SHARED_FROM, CertificationNoise
from scipy.stats import binom, kstest
from support import torch_threads
from torch import nn

SIZE = 64
NUMBERS = 3 * SIZE * SIZE
SIGMA = 0.12


class Weighted(nn.Module):
    """f(x) = <w, x>, with |w| = 1."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn((3, SIZE, SIZE), generator=torch.Generator().manual_seed(5))
        self.register_buffer("w", w / w.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.get_buffer("w")).sum((1, 2, 3))


@pytest.fixture
def metric() -> Metric:
    return Metric(Weighted(), "weighted")


@pytest.fixture
def photos() -> torch.Tensor:
    return torch.rand((4, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))


def noise_of(x: torch.Tensor, seed: int = 0, **kwargs: torch.memory_format) -> CertificationNoise:
    return CertificationNoise(x, image_keys(x), seed, **kwargs)


def slow(score, x: torch.Tensor, n: int, last: bool) -> np.ndarray:
    """One image and one draw at a time, from the definition: draw k from generator k mod 8, signs from the content."""
    assert SHARED_FROM <= NUMBERS
    found = np.empty((len(x), n))
    lanes = [generator(0, "pool", "certification", 3, SIZE, SIZE, lane) for lane in range(8)]
    for k in range(n):
        drawn = torch.randn(NUMBERS, generator=lanes[k % 8])
        for i, image in enumerate(x):
            source = generator(0, "signs", "certification", image_key(image))
            words = torch.empty(-(-NUMBERS // 64), dtype=torch.int64).random_(-(2**63), None, generator=source)
            signs = torch.where((words[:, None] >> torch.arange(64)).flatten()[:NUMBERS] % 2 == 1, 1.0, -1.0)
            turned = signs * drawn
            field = turned.view(SIZE, SIZE, 3).permute(2, 0, 1) if last else turned.view(3, SIZE, SIZE)
            found[i, k] = float(score((image + SIGMA * field)[None].contiguous())[0])
    return found


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("pixels", [1, 3 * SIZE * SIZE, 10**6])
def test_samples_are_those_of_the_definition(metric: Metric, photos, monkeypatch, last: bool, pixels: int) -> None:
    """Whatever the batch: one draw, three draws of an image, all draws of all images."""
    monkeypatch.setattr(engine, "MAX_PIXELS", pixels)
    wanted = torch.channels_last if last else torch.contiguous_format
    found = certification_scores(metric, noise_of(photos, memory_format=wanted), SIGMA, 11)
    assert np.allclose(found, slow(metric, photos, 11, last), rtol=1e-5, atol=1e-5)


def test_the_network_is_given_images_in_its_own_order() -> None:
    seen = []
    metric = load_metric("tiny-iqa")
    metric.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    g = load_defense("median-smoothing[n=20]", metric)
    x = torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    found = g.certify(x, [0.05])
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen)
    alone = [g.certify(x[i : i + 1], [0.05]) for i in range(2)]
    assert np.allclose(found.score, [c.score[0] for c in alone], rtol=1e-5)
    assert wanted_format(None, load_metric("linear")) == torch.contiguous_format
    assert wanted_format(nn.Conv2d(3, 8, 3), metric) == torch.contiguous_format, "the first that has convolutions"


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_samples_depend_neither_on_neighbours_nor_on_threads_nor_on_how_far_one_goes(
    metric: Metric, photos, monkeypatch, threads: int
) -> None:
    monkeypatch.setattr(seeds, "_WORTH_THREADS", 1000)
    whole = certification_scores(metric, noise_of(photos), SIGMA, 40)
    assert len(np.unique(whole)) == whole.size
    alone = certification_scores(metric, noise_of(photos[2:3]), SIGMA, 40, threads=threads)
    assert np.allclose(whole[2:3], alone, atol=1e-5)
    with torch_threads(1 if torch.get_num_threads() > 1 else 3):
        other = certification_scores(metric, noise_of(photos), SIGMA, 40, threads=threads)
    assert np.allclose(whole, other, atol=1e-5)
    noise = noise_of(photos)
    parts = [certification_scores(metric, noise, SIGMA, n, threads=threads) for n in (3, 1, 9)]
    noise.skip(20)
    late = certification_scores(metric, noise, SIGMA, 7, threads=threads)
    assert np.allclose(np.hstack(parts), whole[:, :13], atol=1e-5)
    assert np.allclose(late, whole[:, 33:], atol=1e-5)
    # Some images only, as where others are decided: each has its own draws all the same.
    noise = noise_of(photos)
    first = certification_scores(metric, noise, SIGMA, 16, threads=threads)
    rest = certification_scores(metric, noise, SIGMA, 16, [1, 3], threads=threads)
    assert np.allclose(np.hstack([first[[1, 3]], rest]), whole[[1, 3], :32], atol=1e-5)


def test_noise_of_an_image_is_gaussian_and_that_of_two_is_uncorrelated(photos) -> None:
    noise = noise_of(torch.zeros_like(photos) + torch.arange(4.0)[:, None, None, None] / 8)
    fields = noise.noisy(noise.next(range(4), 30), slice(0, 4), 0, 1.0).view(30, 4, -1) - torch.arange(4.0)[:, None] / 8
    for i in range(2):
        assert kstest(fields[:, i].flatten().numpy(), "norm").pvalue > 1e-3
        assert abs(float((fields[:-1, i] * fields[1:, i]).mean())) < 4 / (29 * NUMBERS) ** 0.5
    # The signs of two images agree in half of the places, up to chance: they stay the same from draw to draw.
    together = (fields[:, 0] * fields[:, 1]).mean()
    assert abs(float(together)) < 4 / NUMBERS**0.5
    assert torch.allclose(fields[:, 0].abs(), fields[:, 1].abs(), atol=1e-6), "one pool"


def test_bounds_fail_no_more_often_than_alpha_where_noise_is_shared(metric: Metric, photos) -> None:
    """f = <w, x>: the median under every |d|_2 <= eps reaches <w, x> +- eps, in each of two images of a batch."""
    trials, alpha, eps = 150, 0.1, 0.05
    g = load_defense("median-smoothing[n=40,m=1]", metric)
    truth = metric(photos[:2]).double().numpy()
    found = [g.certify(photos[:2], [eps], alpha, seed) for seed in range(trials)]
    for i in range(2):
        left = sum((c.hi[i, 0] < truth[i] + eps) or (c.lo[i, 0] > truth[i] - eps) for c in found)
        assert 0 < left <= binom.ppf(0.9999, trials, alpha), "the bound is loose, or it does not hold"


def short_of_memory(most: int, seen: list[int]):
    def score(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.sum((1, 2, 3))

    return score


def test_batches_are_halved_where_the_memory_does_not_suffice() -> None:
    seen: list[int] = []
    x = torch.rand(22, 3, 4, 4)
    fits = Batches(short_of_memory(6, seen))
    assert torch.equal(fits(x), x.sum((1, 2, 3)))
    assert seen == [22, 11, 6, 6, 6, 4]
    assert torch.equal(fits(x[:9]), x[:9].sum((1, 2, 3)))
    assert seen[6:] == [6, 3], "what fitted is remembered"
    with pytest.raises(torch.OutOfMemoryError):
        Batches(short_of_memory(0, seen))(x[:2])


def test_other_errors_are_raised_at_once() -> None:
    seen = []

    def score(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Batches(score)(torch.rand(8, 3, 4, 4))
    assert seen == [8]


def test_a_certificate_survives_a_shortage_of_memory(photos) -> None:
    seen: list[int] = []
    expected = load_defense("median-smoothing[n=50]", Metric(Weighted(), "weighted")).certify(photos, [0.05])
    g = load_defense("median-smoothing[n=50]", Metric(Weighted(), "weighted"))
    inner = g.metric.module.forward
    few = short_of_memory(7, seen)
    g.metric.module.forward = lambda x: inner(x) + 0 * few(x)  # type: ignore[method-assign]
    assert np.allclose(g.certify(photos, [0.05]).hi, expected.hi, rtol=1e-5)
    assert max(seen) > 7


@pytest.mark.parametrize(("rates", "batch"), [
    ({4: 10.0, 8: 20.0, 16: 39.0, 32: 40.0}, 16),  # flat from there on
    ({4: 10.0, 8: 10.1}, 4),
    ({4: 10.0, 8: 20.0, 16: 0.0}, 8),  # more does not fit
    ({4: 1.0, 8: 2.0, 16: 4.0, 32: 8.0, 64: 16.0}, 64),  # never beyond the largest
])  # fmt: skip
def test_a_batch_grows_while_it_pays(rates: dict[int, float], batch: int) -> None:
    assert grown(4, rates.__getitem__, 64) == batch


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [SIZE, SIZE // 2], ids=["one pool", "own streams"])
def test_draws_made_ahead_are_those_made_in_turn(photos, monkeypatch, size: int, threads: int) -> None:
    """And each block stays as it is while the next one is drawn beside it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(seeds, "_WORTH_THREADS", 1000)
    x, sizes = photos[:, :, :size, :size], [5, 3, 8, 1]
    whole = noise_of(x).next(range(4), sum(sizes)).values
    for ahead in (False, True):
        noise, done = noise_of(x), 0
        monkeypatch.setattr(noise_module, "AT_ONCE", 9 * 4 * noise.numbers)  # two blocks at once, or none
        for block, many in zip(noise.blocks(range(4), sizes, ahead), sizes, strict=True):
            time.sleep(0.02)
            assert torch.equal(block.values, whole[done : done + many])
            done += many
        assert not list(noise.blocks(range(4), [], ahead))


def test_an_error_amid_draws_made_ahead_ends_their_thread(photos) -> None:
    before = threading.active_count()
    blocks = noise_of(photos).blocks(range(4), [2, 2, 2], ahead=True)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeds, "_WORTH_THREADS", 1000)
    with torch_threads(2):
        yield


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("defense", ["median-smoothing", "random-noise", "dms-iqa"])
def test_what_a_user_calls_works_in_several_threads(defense: str) -> None:
    """Scores are computed in inference mode, which other threads do not share by themselves."""
    x = torch.rand((3, 3, 128, 128), generator=torch.Generator().manual_seed(2))
    parameters = "m=8" if defense == "random-noise" else "m=8,n=24"
    g = load_defense(f"{defense}[{parameters}]", load_metric("tiny-iqa"))
    several = [g.estimate(x).score, load_attack("eot-pgd[draws=2,steps=2]")(g, x, L2(0.5)).gain]
    if g.certified_norm is not None:
        several.append(g.certify(x, [0.05]).score)
    torch.set_num_threads(1)
    alone = [g.estimate(x).score, load_attack("eot-pgd[draws=2,steps=2]")(g, x, L2(0.5)).gain]
    if g.certified_norm is not None:
        alone.append(g.certify(x, [0.05]).score)
    for a, b in zip(several, alone, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=2e-3)


@pytest.mark.usefixtures("two_threads")
def test_draws_made_ahead_in_inference_mode(photos) -> None:
    whole = noise_of(photos).next(range(4), 40).values
    with torch.inference_mode():
        noise = noise_of(photos)
        noise.first([0])
        found = [block.values.clone() for block in noise.blocks(range(4), [20, 20], ahead=True)]
    assert torch.equal(torch.cat(found), whole)
