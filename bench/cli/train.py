"""`robustiqa train`: the options are the fields of the training's config, read when the command is called."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import click

from ..docstrings import described
from ..errors import Absent
from ..registry import PACKAGE
from .options import Eps, with_plugins

_TRAININGS = {
    "metric": ("bench.training.robust", "train_robust_metric", "RobustTrainConfig"),
    "certified-metric": ("bench.training.certified", "train_certified_metric", "CertifiedTrainConfig"),
    "denoiser": ("defenses.denoisers.training", "train_denoiser", "DenoiserTrainConfig"),
    "diffusion-denoiser": (
        "defenses.denoisers.diffusion_training",
        "train_diffusion_denoiser",
        "DiffusionTrainConfig",
    ),
    "perturbation": ("attacks.training.perturbation", "train_perturbation", "PerturbationTrainConfig"),
    "generator": ("attacks.training.generator", "train_generator", "GeneratorTrainConfig"),
}


class _Training(click.Command):
    """A command whose options are made from a frozen dataclass: name, type, default, and help from its docstring."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """One option for each field; training code (and torch) is imported only now."""
        _, config = _load(self.name or "")
        texts = described(config, "Attributes")
        fields = [_option(field, texts.get(field.name, "")) for field in dataclasses.fields(config)]
        return [*fields, *super().get_params(ctx)]


def _load(name: str) -> tuple[Any, type[Any]]:
    module_name, function, config = _TRAININGS[name]
    module = importlib.import_module(f"{PACKAGE}.{module_name}")
    return getattr(module, function), getattr(module, config)


def _option(field: dataclasses.Field[Any], text: str) -> click.Option:
    default: Any = field.default
    name = field.name.replace("_", "-")
    if isinstance(default, bool):
        return click.Option([f"--{name}/--no-{name}"], default=default, show_default=True, help=text)
    kind: Any = _Sizes() if isinstance(default, tuple) else Eps() if field.name == "eps" else type(default)
    return click.Option([f"--{name}"], type=kind, default=default, show_default=True, help=text)


class _Sizes(click.ParamType):
    """Comma-separated integers."""

    name = "int,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Text to a tuple of integers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected integers separated by commas, such as 224,288", param, ctx)


@click.group("train")
def train() -> None:
    """Train a metric, a denoiser or an attack; an interrupted training goes on when it is called again."""


def _add(name: str, text: str) -> None:
    @with_plugins
    def run(**settings: Any) -> None:
        function, config = _load(name)
        try:
            click.echo(str(function(config(**settings))))
        except Absent as error:
            if "data_root" not in settings:
                raise
            raise Absent(f"{error} (a training takes it as --data-root FOLDER)") from error

    # `with_plugins` leaves its option on the function, where only click's own decorator would find it.
    own = list(reversed(getattr(run, "__click_params__", [])))
    train.add_command(_Training(name, callback=run, params=own, help=text, short_help=text.split(";")[0]))


_add(
    "metric",
    "Train tiny-iqa on synthetic distortions and CLIVE's human scores, or fine-tune it with a defence; prints the path "
    "of the weights.",
)
_add(
    "certified-metric",
    "Train lip-iqa or ibp-iqa, whose score changes are bounded without sampling; prints the path of the weights.",
)
_add(
    "denoiser",
    "Train a denoiser for smoothing a metric, by image, target and ranking loss; prints the path of the weights.",
)
_add(
    "diffusion-denoiser",
    "Train the noise predictor of the one-shot diffusion denoiser for a range of noise levels; prints the path of the "
    "weights.",
)
_add(
    "perturbation",
    "Train a universal perturbation for the attack uap, in both directions; prints the path of the perturbation.",
)
_add("generator", "Train the network of the attack facpa, in both directions; prints the path of the weights.")
