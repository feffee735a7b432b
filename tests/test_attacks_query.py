"""Attacks that see nothing but scores: closed forms on the linear metric, what they may change, and what they ask."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.parsimonious import Block, _greedy
from robustiqa.attacks.perceptual import luma
from robustiqa.attacks.search import Walk
from robustiqa.attacks.surfree import Boundary
from robustiqa.attacks.visibility import high_frequencies, noticeable, salient
from robustiqa.bench import Metric, Threat, load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric, Direction, Estimate
from robustiqa.bench.errors import BadParameter, Incompatible
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import Streams, image_key
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import exact
from scipy import fft, ndimage
from support import optimum

SEARCHES = ["square[queries={}]", "parsimonious[queries={}]", "one-pixel[queries={},population=15,pixels=3]",
            "patch-search[queries={}]", "jnd-search[queries={},per_round=20,tries=10]"]  # fmt: skip
RANDOMISED = "median-smoothing[n=200,m=7]"
THREATS = [L2(0.5), Linf(4 / 255)]


def _runs(attack: str, norm: str) -> bool:
    return norm in load_attack(attack.format(100)).norms  # type: ignore[attr-defined]


CASES = [(a, t) for a in [*SEARCHES, "single-sign"] for t in THREATS if _runs(a, t.norm)]


@pytest.mark.parametrize(("attack", "threat"), CASES, ids=str)
@pytest.mark.parametrize("defense", ["none", RANDOMISED])
def test_budget_box_and_queries_are_kept(images, attack, threat, defense) -> None:
    """Queries as the metric itself counts them, and as many as were asked for but for an unfinished comparison."""
    metric, each = load_metric("counting"), 7 if defense == RANDOMISED else 1
    g = load_defense(defense, metric)
    clean = g.estimate(images)
    metric.module.seen = 0  # type: ignore[assignment]
    result = load_attack(attack.format(121))(g, images, threat, clean=clean)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.all(used <= threat.eps)
    # Where nothing was confirmed by a second answer it stays where it is.
    assert np.all(used > 0) or (attack.startswith("jnd") and g.randomised)
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    assert metric.module.seen - 2 * 3 * each == result.forwards.sum()
    if attack == "single-sign":
        assert np.all(result.queries == (0 if g.randomised else 2))
        return
    assert result.forwards.tolist() == (each * result.queries).tolist()
    assert np.all(result.queries <= 121)
    if not attack.startswith("jnd"):  # it may end early
        assert np.all(result.queries >= 120)


@pytest.mark.parametrize("attack", ["square", "parsimonious", "patch-search", "one-pixel[population=15]"])
def test_averaged_answers_are_all_counted(linear, images, attack) -> None:
    text = attack.rstrip("]") + ("," if "[" in attack else "[") + "queries=131,repeats=4]"
    result = load_attack(text)(Lucky(linear), images, Linf(0.02))
    assert result.queries.tolist() == result.forwards.tolist() == [128, 128, 128]
    assert np.all(result.linf > 0)


@pytest.mark.parametrize(("attack", "threat"), CASES, ids=str)
@pytest.mark.parametrize("defense", ["none", RANDOMISED])
def test_an_image_in_a_batch_fares_as_it_does_alone(linear, images, attack, threat, defense) -> None:
    g, attacker = load_defense(defense, linear), load_attack(attack.format(60))
    together = attacker(g, images, threat, "down")
    for i in range(len(images)):
        alone = attacker(g, images[i : i + 1], threat, "down")
        assert torch.allclose(alone.adversarial[0], together.adversarial[i], atol=1e-5)
        assert (alone.forwards[0], alone.queries[0]) == (together.forwards[i], together.queries[i])


@pytest.mark.parametrize(("attack", "threat"), [c for c in CASES if c[0][:3] not in ("sin", "jnd")], ids=str)
def test_more_queries_find_more(linear, images, attack, threat) -> None:
    g, images = load_defense("none", linear), images[:2]
    signs: dict[Direction, int] = {"up": 1, "down": -1}
    for direction, sign in signs.items():
        few, many = (sign * load_attack(attack.format(q))(g, images, threat, direction).gain.mean() for q in (40, 500))
        assert many > (1.05 if attack.startswith("one") else 1.3) * few
        assert 0 < many <= optimum(linear, images, threat) * (1 + 1e-4)


class Lucky(DefendedMetric):
    """The metric's score, and now and then one that is far too high."""

    randomised = True

    def _noisy(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        return self.metric(x) + 100 * (rng.numbers(1)[:, 0] < 0.02).to(x)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self._noisy(x, rng))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B)."""
        return torch.stack([self._noisy(x, rng) for _ in range(draws)])


@pytest.mark.parametrize("attack", ["square", "parsimonious[block=4]", "patch-search", "one-pixel[population=20]",
                                    "jnd-search[per_round=20,tries=20]"])  # fmt: skip
def test_a_lucky_answer_does_not_end_the_search(linear, images, attack) -> None:
    """Kept as the score to beat, a single one would stop every later step; asked again it costs some queries."""
    x, attacker = images[:2, :, :24, :24], load_attack(attack)
    found, plain = (attacker(g, x, Linf(4 / 255)).adversarial for g in (Lucky(linear), load_defense("none", linear)))
    base = linear(x)
    assert float((linear(found) - base).mean()) > 0.3 * float((linear(plain) - base).mean())


def _yields(search: Any, answers: list[float]) -> list[torch.Tensor]:
    """What a search asks when it is given these answers."""
    return [next(search), *(search.send(answer) for answer in answers)]


def test_the_point_at_hand_is_asked_again(linear, images) -> None:
    """On a randomised defence; a deterministic one has told its score for good."""
    x, proposal = images[0], images[1]
    for g, asked, answers in ((Lucky(linear), [x, proposal], [1.0, 3.0]), (_plain(linear), [proposal], [1e9 + 2])):
        walk = Walk(x, L2(0.5), Objective(g, [image_key(x)]), x, value=1e9)
        search = walk.rise(proposal)
        assert all(map(torch.equal, _yields(search, answers[:-1]), asked))
        with pytest.raises(StopIteration) as end:
            search.send(answers[-1])
        assert end.value.value == 2


def test_parents_are_asked_again(linear, images) -> None:
    attack: Any = load_attack("one-pixel[population=4]")
    for g, again in ((Lucky(linear), True), (_plain(linear), False)):
        walk = Walk(images[0], Linf(1.0), Objective(g, [image_key(images[0])]), images[0])
        asked = _yields(attack._search(walk), [0.0, 1e6, 0.0, 0.0, -1.0, -1.0, 5.0, -1.0, 0.0, 0.0, 0.0])
        survivors = [asked[0], asked[1], asked[6], asked[3]]
        assert all(map(torch.equal, asked[8:], survivors)) is again
        assert torch.equal(walk.image, asked[1])


def test_a_step_over_a_boundary_is_confirmed(linear, images) -> None:
    """The pattern that was lucky is left; the one that scores higher a second time is where the next round begins."""
    attack: Any = load_attack("jnd-search[per_round=1]")
    for again, taken in ((0.0, False), (2.0, True)):
        walk = Walk(images[0], Linf(0.1), Objective(Lucky(linear), [image_key(images[0])]), images[0])
        asked = _yields(attack._search(walk), [1.0, 1.0, 1000.0, 0.0, 1.0, again])
        assert torch.equal(asked[5], asked[2]), "what was confirmed"
        assert torch.equal(asked[6], asked[2] if taken else images[0])


def _plain(metric: Metric) -> DefendedMetric:
    return load_defense("none", metric)


@pytest.mark.parametrize(("attack", "threat"), CASES, ids=str)
def test_nothing_outside_ball_and_box_is_asked(linear, images, attack, threat) -> None:
    """What an attacker could not submit would tell it more than it may know."""
    x = ((images[:1] - 0.5) * 1.6 + 0.5).clamp(0, 1)
    wide = Threat(threat.norm, 0.4 if threat.norm == "linf" else 8.0)
    least, most, size = [], [], []
    forward = linear.module.forward

    def watched(z: torch.Tensor) -> torch.Tensor:
        least.append(float(z.min()))
        most.append(float(z.max()))
        delta = (z - x).flatten(1)
        size.append(float((delta.abs().amax(1) if threat.norm == "linf" else delta.norm(dim=1)).max()))
        return forward(z)

    linear.module.forward = watched
    load_attack(attack.format(60))(_plain(linear), x, wide)
    assert min(least) >= 0
    assert max(most) <= 1
    rounding = 0.51 / 255 * (1 if threat.norm == "linf" else x.numel() ** 0.5)  # of the final 8-bit score
    assert max(size) <= wide.eps + rounding


# --- parsimonious


def test_blocks_end_at_the_best_corner_of_the_cube(linear, images) -> None:
    x = images[..., :16, :16]
    result = load_attack("parsimonious[queries=9000,block=4]")(load_defense("none", linear), x, Linf(4 / 255))
    signs = linear.module.weights(x).sign().expand_as(x)
    assert torch.allclose(result.adversarial, x + 4 / 255 * signs, atol=1e-6)
    assert np.allclose(result.gain, optimum(linear, x, Linf(4 / 255)), rtol=1e-4)
    assert np.all(result.queries < 9000), "nothing is left to flip"


def test_large_blocks_follow_the_signs_of_their_sums(images) -> None:
    """With weights that are constant in blocks, the optimum is found by as many questions as 12 blocks take."""
    metric, x = load_metric("linear"), images[..., :16, :16]
    weights: Any = metric.module.get_buffer("w")
    sums = weights[:, ::8, ::8].clone()
    weights.copy_(torch.kron(sums, torch.ones(8, 8)))
    result = load_attack("parsimonious[queries=40,block=8]")(load_defense("none", metric), x, Linf(0.02), "down")
    expected = x - 0.02 * torch.kron(sums[:, :2, :2].sign(), torch.ones(8, 8))
    assert torch.allclose(result.adversarial, expected, atol=1e-6)


def test_odd_sizes_and_small_batches_do_not_matter(linear, images) -> None:
    x = images[..., :13, :11]
    for batch in (5, 1000):
        attack = load_attack(f"parsimonious[queries=6000,block=4,batch={batch}]")
        result = attack(load_defense("none", linear), x, Linf(0.02))
        assert np.allclose(result.gain, optimum(linear, x, Linf(0.02)), rtol=1e-4)


def test_what_depends_on_other_blocks_is_taken_back() -> None:
    """On `bowl` raising all values overshoots: only as many as bring the mean square down stay up."""
    x = torch.full((1, 3, 8, 8), 0.52)
    result = load_attack("parsimonious[queries=4000,block=4]")(load_defense("none", load_metric("bowl")), x, Linf(0.05))
    assert torch.allclose(result.adversarial, torch.full_like(x, 0.57))


def test_a_block_that_was_lucky_is_asked_again() -> None:
    """Behind a randomised defence the first of the queue is not flipped on its first answer."""
    x = torch.full((3, 2, 2), 0.5)
    signs = torch.full_like(x, -1.0)
    defended: Any = SimpleNamespace(g=SimpleNamespace(randomised=True))
    walk = Walk(x, Linf(0.1), defended, x)
    lucky, good = Block(0, slice(0, 1), slice(0, 1)), Block(1, slice(0, 1), slice(0, 1))
    # The point at hand and the proposal, each time: lucky +10, good +1; asked again: lucky -5, good +1, lucky -5.
    answers = iter([0, 10, 0, 1, 0, -5, 0, 1, 0, -5])
    search = _greedy(walk, signs, [lucky, good], 1.0)
    next(search)
    flipped = None
    try:
        for answer in answers:
            search.send(float(answer))
    except StopIteration as end:
        flipped = end.value
    assert flipped == 1
    assert signs[1, 0, 0] == 1
    assert signs[0, 0, 0] == -1
    assert next(answers, None) is None, "all were asked"


def test_parsimonious_works_in_linf_only(linear, images) -> None:
    with pytest.raises(Incompatible, match="linf"):
        load_attack("parsimonious")(load_defense("none", linear), images, L2(0.5))


# --- few pixels


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_one_pixel_is_the_best_pixel_of_a_linear_metric(images, norm) -> None:
    """Where neighbours matter alike it is found on a whole image; where nothing leads to it, among a few pixels."""
    threat = L2(0.1) if norm == "l2" else Linf(0.1)
    for smooth, x in ((True, images[:2]), (False, images[:2, :, :8, :8])):
        metric: Any = load_metric("linear")
        if smooth:
            rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
            bump = torch.exp(-((rows - 31).square() + (columns - 17).square()) / 400)
            metric.module.w.copy_(bump * torch.tensor([0.5, -1.0, 0.7])[:, None, None])
        w = metric.module.weights(x).double()
        best = 0.1 * float((w.norm(dim=0) if norm == "l2" else w.abs().sum(0)).max())
        result = load_attack("one-pixel[queries=2500,population=100]")(load_defense("none", metric), x, threat)
        assert np.all(result.gain >= (0.99 if smooth else 0.85) * best)
        assert np.all(result.gain <= best * (1 + 1e-4))
        assert ((result.adversarial - x).abs().amax(1) > 0).sum((1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("threat", [Linf(1.0), Linf(0.03), L2(0.4)], ids=str)
def test_as_many_pixels_as_were_asked_for(linear, images, threat) -> None:
    result = load_attack("one-pixel[pixels=5,queries=300]")(load_defense("none", linear), images, threat)
    moved = ((result.adversarial - images).abs().amax(1) > 0).sum((1, 2))
    assert moved.max() <= 5
    assert moved.min() >= 3
    if threat.eps == 1:
        assert result.linf.min() > 0.4, "any colour at all"


def test_children_are_those_of_differential_evolution(linear, images) -> None:
    """Each is a + (b - c) / 2 for some three others of its generation."""
    attack: Any = load_attack("one-pixel[population=5,pixels=2]")
    objective = Objective(load_defense("none", linear), [image_key(images[0])])
    people = torch.rand(5, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    children = attack._children(Walk(images[0], L2(0.5), objective, images[0]), people)
    for k, child in enumerate(children):
        others = itertools.permutations([people[j] for j in range(5) if j != k], 3)
        assert any(torch.allclose(child, (a + (b - c) / 2).clamp(0, 1)) for a, b, c in others)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), Linf(1.0)], ids=str)
def test_a_patch_is_one_square_and_the_best_at_its_place(linear, images, threat) -> None:
    result = load_attack("patch-search[area=17,queries=1500]")(load_defense("none", linear), images, threat)
    signs, side = linear.module.weights(images).sign(), 4
    for x, z in zip(images, result.adversarial, strict=True):
        moved = torch.nonzero((z - x).abs().amax(0) > 0)
        top, left = moved.amin(0).tolist()
        assert int((moved.amax(0) - moved.amin(0)).max()) < side
        window = (slice(None), slice(top, top + side), slice(left, left + side))
        radius = threat.eps / (3 * side**2) ** 0.5 if threat.norm == "l2" else threat.eps
        best = (x + radius * signs)[window].clamp(0, 1)
        agree = torch.isclose(z[window], best, atol=1e-5).float().mean()
        assert float(agree) >= 0.95
        if threat.eps == 1:
            assert set(z[window].flatten().tolist()) == {0.0, 1.0}, "the paper's attack: dark or bright, no bound"


def test_a_patch_goes_to_where_it_counts(images) -> None:
    """Weights in one corner only."""
    metric: Any = load_metric("linear")
    metric.module.w[:, 12:] = 0
    metric.module.w[:, :, 12:] = 0
    result = load_attack("patch-search[area=36,queries=800]")(load_defense("none", metric), images, Linf(0.1))
    w = metric.module.weights(images).abs().sum(0)
    best = 0.1 * 36 * torch.nn.functional.avg_pool2d(w[None, None], 6, 1).max()
    assert np.all(result.gain >= 0.5 * float(best)), "most places give nothing"
    assert result.gain.mean() >= 0.75 * float(best)


def test_patches_fit_small_images(linear, images) -> None:
    result = load_attack("patch-search[area=2000,queries=50]")(
        load_defense("none", linear), images[..., :9, :20], L2(0.5)
    )
    assert np.all(result.l2 > 0.3)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_single_sign_is_the_sum_of_the_weights(images, threat) -> None:
    for name, direction in itertools.product(("linear", "linear-dmos"), ("up", "down")):
        metric = load_metric(name)
        result = load_attack("single-sign")(load_defense("none", metric), images, threat, direction)
        size = 1 if threat.norm == "linf" else images[0].numel() ** -0.5
        best = threat.eps * size * abs(float(metric.module.weights(images).double().sum()))  # type: ignore[operator]
        assert np.allclose(result.gain * (1 if direction == "up" else -1), best, rtol=1e-3)


# --- just noticeable differences


def _chou_li(image: np.ndarray) -> np.ndarray:
    """Thresholds (H,W) in grey levels for (3,H,W) in [0,1], by scipy and from the published weights."""
    y = 255 * np.tensordot([0.299, 0.587, 0.114], image.astype(np.float64), 1)
    ring = np.ones((5, 5))
    ring[1:4, 1:4] = 2
    ring[2, 2] = 0
    straight = np.zeros((5, 5))
    straight[1], straight[3] = [1, 3, 8, 3, 1], [-1, -3, -8, -3, -1]
    tilted = np.zeros((5, 5))
    tilted[0, 2] = tilted[2, 0] = 1
    tilted[1, 1], tilted[1, 2], tilted[2, 1] = 8, 3, 3
    tilted -= tilted[::-1, ::-1]
    kernels = [straight, straight.T, tilted, tilted[:, ::-1]]
    slope = np.max([np.abs(ndimage.correlate(y, k / 16, mode="nearest")) for k in kernels], axis=0)
    mean = ndimage.correlate(y, ring / 32, mode="nearest")
    contrast = slope * (mean * 0.0001 + 0.115) + 0.5 - 0.01 * mean
    dark = 17 * (1 - np.sqrt(np.minimum(mean, 127) / 127)) + 3
    return np.maximum(contrast, np.where(mean <= 127, dark, 3 / 128 * (mean - 127) + 3))


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 30:94, 30:94] for i in (0, 4, 8)])


def test_thresholds_are_those_of_chou_and_li(photographs) -> None:
    found = 255 * noticeable(photographs)[:, 0].numpy()
    assert np.allclose(found, [_chou_li(image.numpy()) for image in photographs], atol=2e-3)
    for level, expected in ((0, 20), (127, 3), (255, 6)):
        flat = torch.full((1, 3, 8, 8), level / 255)
        assert np.allclose(255 * noticeable(flat).numpy(), expected, atol=0.05)


@pytest.mark.parametrize(("threat", "share"), [(L2(5.0), 0.38), (Linf(0.5), 1.0), (Linf(1 / 255), 0.38)], ids=str)
def test_no_value_moves_by_more_than_its_threshold(photographs, threat, share) -> None:
    g = load_defense("none", load_metric("tiny-iqa"))
    result = load_attack(f"jnd-search[queries=120,per_round=30,jnd={share}]")(g, photographs, threat)
    bounds = [share * _chou_li(image.numpy()) / 255 for image in photographs]
    moved = (result.adversarial - photographs).abs().amax(1).numpy()
    assert np.all(moved <= np.minimum(bounds, threat.eps) + 1e-5)
    assert np.all(result.gain > 0)
    if threat.eps == 0.5:
        assert (moved / bounds).max() > 0.9, "the threshold binds, not the ball"


def test_scores_are_moved_both_ways(photographs) -> None:
    """And the further the more queries there are: white weights as on the linear metric give patterns nothing."""
    g = load_defense("none", load_metric("tiny-iqa"))
    signs: dict[Direction, int] = {"up": 1, "down": -1}
    for direction, sign in signs.items():
        few, many = (
            sign * load_attack(f"jnd-search[queries={q}]")(g, photographs[:2], Linf(8 / 255), direction).gain
            for q in (10, 200)
        )
        assert np.all(few >= 0)
        assert many.mean() > 1.1 * few.mean()


def grey_walk(linear: Metric) -> tuple[Walk, torch.Tensor]:
    """A search that stands at a grey image of 12x12, without a bound to speak of; and the metric's weights there."""
    x = torch.full((3, 12, 12), 0.5)
    objective = Objective(load_defense("none", linear), [image_key(x)])
    walk = Walk(x, Linf(1.0), objective, x, float(linear(x[None])))
    return walk, linear.module.weights(x[None])  # type: ignore[operator]


def test_the_search_along_a_boundary_comes_nearer_to_the_closest_point(linear) -> None:
    """On a linear metric the point of a boundary that lies nearest is that along the weights."""
    walk, w = grey_walk(linear)
    boundary = Boundary(walk, torch.ones(1, 12, 12), walk.value + 0.01)
    noise = torch.randn(walk.x.shape, generator=torch.Generator().manual_seed(4))

    # Over the boundary with a large part that does nothing for it.
    first = walk.x + 0.02 * w / w.square().sum() + 0.4 * noise / noise.norm()
    assert answered(boundary.crosses(first), walk.objective)
    shortest, lengths = 0.01 / float(w.norm()), [boundary.distance]
    for _ in range(4):
        answered(boundary.shorten(250), walk.objective)
        lengths.append(boundary.distance)
        assert float(linear(boundary.near[None])) == pytest.approx(boundary.value)
        assert boundary.value > boundary.goal
    assert lengths == sorted(lengths, reverse=True)
    assert shortest <= lengths[-1] < 2 * shortest < 6 * shortest < lengths[0]


def answered(search: Any, objective: Objective) -> Any:
    """What a search returns whose images are scored by an objective."""
    try:
        z = next(search)
        while True:
            z = search.send(float(objective.query(z[None])))
    except StopIteration as end:
        return end.value


def test_a_step_that_is_too_long_is_cut_by_bisection(linear) -> None:
    """Straight beyond the boundary by five times its distance: ten halvings leave a thousandth of that."""
    walk, w = grey_walk(linear)
    boundary = Boundary(walk, torch.ones(1, 12, 12), walk.value + 0.01)
    assert answered(boundary.crosses(walk.x + 0.05 * w / w.square().sum()), walk.objective)
    answered(boundary.shorten(10), walk.objective)
    shortest = 0.01 / float(w.norm())
    assert shortest <= boundary.distance <= (1 + 6 / 1024) * shortest


def test_a_turn_ends_where_the_score_does(linear) -> None:
    """Along a, turned towards b, the score rises by L cos(t) (cos(t) <a,w> + sin(t) <b,w>): the last t is known."""
    walk, w = grey_walk(linear)
    left = torch.arange(12) < 6
    a, b = (torch.where(side, w, 0.0) for side in (left, ~left))
    slopes = float(a.norm()), float(b.norm())
    length, goal = 0.5, 0.25 * slopes[0]
    boundary = Boundary(walk, torch.ones(1, 12, 12), walk.value + goal)
    assert answered(boundary.crosses(walk.x + length * a / a.norm()), walk.objective)
    assert answered(boundary._turn(length, a / a.norm(), b / b.norm(), 30.0), walk.objective)
    t = np.radians(np.linspace(0, 90, 90_001))
    rise = length * np.cos(t) * (np.cos(t) * slopes[0] + np.sin(t) * slopes[1])
    nearest = length * np.cos(t[rise > goal].max())
    assert nearest - 1e-4 <= boundary.distance <= nearest + 0.01 * length + 1e-4


def test_directions_are_low_and_orthogonal(linear) -> None:
    x = torch.rand(3, 10, 14, generator=torch.Generator().manual_seed(2))
    objective = Objective(load_defense("none", linear), [image_key(x)])
    boundary = Boundary(Walk(x, L2(0.5), objective, x), torch.ones(1, 10, 14), 0.0)
    first = boundary._direction([])
    spectrum = np.abs(np.asarray(fft.dctn(first.numpy(), axes=(1, 2), norm="ortho")))
    high = np.add.outer(np.arange(10) / 10, np.arange(14) / 14) >= 1
    assert spectrum[:, high].max() < 1e-5
    assert np.ptp(spectrum[:, ~high][spectrum[:, ~high] > 1e-3]) < 1e-5, "signs of one size, or nothing"
    assert 0.5 < (spectrum[:, ~high] > 1e-3).mean() < 0.8
    second = boundary._direction([first])
    assert float((first * second).sum()) == pytest.approx(0, abs=1e-5)
    assert float(second.norm()) == pytest.approx(1, abs=1e-5)


def test_a_lone_object_is_salient() -> None:
    x = 0.4 + 0.02 * torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    x[..., 30:34, 60:64] = 0.9
    found = salient(x)[0, 0]
    assert bool(found[32, 62])
    assert not bool(found[:, :40].any())
    assert float(found.float().mean()) < 0.05


def test_patterns_have_no_low_frequencies(photographs) -> None:
    y = luma(photographs)[:, 0].numpy()
    expected = y - np.stack([ndimage.uniform_filter(one, 3, mode="nearest") for one in y])
    expected /= expected.std(axis=(1, 2), ddof=1)[:, None, None]
    assert np.allclose(high_frequencies(photographs)[:, 0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("text", [
    "parsimonious[block=3]", "parsimonious[queries=1]", "parsimonious[batch=0]", "square[queries=5,repeats=3]",
    "one-pixel[pixels=0]", "one-pixel[population=3]", "one-pixel[queries=59]", "patch-search[area=0]",
    "patch-search[p=2]", "patch-search[queries=1]", "jnd-search[jnd=0]", "jnd-search[repeats=0]", "jnd-search[tries=0]",
])  # fmt: skip
def test_impossible_settings_are_named(text) -> None:
    with pytest.raises(BadParameter, match=r"expected|one step takes \d+ queries"):
        load_attack(text)
