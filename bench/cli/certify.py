"""`robustiqa certify`: bounds at a grid of budgets, or an early-stopped decision at one."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch
from tqdm import tqdm

from ..api import Certificate, Coverage, DefendedMetric, Progress
from ..build import load_defense
from ..errors import BadParameter
from ..images import largest_l2, psnr_of_l2, rms_grey_levels
from ..metrics import load_metric
from .options import Eps, single_image, with_plugins
from .single import Record, each_image, finite

DEFENSE = "median-smoothing"
"""The default: the usual one, none, has no certificate."""


_EPS = {"l2": (0.05,), "linf": (1 / 255,)}


@click.command()
@single_image(defense=DEFENSE)
@click.option("--eps", type=Eps(many=True), show_default="0.05 in l2, 1/255 in l_inf",
              help="Budgets, e.g. 0.05,0.12, or a grid start:stop:count such as 0:0.25:26.")  # fmt: skip
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Error probability per image and eps.")
@click.option("--coverage", type=click.Choice(["pointwise", "bonferroni", "dkw"]), default="pointwise",
              show_default=True, help="Whether bounds hold at each eps alone, or at all of them together.")  # fmt: skip
@click.option("--pool", type=click.Path(file_okay=False), help="Folder that keeps the draws, to go on or use again.")
@click.option(
    "--width",
    type=float,
    help="As many draws, up to the defence's n, as this hi - lo at the largest eps is foreseen to need.",
)
@click.option("--tau", type=float, help="Only decide whether the score stays within this of its centre.")
@with_plugins
def certify(
    images: tuple[str, ...], metric: str, defense: str, device: str, seed: int, as_json: bool,
    eps: tuple[float, ...] | None, alpha: float, coverage: Coverage, pool: str | None, width: float | None,
    tau: float | None,
) -> None:  # fmt: skip
    """Bounds that no perturbation within eps can leave, with probability 1 - alpha."""
    g = load_defense(defense, load_metric(metric, device))
    eps = eps or _EPS.get(str(g.certified_norm), (0.05,))
    if tau is not None:
        if len(eps) != 1 or coverage != "pointwise" or pool is not None or width is not None:
            raise BadParameter(
                "--tau decides at one eps, with draws of its own: give one --eps, no --coverage, --pool or --width"
            )
        _decide(images, g, device, seed, as_json, eps[0], alpha, tau)
        return
    tell = _Teller(as_json)
    how: dict[str, Any] = {"coverage": coverage, "pool": pool}
    if width is not None:
        _to_width(images, g, device, seed, tell, eps, alpha, width, how)
        return

    def one(x: torch.Tensor, head: Record) -> list[Record]:
        with tell.progress() as progress:
            population = g.certify(x, eps, alpha, seed, progress=progress, **how)
        kinds = _kinds(population)
        notes = list(dict.fromkeys(note for c in kinds for note in c.notes))
        tell.notes(notes)
        tell.heading(
            f"{g.metric.spec} behind {g.spec}: scores of the defended metric, alpha {alpha:g}, n {population.n}, "
            f"coverage over eps: {population.coverage}"
        )
        rows = [row for c in kinds for row in _rows(g, c, x)]
        abstained = None if population.abstained is None else bool(population.abstained[0])
        more = {"norm": population.norm, "coverage": population.coverage, "abstained": abstained, "notes": notes}
        found = {"score": float(population.score[0]), "n": population.n, "alpha": alpha, "certificates": rows}
        return [head | found | more]

    def lines(r: Record) -> list[list[Any]]:
        return [
            [r["image"], r["score"], c["eps"], c["rms"], c["kind"], c["lo"], c["hi"], "yes" if c["vacuous"] else ""]
            for c in r["certificates"]
        ]

    headers = ["image", "score", f"{g.certified_norm or ''} eps", "RMS (grey levels)", "kind", "lo", "hi", "vacuous"]
    each_image(images, g, device, one, as_json, lines, headers)


class _Teller:
    """What is said beside the records: a bar, and each note and heading once."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._told: set[str] = set()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar of the draws, on a terminal."""
        with tqdm(total=1, disable=self.as_json or not sys.stderr.isatty(), leave=False, unit="draw") as bar:

            def progress(done: int, wanted: int) -> None:
                bar.total = wanted
                bar.update(done - bar.n)

            yield progress

    def notes(self, notes: Iterable[str]) -> None:
        """On stderr, what was not said before."""
        for note in notes:
            if note not in self._told:
                click.echo(f"robustiqa: note: {note}", err=True)
        self._told.update(notes)

    def heading(self, text: str) -> None:
        """Above a table, if it was not said before."""
        if not self.as_json and text not in self._told:
            click.echo(text)
        self._told.add(text)


def _kinds(c: Certificate) -> list[Certificate]:
    return [c] if c.deployed is None else [c, c.deployed]


def _rows(g: DefendedMetric, c: Certificate, x: torch.Tensor) -> list[Record]:
    """A record for each eps of one image's certificate."""
    span = g.metric.score_range
    rows = []
    for j, e in enumerate(c.eps):
        lo, hi = float(c.lo[0, j]), float(c.hi[0, j])
        length = largest_l2(c.norm, e, x.shape[2], x.shape[3])
        rows.append(
            {
                "eps": e,
                "kind": c.kind,
                "lo": finite(lo),
                "hi": finite(hi),
                "delta": finite(float(c.delta[0, j])),
                "gaming_delta": finite(float(c.gaming_delta[0, j])),
                "vacuous": not math.isfinite(hi - lo) or (span is not None and hi - lo >= span[1] - span[0]),
                "rms": rms_grey_levels(length, x.shape[2], x.shape[3]),
                "psnr": finite(psnr_of_l2(length, x.shape[2], x.shape[3])),
            }
        )
    return rows


def _to_width(
    images: tuple[str, ...],
    g: DefendedMetric,
    device: str,
    seed: int,
    tell: _Teller,
    eps: tuple[float, ...],
    alpha: float,
    width: float,
    how: dict[str, Any],
) -> None:
    """The `--width` form: each image with the draws that it is foreseen to need, at most n with its pilot."""

    def one(x: torch.Tensor, head: Record) -> list[Record]:
        with tell.progress() as progress:
            found = g.certify_to_width(x, eps, width, alpha, seed, progress=progress, **how)
        kinds = [c for group in found.groups for c in _kinds(group.certificate)]
        notes = [note.replace("image 0", head["image"], 1) for note in found.notes]
        notes += dict.fromkeys(note for c in kinds for note in c.notes)
        tell.notes(notes)
        tell.heading(f"{g.metric.spec} behind {g.spec}: scores of the defended metric, alpha {alpha:g}, draws for a "
                     f"population width of {width:g} at eps {max(eps):g}")  # fmt: skip
        asked = {
            "score": float(kinds[0].score[0]) if kinds else None,
            "n": int(found.n[0]),
            "alpha": alpha,
            "certificates": [row for c in kinds for row in _rows(g, c, x)],
            "norm": g.certified_norm,
            "coverage": kinds[0].coverage if kinds else None,
            "notes": notes,
            "width": width,
            "reached": bool(found.reached[0]),
            "out_of_reach": bool(found.out_of_reach[0]),
            "pilot": int(found.pilot[0]),
            "foreseen": finite(float(found.foreseen[0])),
            "wanted": finite(float(found.wanted[0])),
            "least": finite(float(found.least[0])),
        }
        return [head | asked]

    def lines(r: Record) -> list[list[Any]]:
        ends = [[c["eps"], c["kind"], c["lo"], c["hi"]] for c in r["certificates"]] or [[max(eps), "out of reach"]]
        verdict = "yes" if r["reached"] else "no"
        return [[r["image"], r["score"], verdict, r["n"], r["pilot"], *row] for row in ends]

    headers = ["image", "score", "reached", "n", "pilot", f"{g.certified_norm or ''} eps", "kind", "lo", "hi"]
    each_image(images, g, device, one, tell.as_json, lines, headers)


def _decide(
    images: tuple[str, ...],
    g: DefendedMetric,
    device: str,
    seed: int,
    as_json: bool,
    eps: float,
    alpha: float,
    tau: float,
) -> None:
    """The `--tau` form: certified, refuted or undecided, for both kinds."""

    def one(x: torch.Tensor, head: Record) -> list[Record]:
        found = []
        for kind in ("population", "deployed"):
            d = g.decide(x, eps, tau, alpha, seed, kind=kind)
            verdict = "certified" if d.certified[0] else "refuted" if d.refuted[0] else "undecided"
            found.append({"kind": kind, "verdict": verdict, "centre": float(d.centre[0]), "draws": int(d.draws[0])})
        return [head | {"eps": eps, "tau": tau, "alpha": alpha, "decisions": found}]

    def lines(r: Record) -> list[list[Any]]:
        return [[r["image"], d["centre"], eps, tau, d["kind"], d["verdict"], d["draws"]] for d in r["decisions"]]

    headers = ["image", "centre", f"{g.certified_norm or ''} eps", "tau", "kind", "verdict", "draws"]
    each_image(images, g, device, one, as_json, lines, headers)
