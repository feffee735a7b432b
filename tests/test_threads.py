"""Work side by side: what it gives, who may share it, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, auto, load_attack
from robustiqa.attacks.base import Attack, Candidate
from robustiqa.attacks.projection import project
from robustiqa.bench import Metric, load_metric, objective, threads
from robustiqa.bench.api import Threat
from robustiqa.bench.errors import BadScore
from robustiqa.bench.metrics.tiny_iqa import TinyIQA
from robustiqa.bench.objective import Objective, told
from robustiqa.bench.threads import crew, going_on, helpers, may_share, shares, side_by_side
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import engine
from support import torch_threads
from torch import nn
from torch.nn.utils import parametrize

SIZE = 64
TINY = load_metric("tiny-iqa")


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four threads, all of them for small images too."""
    monkeypatch.setattr(threads, "LEAST", 1)
    monkeypatch.setattr(threads, "LOOK", 0.01)
    with torch_threads(4):
        yield


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand((3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(3))


class Mean(nn.Module):
    """Mean of the image, and in which threads it was asked for."""

    concurrent = True

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.seen = set[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add(threading.get_ident())
        return 100 * self.factor * x.square().mean((1, 2, 3))


class Heir(Mean):
    """Says nothing of itself."""


@pytest.mark.usefixtures("several")
def test_parts_run_at_once_each_with_its_share_of_threads() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def work(part: int) -> tuple[int, int, int, bool]:
        meeting.wait()  # breaks unless both are there
        return part, torch.get_num_threads(), crew(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert side_by_side(work, [5, 7], 2) == [(5, 2, 2, True), (7, 2, 2, True)]
    assert (torch.get_num_threads(), crew()) == (4, 1)
    assert side_by_side(lambda k: threading.get_ident(), range(3), 1) == 3 * [threading.get_ident()]
    nested = side_by_side(lambda k: side_by_side(lambda i: (k, i, crew()), range(2), 2), range(2), 2)
    assert nested == [[(0, 0, 4), (0, 1, 4)], [(1, 0, 4), (1, 1, 4)]]


def endless(left: list[int]) -> Callable[[int], None]:
    """Work that goes on until it is stopped, and notes which parts were."""

    def work(part: int) -> None:
        try:
            while True:
                going_on()
                time.sleep(0.001)
        finally:
            left.append(part)

    return work


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("nested", [False, True])
def test_an_error_ends_the_others_and_is_told(nested: bool) -> None:
    left = list[int]()

    def work(part: int) -> None:
        if part == 1:
            raise BadScore("this one")
        if nested:
            side_by_side(endless(left), [part] * 2, 2)
        endless(left)(part)

    with pytest.raises(BadScore, match="this one"):
        side_by_side(work, range(5), 2)  # the last ones never begin, or end at once
    assert set(left) <= {0, 2, 3, 4}
    assert torch.get_num_threads() == 4
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


@pytest.mark.usefixtures("several")
def test_an_interruption_ends_all() -> None:
    ended = list[int]()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(endless(ended), range(2), 2, interrupt)
    assert sorted(ended) == [0, 1]
    going_on()  # this thread was never asked to stop


def test_shares_are_whole_and_even() -> None:
    for count, parts in ((7, 3), (2, 2), (16, 5)):
        cut = shares(count, parts)
        assert [i for part in cut for i in range(count)[part]] == list(range(count))
        lengths = {part.stop - part.start for part in cut}
        assert max(lengths) - min(lengths) <= 1


def test_only_what_says_so_shares() -> None:
    assert may_share(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    assert may_share(Mean())
    assert not may_share(Heir())
    assert not may_share(nn.Sequential(Heir()))
    assert not may_share(type("Plain", (nn.Module,), {})())
    hooked, replaced, later, weighted = Mean(), Mean(), Mean(), Heir()
    parametrize.register_parametrization(weighted, "factor", nn.Identity())
    assert not may_share(weighted)
    hooked.register_forward_hook(lambda *a: None)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    later.concurrent = False
    assert not (may_share(hooked))
    assert not (may_share(replaced))
    assert not (may_share(later))
    for spec in ("none", "median-smoothing", "dms-iqa", "denoised-score-bins"):
        assert may_share(load_defense(spec, TINY))
    assert not may_share(load_defense("median-smoothing[compiled=true]", TINY))
    assert not may_share(load_defense("median-smoothing", Metric(Heir(), "heir")))


@pytest.mark.usefixtures("several")
def test_how_many_help() -> None:
    net = Mean()
    assert [helpers(10, parts, net) for parts in (1, 3, 9)] == [1, 3, 4]
    assert helpers(2, 9, net) == 2
    assert helpers(0, 9, net) == 1
    assert helpers(10, 9, Heir()) == 1


def watch(monkeypatch: pytest.MonkeyPatch, used: set[int]) -> None:
    """Note the threads in which tiny-iqa is asked."""
    score = TinyIQA.score

    def noted(net: TinyIQA, features: torch.Tensor) -> torch.Tensor:
        used.add(threading.get_ident())
        return score(net, features)

    monkeypatch.setattr(TinyIQA, "score", noted)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("defense", ["median-smoothing", "dms-iqa", "mean-smoothing"])
def test_certificates_and_scores_are_those_of_one_thread(x, tmp_path: Path, monkeypatch, defense: str) -> None:
    g, used = load_defense(f"{defense}[m=7,n=21]", TINY), set[int]()
    watch(monkeypatch, used)
    seen = []
    found = [g.certify(x, [0.05], progress=lambda done, of: seen.append((done, of))), g.certify(x[:1], [0.05])]
    shared, score = g.certify(x, [0.05], pool=tmp_path), g.estimate(x).score
    assert seen[-1] == (63, 63)
    assert seen == sorted(seen)
    assert len(used) > 1
    torch.set_num_threads(1)
    once = g.certify(x, [0.05])
    assert np.isfinite(once.lo).all()
    for c, part in ((found[0], slice(None)), (found[1], slice(1)), (shared, slice(None))):
        assert np.allclose(c.lo, once.lo[part], atol=1e-3)
        assert np.allclose(c.hi, once.hi[part], atol=1e-3)
    assert np.allclose(score, g.estimate(x).score, atol=1e-3)


@pytest.mark.usefixtures("several")
def test_kept_draws_are_gone_on_with(x, tmp_path: Path) -> None:
    """Images that have different numbers of draws already, the middle one all."""
    spec = "median-smoothing[m=7,n={}]"
    for image, n in ((0, 5), (1, 30), (2, 12)):
        load_defense(spec.format(n), TINY).certify(x[image : image + 1], [0.05], pool=tmp_path)
    g = load_defense(spec.format(30), TINY)
    several, alone = g.certify(x, [0.05], pool=tmp_path), g.certify(x, [0.05])
    assert np.allclose(several.lo, alone.lo, atol=1e-3)
    assert np.allclose(several.score, alone.score, atol=1e-3)
    assert np.allclose(g.certify(x, [0.05], pool=tmp_path).lo, alone.lo, atol=1e-3)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("done", [0, 2])
def test_draws_are_kept_on_the_way_whichever_image_has_all(x, tmp_path: Path, monkeypatch, done: int) -> None:
    class Slow(Mean):
        concurrent = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return super().forward(x)

    monkeypatch.setattr(engine, "MAX_PIXELS", 4 * 2 * SIZE * SIZE)
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)
    g, saved, save = load_defense("median-smoothing[m=7,n=100]", Metric(Slow(), TINY.spec)), [], engine.Shelf.save

    def counted(shelf: engine.Shelf, i: int, draws: np.ndarray) -> None:
        saved.append(len(draws))
        save(shelf, i, draws)

    g.certify(x[done : done + 1], [0.05], pool=tmp_path)
    monkeypatch.setattr(engine.Shelf, "save", counted)
    g.certify(x, [0.05], pool=tmp_path)
    assert len({many for many in saved if many < 100}) > 1


@pytest.mark.usefixtures("several")
def test_weights_around_the_median_cost_the_same_in_any_number_of_threads(x, monkeypatch) -> None:
    monkeypatch.setattr(objective, "MAX_PIXELS", 6 * SIZE * SIZE)  # six draws of an image, not of two
    run, g = load_attack("eot-pgd[draws=6,centre=kernel,steps=2]"), load_defense("median-smoothing[m=5]", TINY)
    several = run(g, x, L2(0.5))
    torch.set_num_threads(1)
    alone = run(g, x, L2(0.5))
    assert np.array_equal(several.forwards, alone.forwards)
    assert np.allclose(several.gain, alone.gain, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("several")
def test_an_image_that_the_bare_metric_refuses_takes_nothing_from_its_neighbour(x, monkeypatch) -> None:
    class Logarithm(nn.Module):
        concurrent = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).std(1).log()  # minus infinity where an image is flat

    def only(g: object) -> list[Attack]:
        naive = load_attack("naive[attack=pgd]")
        assert isinstance(naive, Attack)
        return [naive]

    monkeypatch.setattr(auto, "members", only)
    x = torch.stack([x[0], torch.full_like(x[1], 0.5)])
    g, run = load_defense("median-smoothing[m=5]", Metric(Logarithm(), "logarithm")), load_attack("auto-iqa")
    several = run(g, x, L2(0.5))
    torch.set_num_threads(1)
    alone = run(g, x, L2(0.5))
    assert several.gain[0] > 0.01
    assert np.allclose(several.gain, alone.gain, rtol=1e-4, atol=1e-4)
    assert np.array_equal(several.forwards, alone.forwards)


@pytest.mark.usefixtures("several")
def test_autocast_of_the_caller_holds_for_all_draws(x) -> None:
    g = load_defense("median-smoothing[m=5,n=24]", TINY)
    with torch.autocast("cpu", torch.bfloat16):
        several = g.certify(x, [0.05]).score
        torch.set_num_threads(1)
        alone = g.certify(x, [0.05]).score
    assert np.allclose(several, alone, atol=1e-3)
    assert not np.allclose(alone, g.certify(x, [0.05]).score, atol=1e-3)


def test_a_single_candidate_may_carry_a_graph(x) -> None:
    class Climb(Attack):
        def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
            z = x.clone().requires_grad_(True)
            objective.differentiable(z).sum().backward()
            assert z.grad is not None
            yield Candidate(project(z + 1e3 * z.grad, x, threat))

    found = Climb()(load_defense("none", TINY), x, L2(0.5))
    assert (found.gain > 0).all()
    assert not found.adversarial.requires_grad


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("attack", "defense"),
    [
        ("pgd[restarts=2,steps=3]", "none"),
        ("apgd[steps=4]", "none"),
        ("square[queries=20]", "none"),
        ("eot-pgd[draws=3,steps=3]", "median-smoothing[m=5]"),
    ],
)
def test_attacks_find_what_one_thread_finds(x, attack: str, defense: str) -> None:
    run, network = load_attack(attack), Mean()
    g = load_defense(defense, Metric(network, "mean"))
    network.seen.clear()
    several = run(g, x, L2(0.5), seed=2)
    assert len(network.seen) > 1
    torch.set_num_threads(1)
    alone = run(g, x, L2(0.5), seed=2)
    assert np.allclose(several.gain, alone.gain, rtol=1e-4, atol=1e-4)
    for name in ("forwards", "backwards", "queries"):
        assert np.array_equal(getattr(several, name), getattr(alone, name))


@pytest.mark.usefixtures("several")
def test_who_is_told_of_passes_hears_of_one_at_a_time(x) -> None:
    g, busy, heard = load_defense("none", Metric(Mean(), "mean")), threading.Lock(), []

    def tell(forwards: int) -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.005)
        heard.append(forwards)
        busy.release()

    with told(tell):
        load_attack("pgd[steps=5]")(g, x, L2(0.5))
    assert heard == 18 * [1]  # six of each image, which has a thread of its own


@pytest.mark.usefixtures("several")
def test_what_does_not_say_so_runs_in_one_thread(x) -> None:
    network = Heir()
    g = load_defense("median-smoothing[m=5,n=20]", Metric(network, "heir"))
    g.certify(x, [0.05])
    g.estimate(x)
    load_attack("eot-pgd[draws=2,steps=2]")(g, x, L2(0.5))
    assert network.seen == {threading.get_ident()}


@pytest.mark.usefixtures("several")
def test_a_score_that_is_no_number_is_an_error_from_another_thread_too(x) -> None:
    class Broken(Mean):
        concurrent = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float("nan")

    g = load_defense("none", Metric(Broken(), "broken"))
    with pytest.raises(BadScore, match="NaN"):
        load_attack("pgd[steps=3]")(g, x, L2(0.5))
