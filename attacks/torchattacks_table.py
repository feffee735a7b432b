"""Which attacks of torchattacks 3.5.1 run on a score within a budget, how they are called; why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..bench.api import Norm, Threat
from ..bench.spec import Value

Given = Mapping[str, Any]


class Parameter(NamedTuple):
    """A parameter by our name.

    Attributes:
        kind: its annotation.
        default: where the attack has no other.
        low, high: what is accepted.
        what: its meaning.
    """

    kind: str
    default: Value
    low: float
    high: float
    what: str


_INF = float("inf")
PARAMETERS = {
    "steps": Parameter("int", 10, 1, _INF, "gradient steps"),
    "step": Parameter("float | None", None, 1e-9, _INF, "step size as a fraction of eps; none for 2.5 / steps"),
    "random_start": Parameter("bool", True, 0, 1, "as in torchattacks"),
    "draws": Parameter("int", 8, 1, _INF, "draws of a randomised defence in a step (EOT)"),
    "noise": Parameter("float", 0.12, 1e-9, _INF, "standard deviation of the Gaussian noise that it adds itself"),
    "copies": Parameter("int", 5, 1, _INF, "noisy copies in a step"),
    "diversity": Parameter("float", 0.5, 0, 1, "chance of a resized copy, which is square whatever the image is"),
    "pairs": Parameter("int", 64, 1, _INF, "antithetic pairs in a step"),
    "radius": Parameter("float", 0.01, 1e-9, _INF, "distance of a pair's points from the image, in pixel values"),
    "queries": Parameter("int", 1000, 2, _INF, "most calls of the deployed score"),
}


def _plain(attack: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return attack(x, label)


def _apgd(attack: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Its normal call attacks no image whose label is wrong already, and returns it clean."""
    return attack.perturb(x, label, best_loss=True)[1]


def _square(attack: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Its normal call keeps only images whose label has flipped."""
    attack.init_hyperparam(x)
    return attack.attack_single_run(x, label)[1]


def _square_arguments(given: Given, x: torch.Tensor) -> dict[str, Any]:
    """The first point costs a query too; and its squares, up to a side longer in l2, have to fit into the image."""
    height, width = x.shape[2:]
    fits = (min(height, width) - 1) ** 2 / (height * width)
    return {"n_queries": given["queries"] - 1, "p_init": min(0.8, fits)}


@dataclass(frozen=True)
class Peer:
    """How an attack of torchattacks is called.

    Attributes:
        kind: its class.
        what: rest of the first line of its description.
        norms: norms that it works in; with both it has an argument `norm`.
        keys: our parameters, and its argument for each.
        defaults: where they differ from `PARAMETERS`.
        eps: its argument for the budget.
        more: further arguments, from parameters and image.
        call: how it is run on (1,3,H,W) and the label.
        relative: whether its loss saturates far from 0, so that it needs the score relative to the clean one.
        count: queries that it makes, for an attack that takes scores only.
    """

    kind: str
    what: str
    norms: tuple[Norm, ...] = ("linf",)
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Value] = field(default_factory=dict)
    eps: str = "eps"
    more: Callable[[Given, torch.Tensor], dict[str, Any]] = lambda given, x: {}
    call: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] = _plain
    relative: bool = False
    count: Callable[[Given], int] | None = None

    def arguments(self, given: Given, x: torch.Tensor, threat: Threat) -> dict[str, Any]:
        """What its constructor gets beside the model."""
        found = {theirs: given[ours] for ours, theirs in self.keys.items()}
        if "step" in self.keys:
            step = 2.5 / given.get("steps", 1) if given["step"] is None else given["step"]
            found[self.keys["step"]] = step * threat.eps
        if len(self.norms) == 2:
            found["norm"] = "L2" if threat.norm == "l2" else "Linf"
        return found | {self.eps: threat.eps} | self.more(given, x)


_STEPS = {"steps": "steps", "step": "alpha"}
_START = {**_STEPS, "random_start": "random_start"}
_DIVERSE = {**_START, "diversity": "diversity_prob"}
_NOISY = {**_STEPS, "noise": "noise_sd", "copies": "noise_batch_size"}
_PATCH = {"steps": "num_iter_set"}
_NO_START = {"random_start": False}

PEERS = {
    f"torchattacks-{peer.kind.lower()}": peer
    for peer in (
        Peer("FGSM", "one signed step"),
        Peer("BIM", "signed steps from the image", keys=_STEPS),
        Peer("RFGSM", "signed steps from a random corner", keys=_STEPS),
        Peer("PGD", "signed steps from a random start, last iterate", keys=_START),
        Peer("PGDL2", "normalised steps from a random start, last iterate", ("l2",), _START),
        Peer("EOTPGD", "signed steps along the sum of several draws' gradients", keys={**_START, "draws": "eot_iter"}),
        Peer("FFGSM", "one signed step from a random start", keys={"step": "alpha"}, defaults={"step": 1.25}),
        Peer("MIFGSM", "signed steps with momentum", keys=_STEPS),
        Peer("NIFGSM", "signed steps with Nesterov momentum", keys=_STEPS),
        Peer("SINIFGSM", "Nesterov momentum on copies of lower contrast", keys=_STEPS),
        Peer("VMIFGSM", "momentum with variance tuning", keys=_STEPS),
        Peer("VNIFGSM", "Nesterov momentum with variance tuning", keys=_STEPS),
        Peer("DIFGSM", "signed steps on randomly resized copies", keys=_DIVERSE, defaults=_NO_START),
        Peer("TIFGSM", "gradients blurred, on randomly resized copies", keys=_DIVERSE, defaults=_NO_START),
        Peer("PIFGSM", "patch-wise steps of ten times the size", keys=_PATCH, eps="max_epsilon"),
        Peer("PIFGSMPP", "patch-wise steps along blurred gradients", keys=_PATCH, eps="max_epsilon"),
        Peer("UPGD", "PGD with momentum and several draws", keys={**_START, "draws": "eot_iter"}, defaults=_NO_START),
        Peer("APGD", "Auto-PGD on the cross-entropy, from a random start", ("l2", "linf"),
             {"steps": "steps", "draws": "eot_iter"}, {"steps": 20}, call=_apgd),
        Peer("PGDRS", "signed steps on noisy copies of the image", keys=_NOISY, relative=True),
        Peer("PGDRSL2", "normalised steps on noisy copies of the image", ("l2",), _NOISY, relative=True),
        Peer("SPSA", "Adam on gradients estimated from random signs",
             keys={"steps": "nb_iter", "step": "lr", "pairs": "nb_sample", "radius": "delta"},
             count=lambda given: 2 * given["steps"] * given["pairs"]),
        Peer("Square", "random search over squares", ("l2", "linf"), {"queries": "n_queries"},
             more=_square_arguments, call=_square, count=lambda given: given["queries"]),
    )
}  # fmt: skip

_FLIP = "it looks for the smallest change that flips a label, and a score has no label: use minimal-eps"
UNSUITABLE = {
    "VANILA": "it returns the image as it is",
    "GN": "Gaussian noise of a fixed size, whatever the score: use random-noise",
    "TPGD": "it leaves the clean probabilities, which are 0 and 1 in the two-logit view: the gradient is 0",
    "Jitter": "it divides the logits by the largest, and a score by itself is 1: only rounding is left of the gradient",
    "APGDT": "its loss compares the four largest of many logits",
    "AutoAttack": "its APGDT, APGD with the ratio of logits, and FAB need many classes: use auto-iqa",
    "FAB": _FLIP,
    "CW": _FLIP,
    "DeepFool": _FLIP,
    "EADEN": _FLIP,
    "EADL1": f"{_FLIP}; and it works in l1",
    "SparseFool": f"{_FLIP}; and it works in l0",
    "JSMA": "its saliency is one of classes, and it works in l0",
    "OnePixel": "it works in l0: a pixel may take any value",
    "Pixle": "it works in l0: it exchanges pixels",
    "MultiAttack": "it runs several attacks until a label flips: use auto-iqa",
    "LGV": "it trains the classifier further, on a data set",
}
"""Why an attack of torchattacks is not bridged, by its name there."""
