"""`robustiqa score` and `attack`: single images; and the loop over images that `certify` shares."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import click
import torch
from tabulate import tabulate

from ..api import AttackResult, DefendedMetric, Direction, Norm, Threat
from ..build import AttackLike, BothWays, load_attack, load_defense
from ..errors import Incompatible, RobustIQAError, counted
from ..files import make_folder
from ..images import load_image, quantise, save_png
from ..judge import scored
from ..metrics import load_metric
from ..seeds import image_keys
from .options import Eps, single_image, with_plugins

Record = dict[str, Any]
Both = Literal["both"]


@click.command()
@single_image
@with_plugins
def score(images: tuple[str, ...], metric: str, defense: str, device: str, seed: int, as_json: bool) -> None:
    """Score images with a metric behind a defence."""
    g = load_defense(defense, load_metric(metric, device))

    def one(x: torch.Tensor, head: Record) -> list[Record]:
        return [head | {"score": float(scored(g, x, image_keys(x), seed).score[0])}]

    each_image(images, g, device, one, as_json, lambda r: [[r["image"], r["score"]]], ["image", "score"])


@click.command()
@single_image
@click.option("--attack", "attack_text", default="auto-iqa", show_default=True, help="The default takes a minute.")
@click.option("--norm", type=click.Choice(["l2", "linf"]), default="linf", show_default=True)
@click.option("--eps", type=Eps(), default="4/255", show_default=True, help="Budget in [0,1] pixel units.")
@click.option(
    "--direction",
    type=click.Choice(["up", "down", "both"]),
    default="up",
    show_default=True,
    help="Both go in one batch where that saves time: on small images.",
)
@click.option("--save", type=click.Path(file_okay=False), help="Folder for the adversarial images (8-bit PNG).")
@with_plugins
def attack(
    images: tuple[str, ...], metric: str, defense: str, device: str, seed: int, as_json: bool,
    attack_text: str, norm: Norm, eps: float, direction: Direction | Both, save: str | None,
) -> None:  # fmt: skip
    """Attack images: how far can the score be moved within a budget?"""
    g = load_defense(defense, load_metric(metric, device))
    attacker = load_attack(attack_text)
    threat = Threat(norm, eps)
    reason = attacker.skip(g, threat)
    if reason:
        raise Incompatible(reason)
    if save is not None:
        make_folder(Path(save), "--save")  # before the work, not after it
    paths: set[str] = set()
    ends = g.metric.score_range
    declared = ends is not None and math.isfinite(ends[1] - ends[0])
    range_of = "measured range" if g.metric.empirical_range else "declared range"
    unit = range_of if declared else "metric units (no declared range)"

    def one(x: torch.Tensor, head: Record) -> Iterator[Record]:
        for way, result in _attacked(attacker, g, x, threat, direction, seed):
            yield record(way, result, head)

    def record(way: Direction, r: AttackResult, head: Record) -> Record:
        path = None
        if save is not None:
            name = _file_name(head, attacker.spec, threat, way, paths)
            path = str(save_png(quantise(r.adversarial[0]), Path(save) / name))
        values = {
            "clean": r.clean.score, "adversarial": r.attacked.score, "adversarial_8bit": r.attacked_8bit.score,
            "gain": r.gain / g.metric.span, "linf": r.linf, "l2": r.l2, "psnr": r.psnr, "ssim": r.ssim,
            "forwards": r.forwards, "backwards": r.backwards, "queries": r.queries,
            "seconds": r.seconds,
        }  # fmt: skip
        numbers = {k: finite(v[0].item()) for k, v in values.items()}
        what = {"attack": attacker.spec, "norm": norm, "eps": eps, "direction": way}
        return head | what | numbers | {"gain_unit": unit, "path": path}

    gain = f"gain / {range_of}" if declared else "gain in metric units (no range is declared)"
    columns = {
        "image": "image", "direction": "direction", "clean": "clean", "adversarial": "attacked",
        "adversarial_8bit": "8-bit", "gain": gain, "linf": "linf", "l2": "l2", "psnr": "PSNR (dB)",
    }  # fmt: skip
    if direction != "both":
        del columns["direction"]

    def lines(r: Record) -> list[list[Any]]:
        return [[r[k] for k in columns]]

    each_image(images, g, device, one, as_json, lines, list(columns.values()))


def _attacked(
    attack: AttackLike, g: DefendedMetric, x: torch.Tensor, threat: Threat, direction: Direction | Both, seed: int
) -> Iterator[tuple[Direction, AttackResult]]:
    """One direction or both; an error in one of them comes after the other's result."""
    if direction != "both":
        yield direction, attack(g, x, threat, direction, seed)
        return
    if isinstance(attack, BothWays):
        with contextlib.suppress(RobustIQAError):
            yield from attack.both(g, x, threat, seed).items()
            return
    failed: RobustIQAError | None = None
    for way in get_args(Direction):
        try:
            yield way, attack(g, x, threat, way, seed)
        except RobustIQAError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def each_image(
    images: tuple[str, ...],
    g: DefendedMetric,
    device: str,
    one: Callable[[torch.Tensor, Record], Iterable[Record]],
    as_json: bool,
    lines: Callable[[Record], list[list[Any]]],
    headers: list[str],
) -> None:
    """Apply `one` to every image; a bad one gets its sentence on stderr, and the exit code says so."""
    records: list[Record] = []
    failed = 0
    for path in images:
        try:
            x = load_image(path)[None].to(device)
            for record in one(x, {"image": path, "metric": g.metric.spec, "defense": g.spec}):
                records.append(record)  # one by one: what comes before an error stays
        except Incompatible:
            raise
        except Exception as error:
            failed += 1
            text = sentence(error)
            where = "" if path in text else f"{path}: "
            click.echo(f"robustiqa: {where}{text}", err=True)
    if as_json:
        click.echo(json.dumps(records, indent=2, allow_nan=False))
    elif records:
        rows = [line for record in records for line in lines(record)]
        click.echo(tabulate(rows, headers=headers, floatfmt=".4f", missingval="-"))
    if failed:
        click.echo(f"robustiqa: {failed} of {counted(len(images), 'image')} failed", err=True)
        sys.exit(1)


def sentence(error: Exception) -> str:
    """What an error says: one of ours its sentence, a plug-in's own exception also the line that raised it."""
    if isinstance(error, RobustIQAError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    # The plug-in's line rather than that of a library; an installed suite, too, lies among the libraries.
    last = [f for f in frames if "site-packages" not in f.filename] or frames
    where = f" ({Path(last[-1].filename).name}, line {last[-1].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"


def finite(value: float) -> float | None:
    """JSON has no infinity: an unbounded side is null."""
    return value if math.isfinite(value) else None


def _file_name(head: Record, attack_spec: str, threat: Threat, direction: str, taken: set[str]) -> str:
    """A file name legal everywhere; images of the same name from different folders get a number."""
    parts = [Path(head["image"]).stem, head["metric"], head["defense"], attack_spec, threat.norm, f"{threat.eps:.4g}"]
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join([*parts, direction])).strip("-")[:150]
    name, k = f"{stem}.png", 1
    while name in taken:
        k += 1
        name = f"{stem}-{k}.png"
    taken.add(name)
    return name
