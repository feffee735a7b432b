"""Defences by training for `tiny-iqa`: gradient norm, adversarial training, noise; the whole network is fine-tuned."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..datasets.clive import Clive
from ..errors import BadParameter
from ..images import to_uint8
from ..measures import srocc
from ..metrics.tiny_iqa import WEIGHTS, TinyIQA, tiny_iqa
from .evaluate import evaluate_metric, pgd_gain
from .loop import Learner, run_steps, save_weights, threads, training_identity
from .losses import rated_losses, rated_sum
from .metric import PLACES, MetricTrainConfig, train_metric
from .robust_card import robust_card
from .robust_terms import adversarial_images, gradient_norm, penalised
from .sources import clive_photographs, crop
from .synthetic import VERSIONS, Groups, make_groups
from .variants import NAMED_BY, file_name
from .views import batch, tensor

COMMON = (
    *("defense", "start", "seed", "groups", "crop", "group_weight", "weight_decay", "limit"),
    *("tune_steps", "tune_groups", "tune_rated", "tune_side", "tune_lr", "validate_every"),
)
"""Settings of every defence by training, beside those of the one alone and the places."""
OWN = {
    "gradient-norm": ("penalty", "h"),
    "adversarial": ("attack", "eps", "ramp", "attack_steps", "labels", "label_penalty"),
    "noise": ("sigma",),
}
"""Settings of each defence by training alone."""
FGSM_STEP = 1.25
"""Step of the one-step attack, in radii: 5/255 for 4/255, as Chistyakova et al. have it."""
PGD_STEP = 0.25
"""Step of the iterative attack, in radii: 2/255 for 8/255, as Madry et al. (2018) have it.

Longer steps are no substitute for more of them: three of a whole radius gain 19 points on the undefended network, where
three of a quarter gain 55, and training against the long ones taught the network to mislead those only.
"""


@dataclass(frozen=True)
class RobustTrainConfig(MetricTrainConfig):
    """Settings of `robustiqa train metric`; with a defence, the trained network is fine-tuned to withstand attacks.

    Attributes:
        defense: gradient-norm, adversarial or noise; empty trains the plain metric.
        start: weights from which a defence starts, and whose scores it keeps; empty means the shipped ones.
        tune_steps: steps of a defence.
        tune_groups: synthetic groups in a batch of a defence.
        tune_rated: crops of CLIVE images in a batch of a defence.
        tune_side: side of these crops in pixels; a small part of an image says less of the score of the whole.
        tune_lr: largest learning rate of a defence.
        penalty: gradient-norm: weight of the squared norm, in scales per unit of pixel value.
        h: gradient-norm: step of the finite difference.
        attack: adversarial: fgsm (one step from the image) or pgd (random start).
        eps: adversarial: l_inf radius in units of 1/255.
        ramp: adversarial: share of the steps in which the radius rises from zero; 0 for the whole radius at once.
        attack_steps: adversarial: steps of pgd, each of eps/4.
        labels: adversarial: plain (the clean label) or ssim (less by what the attack costs in SSIM).
        label_penalty: adversarial: points in a hundred that labels lose for each point in a hundred of SSIM.
        sigma: noise: standard deviation in [0,1] pixel units.
        validate_every: steps between validations on CLIVE's validation split; 0 for none.
    """

    defense: str = ""
    start: str = ""
    tune_steps: int = 250
    tune_groups: int = 3
    tune_rated: int = 12
    tune_side: int = 160
    tune_lr: float = 5e-4
    penalty: float = 1e-3
    h: float = 0.01
    attack: str = "fgsm"
    eps: float = 4.0
    ramp: float = 0.0
    attack_steps: int = 4
    labels: str = "plain"
    label_penalty: float = 1.0
    sigma: float = 0.06
    validate_every: int = 250


def train_robust_metric(config: RobustTrainConfig, say: Callable[[str], None] = print) -> Path:
    """Train `tiny-iqa`, or fine-tune it with a defence; an interrupted run of the same settings goes on.

    Args:
        config: the settings.
        say: prints a progress line.

    Returns:
        path of the weights in OUT, `tiny-iqa.safetensors` or `variants.file_name`; beside it lie the model card,
        checkpoints and CSV logs.

    Raises:
        BadData: CLIVE is missing, or a checkpoint or the weights to start from are corrupt.
        BadParameter: impossible settings, settings of another training, or the folder holds a run of others.
    """
    check_robust_settings(config)
    if not config.defense:
        plain = {field.name: getattr(config, field.name) for field in dataclasses.fields(MetricTrainConfig)}
        return train_metric(MetricTrainConfig(**plain), say)
    settings = {key: getattr(config, key) for key in OWN[config.defense]}
    path = Path(config.out) / file_name(config.defense, settings, "tiny-iqa")
    net = tiny_iqa(config.start)
    start = hashlib.sha256(Path(config.start or WEIGHTS).read_bytes()).hexdigest()
    photographs, mos, data_hash = clive_photographs(config.data_root, "train", config.limit)
    with threads(config.threads):
        say(f"making {config.groups} groups of {VERSIONS} versions from {len(photographs)} photographs")
        groups = make_groups(photographs, config.groups, config.crop, config.seed)
        identity = training_identity(config, (*PLACES, "start", "validate_every"), data=data_hash, start=start)
        tuner = Tuner(config, net, groups, photographs, mos)
        run_steps(
            tuner.learner,
            tuner.step,
            steps=config.tune_steps,
            out=Path(config.out),
            stage=path.stem,
            identity=identity,
            checkpoint_every=config.checkpoint_every,
            log_every=config.log_every,
            say=say,
            validate=Validation(config.data_root, tuner.averaged) if config.validate_every else None,
            validate_every=config.validate_every,
        )
        tuned = tuner.averaged()
        weights = save_weights(tuned, path, {"defense": config.defense, "metric": "tiny-iqa", **settings})
        say("evaluating")
        report = evaluate_metric(tuned, config.data_root, config.photographs, ("val", "test"), seed=config.seed)
    robust_card(config, path.with_suffix(".csv"), data_hash, start, report).write(weights)
    return weights


def check_robust_settings(config: RobustTrainConfig) -> None:
    """Raise `BadParameter` for an unknown defence, settings of another training, and values out of range."""
    if config.defense not in ("", *NAMED_BY):
        raise BadParameter(f"training settings: defense must be empty or one of {', '.join(NAMED_BY)}")
    plain = {field.name for field in dataclasses.fields(MetricTrainConfig)}
    used = {*PLACES, *COMMON, *OWN[config.defense]} if config.defense else plain
    for field in dataclasses.fields(config):
        if field.name not in used and getattr(config, field.name) != field.default:
            of = f"the defence {config.defense}" if config.defense else "a training without --defense"
            raise BadParameter(f"training settings: {field.name} is no setting of {of}: leave it out")
    wrong = {
        "checkpoint_every must be a multiple of log_every": config.checkpoint_every % config.log_every,
        "crop and tune_side must be at least 64 pixels": min(config.crop, config.tune_side) < 64,
        "tune_groups must be at least 1, and at most groups": not 1 <= config.tune_groups <= config.groups,
        "tune_rated must be at least 2": config.tune_rated < 2,
        "tune_steps must be positive": config.tune_steps < 1,
        "validate_every must not be negative": config.validate_every < 0,
        "penalty must not be negative": config.penalty < 0,
        "h must be positive": config.h <= 0,
        "attack must be fgsm or pgd": config.attack not in ("fgsm", "pgd"),
        "eps must be in [0.1,255], in units of 1/255": not 0.1 <= config.eps <= 255,
        "ramp must be in [0,1]": not 0 <= config.ramp <= 1,
        "attack_steps must be positive": config.attack_steps < 1,
        "labels must be plain or ssim": config.labels not in ("plain", "ssim"),
        "label_penalty must not be negative": config.label_penalty < 0,
        "sigma must be in (0,1]": not 0 < config.sigma <= 1,
    }
    for message, broken in wrong.items():
        if config.defense and broken:
            raise BadParameter(f"training settings: {message}")


class Tuner:
    """The steps of a defence: batches of rated crops and synthetic groups, their loss, and what the defence adds.

    Args:
        config: the settings.
        net: where it starts; the synthetic groups keep the scores that it gives to them.
        groups: the synthetic pool.
        photographs: CLIVE's training images.
        mos: (N,) their human scores.
    """

    def __init__(
        self,
        config: RobustTrainConfig,
        net: TinyIQA,
        groups: Groups,
        photographs: list[np.ndarray],
        mos: np.ndarray,
    ) -> None:
        self._config, self._groups, self._photographs = config, groups, photographs
        with torch.no_grad():
            scores = torch.cat([net(tensor(images)) for images in groups.images])
        self._teacher, self._mos = scores.view(-1, VERSIONS), torch.from_numpy(mos)
        self._net = net.requires_grad_(True)
        self.learner = Learner(
            net, steps=config.tune_steps, lr=config.tune_lr, weight_decay=config.weight_decay, average=0.99
        )

    def averaged(self) -> TinyIQA:
        """A frozen network with the averaged weights, which are the ones that are kept."""
        net = TinyIQA()
        net.load_state_dict(self.learner.ema)
        return net.eval().requires_grad_(False)

    def step(self, number: int) -> dict[str, float]:
        """One step; returns the parts of its loss."""
        config = self._config
        rng = np.random.default_rng((config.seed, 3, number))
        chosen = rng.integers(0, len(self._photographs), config.tune_rated)
        rated = np.stack([crop(self._photographs[i], config.tune_side, rng) for i in chosen])
        index = rng.choice(len(self._groups.images), config.tune_groups, replace=False)
        images = (tensor(rated), batch(self._groups.images[index], rng))
        labels = (self._mos[chosen], self._teacher[index].flatten())
        strengths = torch.from_numpy(self._groups.strengths[index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if config.defense == "gradient-norm":
            scores, norms = zip(*(gradient_norm(self._net, x, config.h) for x in images), strict=True)
            loss, found = self._loss(scores, labels, strengths)
            found["norm"] = torch.stack(norms).mean()
            loss = loss + config.penalty * found["norm"]
        else:
            others, wanted = zip(
                *(self._perturbed(x, y, number, generator) for x, y in zip(images, labels, strict=True)), strict=True
            )
            clean, found = self._loss([self._net(x) for x in images], labels, strengths)
            found["perturbed"], _ = self._loss([self._net(x) for x in others], wanted, strengths)
            loss = 0.5 * (clean + found["perturbed"])
        self.learner.update(loss, number)
        return {key: float(value.detach()) for key, value in found.items()}

    def _loss(
        self, scores: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], strengths: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Human scores of the rated crops; order and the teacher's scores of the groups, which come second."""
        versions, kept = (values[1].view(-1, VERSIONS) for values in (scores, labels))
        losses = rated_losses(scores[0], labels[0], versions, strengths, kept)
        # The teacher's scores are worth more than the pseudo-quality that the anchor stands for elsewhere.
        return rated_sum(losses, self._config.group_weight) + losses["anchor"], losses

    def _perturbed(
        self, x: torch.Tensor, labels: torch.Tensor, number: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of step `number` under attack or noise, and the labels that they get."""
        config = self._config
        if config.defense == "noise":
            return x + config.sigma * torch.randn(x.shape, generator=generator), labels
        risen = min(1.0, (number + 1) / (config.ramp * config.tune_steps)) if config.ramp else 1.0
        eps = risen * config.eps / 255
        if config.attack == "fgsm":
            found = adversarial_images(self._net, x, labels, eps, FGSM_STEP * eps, 1, torch.zeros_like(x))
        else:
            start = eps * (2.0 * torch.rand(x.shape, generator=generator) - 1.0)
            found = adversarial_images(self._net, x, labels, eps, PGD_STEP * eps, config.attack_steps, start)
        return found, labels if config.labels == "plain" else penalised(labels, x, found, config.label_penalty)


class Validation:
    """Accuracy and robustness on CLIVE's validation split: what the shipped settings were chosen by.

    Args:
        data_root: folder of the CLIVE release.
        network: gives the network to measure.
    """

    def __init__(self, data_root: str, network: Callable[[], TinyIQA]) -> None:
        data = Clive(data_root, split="val")
        self._network = network
        self._images = [to_uint8(data.load(i)) for i in range(len(data))]
        self._mos = np.array([item.truth for item in data.items])
        rng = np.random.default_rng(0)
        self._crops = tensor(np.stack([crop(image, 128, rng) for image in self._images]))

    def __call__(self, step: int) -> dict[str, float]:
        """SROCC to MOS; mean gains by PGD l_inf 4/255, 10 steps, on crops of 128 pixels, in points."""
        net = self._network()
        with torch.no_grad():
            scores = np.array([float(net(tensor(image[None]))) for image in self._images])
        up, down = (float(pgd_gain(net, self._crops, 4 / 255, 10, sign).mean()) for sign in (1.0, -1.0))
        return {"srocc": srocc(scores, self._mos), "up": up, "down": down, "spread": float(scores.std())}
