"""Defences by training: gradient-norm regularisation, adversarial training, noise augmentation."""

from __future__ import annotations

import math

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import Strength, register_defense
from ..base import Replacement
from .networks import trained_network


@register_defense("gradient-norm-training", strength=Strength("penalty", (0.001, 0.01, 0.1)))
class GradientNormTraining(Replacement):
    """The score of a network that was trained for a small l1 norm of its gradient, the first-order l_inf change.

    Liu et al., CVPR 2024 (NT): the loss gains penalty ((f(x + h sign g) - f(x)) / h)^2 / 2, h = .01, g the gradient.
    Here f is in scales of 100 points, and the shipped weights were fine-tuned from tiny-iqa by `robustiqa train metric
    --defense gradient-norm`; the paper trains larger networks, f being the score that their data set has.

    Args:
        metric: tiny-iqa without parameters, unless `weights` are given; attacks that know no defence see it.
        penalty: weight of the term of the shipped weights, or of `weights`; the paper's number is .001.
        weights: safetensors file of your own training of the metric's network; empty means the shipped one.

    The metric's trained copy sees the image as it is.
    """

    def __init__(self, metric: Metric, penalty: float = 0.001, weights: str = "") -> None:
        _check_positive("gradient-norm-training", "penalty", penalty)
        super().__init__(metric, trained_network(metric, "gradient-norm", {"penalty": penalty}, weights))


@register_defense("adversarial-training", strength=Strength("eps", (2, 4)))
class AdversarialTraining(Replacement):
    """The score of a network that was trained on clean images and on images under attack.

    Goodfellow et al. 2015 (one step) and Madry et al. 2018 (iterative), which maximise the error of the score; labels
    by SSIM are of Chistyakova et al., Technologies 12(11):220, 2024: label - (1 - SSIM) range. The shipped weights were
    fine-tuned from tiny-iqa by `robustiqa train metric --defense adversarial`, on some hundred photographs, where the
    paper has KonIQ-10k.

    Args:
        metric: tiny-iqa without parameters, unless `weights` are given; attacks that know no defence see it.
        attack: attack of the training: fgsm, one step of 1.25 eps, as in the paper; or pgd, steps of eps/4, as Madry's.
        labels: labels of attacked images, plain or ssim.
        eps: l_inf radius of the training in units of 1/255; the paper's is 4.
        weights: safetensors file of your own training of the metric's network; empty means the shipped one.

    The metric's trained copy sees the image as it is.
    """

    def __init__(
        self, metric: Metric, attack: str = "pgd", labels: str = "plain", eps: float = 4, weights: str = ""
    ) -> None:
        for name, value, known in (("attack", attack, ("fgsm", "pgd")), ("labels", labels, ("plain", "ssim"))):
            if value not in known:
                raise BadParameter(f"adversarial-training[{name}={value}]: expected {known[0]} or {known[1]}")
        _check_positive("adversarial-training", "eps", eps)
        settings = {"attack": attack, "labels": labels, "eps": eps}
        super().__init__(metric, trained_network(metric, "adversarial", settings, weights))


@register_defense("noise-training")
class NoiseTraining(Replacement):
    """The score of a network that was trained on clean images and on images with Gaussian noise.

    Noise augmentation as for randomised smoothing (Cohen et al. 2019, arXiv 1902.02918), here with one deployed
    forward pass and no certificate. The shipped weights were fine-tuned from tiny-iqa by `robustiqa train metric
    --defense noise`; noisy images keep the clean label and are not clipped.

    Args:
        metric: tiny-iqa without parameters, unless `weights` are given; attacks that know no defence see it.
        sigma: standard deviation of the noise in training, in [0,1] pixel units.
        weights: safetensors file of your own training of the metric's network; empty means the shipped one.

    The metric's trained copy sees the image as it is.
    """

    def __init__(self, metric: Metric, sigma: float = 0.06, weights: str = "") -> None:
        _check_positive("noise-training", "sigma", sigma)
        super().__init__(metric, trained_network(metric, "noise", {"sigma": sigma}, weights))


def _check_positive(name: str, parameter: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BadParameter(f"{name}[{parameter}={value}]: expected a number > 0")
