"""Attacks: against the bare network's forwards and backwards, and against torchattacks and foolbox."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from robustiqa.attacks import L2, load_attack
from robustiqa.attacks.base import Attack
from robustiqa.attacks.torchattacks_bridge import INSTALL, SHIFT
from robustiqa.bench.api import AttackResult, DefendedMetric
from torch import nn

from .interleave import Work, as_told, by_clock, equal, told
from .subjects import SMALL, Best, bare, best, counted, defended, mean_score, photographs, shown
from .tables import Settings, Table, compare

THREAT = L2(0.5)
STEP = 0.2
DRAWS = 8
SAME_GAIN = 0.02
"""Share by which the gains of two attacks may differ that are compared as equal."""

_HOW = """The search of the attack: steps along the gradient through the defence, and the choice of the best
point. The bare network does as many forwards and backwards to the pixels as the attack counts, in the batch
size (with backwards: of at most the images that a step has) and memory order that were fastest for it in trials
before, one batch at a time in all threads or one in each. "whole call" also has the judgement: clean, attacked and
8-bit score on fresh draws, norms, PSNR, SSIM."""

_PEERS_HOW = """Projected gradient ascent in l2, eps 0.5, with the same steps of the same length from the image
itself, on the same batch. The peers attack the bare network behind two logits (0, score + 200), without
anything of ours. Forwards and backwards are counted, and the mean gains agree within 2 %: otherwise there is no
ratio. Ours is the search (it scores the last point too, and takes the best one); "ours, whole call" also
judges, which the peers leave to their user."""

_DIRECTIONS_HOW = """Upwards and downwards in one batch (`Attack.both`), and by two calls, the second of which is given
the clean scores of the first. Both find the same, up to rounding; judgements included. Images of a call are shared
out among threads either way."""


def attack(settings: Settings) -> Iterator[Table]:
    """An attack's search over the bare network's forwards and backwards."""
    plain, adaptive = ("pgd[steps=3]", 2), (f"eot-pgd[draws={DRAWS},steps=3]", 1)
    if not settings.quick:
        plain, adaptive = ("pgd[steps=20]", 8), (f"eot-pgd[draws={DRAWS},steps=10]", 2)
    subjects = {"none": plain, "median-smoothing[m=31]": adaptive, "dms-iqa[m=31]": adaptive}
    for spec, (name, images) in subjects.items():
        g, x = defended(spec, settings), photographs(images, SMALL, settings.device)
        a_step = images * (DRAWS if g.randomised else 1)
        fast, slow = best(g, SMALL, settings), best(g, SMALL, settings, backward=True, most=a_step)
        yield searched(g, x, name, fast, slow, settings)


def searched(
    g: DefendedMetric,
    x: torch.Tensor,
    name: str,
    fast: tuple[Best, torch.Tensor],
    slow: tuple[Best, torch.Tensor],
    settings: Settings,
) -> Table:
    """The table of one attack on images x (B,3,H,W); `fast` and `slow` are the bare network's best settings."""
    run = load_attack(name)
    first = run(g, x, THREAT)
    forwards, backwards = int(first.forwards.sum()), int(first.backwards.sum())

    def network() -> float:
        return by_clock(lambda: (fast[0].forward(fast[1], forwards - backwards), slow[0].backward(slow[1], backwards)))

    def search() -> float:
        result = run(g, x, THREAT)
        equal("forwards", int(result.forwards.sum()), forwards)
        equal("backwards", int(result.backwards.sum()), backwards)
        return searching(result)

    return compare(
        {"bare network": network, "search": search, "whole call": lambda: by_clock(lambda: run(g, x, THREAT))},
        settings,
        read=as_told,
        name=f"attack-{'-'.join(part.split('[')[0] for part in (name, g.spec))}",
        title=f"Attack: `{name}` on `{g.spec}`, {counted(len(x), 'image')} of {shown(SMALL)}",
        how=_HOW,
        baseline="bare network",
        reads="speed",
        notes=[f"{forwards - backwards} forwards and {backwards} forwards with backwards. Bare network: forwards in "
               f"{fast[0]}; with backwards in {slow[0]}."],
    )  # fmt: skip


def directions(settings: Settings) -> Iterator[Table]:
    """Upwards and downwards in one batch, and one after the other."""
    for images in (1,) if settings.quick else (1, 2, 8):
        name = "pgd[steps=3]" if settings.quick else "pgd[steps=20]"
        g, run, x = defended("none", settings), load_attack(name), photographs(images, SMALL, settings.device)
        assert isinstance(run, Attack)

        def twice(g: DefendedMetric = g, run: Attack = run, x: torch.Tensor = x) -> list[AttackResult]:
            up = run(g, x, THREAT, "up")
            return [up, run(g, x, THREAT, "down", clean=up.clean)]

        for together, alone in zip(run.both(g, x, THREAT).values(), twice(), strict=True):
            equal("mean gain", float(together.gain.mean()), float(alone.gain.mean()), SAME_GAIN)
        yield compare(
            {"two calls": twice, "in one batch": lambda g=g, run=run, x=x: run.both(g, x, THREAT)},
            settings,
            name=f"directions-{images}",
            title=f"Both directions: `{name}` on `none`, {counted(images, 'image')} of {shown(SMALL)}",
            how=_DIRECTIONS_HOW,
            baseline="two calls",
            reads="cost",
        )


def searching(result: AttackResult) -> float:
    """Seconds of an attack without its judgement, all images together."""
    return float(np.sum(result.seconds))


class Logits(nn.Module):
    """The score as the second of two logits, as a user of torchattacks would write it: (N,3,H,W) to (N,2)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)  # torchattacks asks parameters for the device
        self.eval()

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N,)."""
        return self.net(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N,2); the shift keeps the cross-entropy of label 0 in its linear part."""
        score = self.score(x)
        return torch.stack([torch.zeros_like(score), score + SHIFT], dim=1)


class Contiguous(nn.Module):
    """A network whose gradient is contiguous: torchattacks views it, which that of a channels-last network refuses."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network gives."""
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(torch.Tensor.contiguous)
        return self.net(x)


class Counted(Logits):
    """Logits with the gradients of images counted, for a look before the clock starts."""

    backwards = 0

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N,) that report when a gradient passes."""
        score = self.net(x)
        if score.requires_grad:
            score.register_hook(self._passed)
        return score

    def _passed(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


class Peer(NamedTuple):
    """An attack of others.

    Attributes:
        package: what has to be installed.
        install: how.
        run: two logits, images (B,3,H,W) and steps to adversarial images.
        contiguous: whether it needs a contiguous gradient.
    """

    package: str
    install: str
    run: Callable[[nn.Module, torch.Tensor, int], torch.Tensor]
    contiguous: bool = False


def torchattacks_pgd(net: nn.Module, x: torch.Tensor, steps: int) -> torch.Tensor:
    """PGDL2 of torchattacks; raises ImportError where it is not installed."""
    torchattacks: Any = importlib.import_module("torchattacks")
    run = torchattacks.PGDL2(net, eps=THREAT.eps, alpha=STEP * THREAT.eps, steps=steps, random_start=False)
    return run(x, torch.zeros(len(x), dtype=torch.long, device=x.device))


def foolbox_pgd(net: nn.Module, x: torch.Tensor, steps: int) -> torch.Tensor:
    """L2PGD of foolbox; raises ImportError where it is not installed."""
    foolbox: Any = importlib.import_module("foolbox")
    run = foolbox.attacks.L2PGD(rel_stepsize=STEP, steps=steps, random_start=False)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    goal = foolbox.criteria.Misclassification(labels)
    return run.run(foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device), x, goal, epsilon=THREAT.eps)


PEERS: Mapping[str, Peer] = {
    "torchattacks PGDL2": Peer("torchattacks", INSTALL, torchattacks_pgd, contiguous=True),
    "foolbox L2PGD": Peer("foolbox", "pip install foolbox", foolbox_pgd),
}


def peers(settings: Settings) -> Iterator[Table]:
    """Ours against torchattacks and foolbox on the undefended metric."""
    for images, steps in ((2, 3),) if settings.quick else ((1, 20), (8, 20), (8, 50)):
        g = defended("none", settings)
        run, x = load_attack(f"pgd[steps={steps},step={STEP}]"), photographs(images, SMALL, settings.device)
        net = bare(g)
        ours = run(g, x, THREAT)
        clean = mean_score(net, x)
        gain = mean_score(net, ours.adversarial) - clean
        works: dict[str, Work] = {
            "ours": lambda run=run, g=g, x=x: searching(run(g, x, THREAT)),
            "ours, whole call": lambda run=run, g=g, x=x: by_clock(lambda: run(g, x, THREAT)),
        }
        notes, errors = [f"Mean gain of ours: {gain:.2f} points of the metric's scale of 100."], {}
        for row, peer in PEERS.items():
            if importlib.util.find_spec(peer.package) is None:
                notes.append(f"{row}: absent, since {peer.package} is not installed ({peer.install}).")
                continue
            seen = Contiguous(net) if peer.contiguous else net
            try:
                logits = Counted(seen)
                theirs = peer.run(logits, x, steps).detach()
                equal(f"backwards of {row}", logits.backwards, int(ours.backwards.sum()))
                equal(f"mean gain, ours and {row}", gain, mean_score(net, theirs) - clean, SAME_GAIN)
            except Exception as error:
                errors[row] = told(error)
                continue
            logits = Logits(seen)
            works[row] = lambda run=peer.run, view=logits, x=x, steps=steps: by_clock(lambda: run(view, x, steps))
        made = compare(
            works, settings, read=as_told,
            name=f"peers-{images}-{steps}",
            title=f"Peers: {steps} steps of l2 PGD on {counted(images, 'image')} of {shown(SMALL)}",
            how=_PEERS_HOW, baseline="ours", reads="cost", notes=notes,
        )  # fmt: skip
        made.errors |= errors
        yield made
