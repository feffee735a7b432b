"""`robustiqa gallery`: the pages of all attacks and all defences, with a picture of each."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from ..api import Threat
from ..build import load_defense
from ..datasets import load_dataset
from ..errors import BadParameter
from ..metrics import load_metric
from ..registry import PACKAGE, registry, resolve_target
from .options import Eps, with_plugins


@click.command()
@click.option("--metric", default="tiny-iqa", show_default=True, help="Metric that is attacked and defended.")
@click.option("--defense", default="none", show_default=True, help="Defence that is attacked.")
@click.option("--dataset", default="photos[size=128,subset=quick]", show_default=True, help="Where the image is from.")
@click.option("--image", type=click.IntRange(0), default=5, show_default=True, help="Number of the image.")
@click.option("--linf", type=Eps(), default="8/255", show_default=True, help="Budget in linf.")
@click.option("--l2", type=Eps(), default="2", show_default=True, help="Budget of attacks that do not work in linf.")
@click.option("--out", type=click.Path(file_okay=False), default="docs", show_default=True, help="Folder of the pages.")
@with_plugins
def gallery(metric: str, defense: str, dataset: str, image: int, linf: float, l2: float, out: str) -> None:
    """Write attacks.md and defenses.md: all that is registered, your own included, with parameters and a picture."""
    g = load_defense(defense, load_metric(metric))
    data = load_dataset(dataset)
    if image >= len(data):
        raise BadParameter(f"--image {image}: {dataset!r} has images 0 to {len(data) - 1}")
    x = data.load(image)[None]
    found = resolve_target(f"{PACKAGE}.leaderboard.gallery:entries")(g, x, [Threat("linf", linf), Threat("l2", l2)])
    rows = list(tqdm(found, total=len(registry.names("attack")), desc="attacks", disable=None))
    where = f"image `{data.items[image].id}` of `{dataset}`"
    write_gallery = resolve_target(f"{PACKAGE}.leaderboard.gallery:write_gallery")
    click.echo(str(write_gallery(rows, x[0], Path(out), g, where)))
    write_defenses = resolve_target(f"{PACKAGE}.leaderboard.defense_gallery:write_defenses")
    click.echo(str(write_defenses(g.metric, x, Path(out), where)))
