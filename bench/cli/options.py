"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from ..errors import BadParameter
from ..executors.choose import EXECUTORS
from ..registry import registry
from ..store import DEFAULT_OVERWRITE, OVERWRITE
from ..suite import parse_eps
from ..trust import trust, trust_named

Command = Callable[..., Any]


MOST_BUDGETS = 10_000


class Eps(click.ParamType):
    """A budget such as 0.05 or 4/255; with `many`, a comma-separated list of them, or of grids such as 0:0.3:16."""

    def __init__(self, many: bool = False) -> None:
        self.many = many
        self.name = "eps,..." if many else "eps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text to float, or to a tuple of floats."""
        if not isinstance(value, str):
            return value
        try:
            found = [
                e
                for part in value.split(",")
                if part.strip()
                for e in (_grid(part) if self.many else [parse_eps(part)])
            ]
        except BadParameter as error:
            self.fail(str(error), param, ctx)
        if self.many and found:
            return tuple(found)
        if len(found) == 1:
            return found[0]
        self.fail(f"{value!r}: expected {'at least one budget' if self.many else 'one budget'}", param, ctx)


def _grid(text: str) -> list[float]:
    """One budget, or `start:stop:count` evenly spaced ones, both ends included."""
    start, *rest = text.split(":")
    if not rest:
        return [parse_eps(start)]
    if len(rest) != 2 or not rest[1].strip().isdigit() or not 2 <= int(rest[1]) <= MOST_BUDGETS:
        raise BadParameter(
            f"eps grid {text!r}: expected start:stop:count with 2 <= count <= {MOST_BUDGETS}, such as 0:0.3:16"
        )
    return np.linspace(parse_eps(start), parse_eps(rest[0]), int(rest[1])).tolist()


def with_plugins(command: Command) -> Command:
    """Add `--plugin FILE` and `--trust FILE`, both repeatable, and load and trust before the command runs.

    What the user types names the programs that may run; what stands in a suite does not.
    """

    @click.option("--trust", "trusted", multiple=True, metavar="FILE", help="Program that a suite may name and run.")
    @click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="Python file with your own plug-ins.")
    @functools.wraps(command)
    def wrapped(*args: Any, plugins: tuple[str, ...], trusted: tuple[str, ...], **kwargs: Any) -> Any:
        for path in trusted:
            trust(path)
        for value in kwargs.values():
            for text in value if isinstance(value, tuple) else [value]:
                if isinstance(text, str):
                    trust_named(text)
        for path in plugins:
            registry.load_file(path)
        return command(*args, **kwargs)

    return wrapped


def suite_options(command: Command) -> Command:
    """Add `--suite` and the options that replace its lists."""
    for decorate in (
        click.option("--attack", "attacks", multiple=True, help="Run this attack instead of the suite's."),
        click.option("--dataset", "datasets", multiple=True, help="Run on this data set instead of the suite's."),
        click.option("--defense", "defenses", multiple=True, help="Run this defence instead of the suite's."),
        click.option("--metric", "metrics", multiple=True, help="Run this metric instead of the suite's."),
        click.option("--suite", default="quick", show_default=True, help="Name of a suite, or a YAML file."),
    ):
        command = decorate(command)
    return command


def execution(command: Command) -> Command:
    """Add the options that say where and how cells are computed; they are `run_suite`'s keyword arguments."""
    for decorate in (
        click.option("--save-images", is_flag=True, help="Keep the attacked images in OUT/images."),
        click.option("--batch", type=int, help="Most images at once (default: all of a cell)."),
        click.option("--retries", default=2, show_default=True, help="Further tries after a failure that may pass."),
        click.option("--cell-timeout", type=float, metavar="S", help="Seconds after which a try is given up."),
        click.option("--overwrite", type=click.Choice(OVERWRITE), default=DEFAULT_OVERWRITE, show_default=True,
                     help="What is computed again."),
        click.option("--slurm", multiple=True, callback=_pairs, metavar="K=V,...", help="Options of sbatch; or print."),
        click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786."),
        click.option("--threads", type=int, help="Threads of each worker (default: the CPU's, divided)."),
        click.option("--workers", type=int, help="Cells at once (default: one a device)."),
        click.option("--executor", type=click.Choice(EXECUTORS), default="inline", show_default=True,
                     help="Where cells are computed."),
    ):  # fmt: skip
        command = decorate(command)
    return command


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`k=v,k=v` as a dictionary; a word alone, such as `print`, has an empty value."""
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    return {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in parts)}


def single_image(command: Command | None = None, *, defense: str = "none") -> Any:
    """Add the arguments and options of `score`, `certify` and `attack`; `defense` is the default one."""
    if command is None:
        return functools.partial(single_image, defense=defense)
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--seed", default=0, show_default=True, help="Base seed of all random streams."),
        click.option("--device", default="cpu", show_default=True, help="Torch device."),
        click.option("--defense", default=defense, show_default=True, help="Defence, e.g. median-smoothing."),
        click.option("--metric", required=True, help="Metric, e.g. tiny-iqa."),
        click.argument("images", nargs=-1, required=True, metavar="IMAGE..."),
    ):
        command = decorate(command)
    return command
