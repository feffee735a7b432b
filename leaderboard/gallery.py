"""A page of all attacks: what each does, its parameters, and a picture of what it did to one photograph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..bench.api import AttackResult, DefendedMetric, Threat
from ..bench.build import load_attack
from ..bench.docstrings import described, running_text
from ..bench.errors import RobustIQAError
from ..bench.files import write_atomically
from ..bench.images import to_uint8
from ..bench.registry import Plugin, registry
from ..bench.spec import Spec, format_value
from .summary import eps_text

GAP = 4
"""White pixels between the parts of a picture."""


@dataclass(frozen=True)
class Entry:
    """One attack on the page.

    Attributes:
        name: its name in the registry.
        text: running text of its docstring.
        parameters: (name, default, meaning) of each.
        threat: under which it ran, or None.
        result: what it did, or None.
        reason: why it did not run, or "".
    """

    name: str
    text: str
    parameters: tuple[tuple[str, str, str], ...]
    threat: Threat | None = None
    result: AttackResult | None = None
    reason: str = ""


def entries(g: DefendedMetric, x: torch.Tensor, threats: Sequence[Threat], seed: int = 0) -> Iterator[Entry]:
    """Every registered attack with its defaults on one image (1,3,H,W), under the first threat that it works in."""
    for name in registry.names("attack"):
        text, parameters = "", ()
        try:
            plugin = registry.get("attack", name)
            text, parameters = running_text(plugin.factory), parameters_of(plugin)
            attack = load_attack(name)
            reasons = [(threat, attack.skip(g, threat)) for threat in threats]
            threat = next((threat for threat, reason in reasons if reason is None), None)
            if threat is None:
                yield Entry(name, text, parameters, reason=str(reasons[0][1]))
            else:
                yield Entry(name, text, parameters, threat, attack(g, x, threat, "up", seed))
        except RobustIQAError as error:  # a broken plug-in, a required parameter, no gradient
            yield Entry(name, text, parameters, reason=str(error))


def parameters_of(plugin: Plugin) -> tuple[tuple[str, str, str], ...]:
    """(name, default, meaning) of every parameter; raises `BadParameter` if one is required."""
    meanings = described(plugin.factory, "Args")
    bound = plugin.bind(Spec(plugin.name))
    return tuple((name, format_value(value), meanings.get(name, "")) for name, value in bound.items())


def section(name: str, text: str, parameters: Sequence[tuple[str, str, str]]) -> list[str]:
    """The beginning of a plug-in's section: heading, text, table of parameters."""
    lines = [f"## {name}", "", text, ""]
    if parameters:
        lines += ["| parameter | default | |", "|---|---|---|"]
        lines += [f"| `{key}` | `{value}` | {_cell(meaning)} |" for key, value, meaning in parameters]
        lines += [""]
    return lines


def links(names: Sequence[str]) -> list[str]:
    """Links to the sections of a page."""
    return [" · ".join(f"[{name}](#{name})" for name in names), ""]


def picture(x: torch.Tensor, adversarial: torch.Tensor) -> tuple[Image.Image, float]:
    """Clean image, adversarial one, and their difference around grey, side by side; and its amplification.

    The largest difference becomes white or black. Images are (3,H,W) in [0,1].
    """
    delta = adversarial - x
    largest = float(delta.abs().max())
    factor = 0.5 / largest if largest > 0 else 1.0
    gap = np.full((x.shape[1], GAP, 3), 255, dtype=np.uint8)
    parts = [to_uint8(part) for part in (x, adversarial, (0.5 + factor * delta).clamp(0.0, 1.0))]
    return Image.fromarray(np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)), factor


def write_gallery(found: Sequence[Entry], x: torch.Tensor, folder: Path, g: DefendedMetric, of_what: str) -> Path:
    """Write `attacks.md` and a picture an attack, `attacks/NAME.jpg`, into a folder; the path of the page.

    Args:
        found: see `entries`.
        x: the clean image (3,H,W).
        folder: made if need be.
        g: what was attacked.
        of_what: what the image is, in words.
    """
    pictures = folder / "attacks"
    pictures.mkdir(parents=True, exist_ok=True)
    scale = "no declared range" if g.metric.score_range is None else "{:g} to {:g}".format(*g.metric.score_range)
    lines = [
        "# The attacks",
        "",
        "Made by `robustiqa gallery` from the registry. Each attack ran with its defaults, upwards, on "
        f"`{g.metric.spec}` behind `{g.spec}`, on {of_what}; clean score {_clean_score(found)}, {scale}. "
        f"Gains are in units of {g.metric.span:g}. Pictures: clean image, adversarial image, their difference around "
        "grey, amplified until the largest becomes black or white.",
        "",
        *links([entry.name for entry in found]),
    ]
    for entry in found:
        lines += section(entry.name, entry.text, entry.parameters)
        lines += [*_outcome(entry, x, pictures, g.metric.span), ""]
    page = folder / "attacks.md"
    write_atomically(page, "\n".join(lines).encode())
    return page


def _clean_score(found: Sequence[Entry]) -> str:
    """The clean score that the attacks started from."""
    return next((f"{entry.result.clean.score[0]:.1f}" for entry in found if entry.result is not None), "unknown")


def _outcome(entry: Entry, x: torch.Tensor, folder: Path, unit: float) -> list[str]:
    if entry.result is None or entry.threat is None:
        return [f"Did not run here: {entry.reason}."]
    image, factor = picture(x, entry.result.adversarial[0])
    image.save(folder / f"{entry.name}.jpg", quality=80, subsampling=0)
    r = entry.result
    asked = f", {r.queries[0]} queries" if r.queries[0] else ""
    return [
        f"![{entry.name}: clean, adversarial, difference](attacks/{entry.name}.jpg)",
        "",
        f"{entry.threat.norm} {eps_text(entry.threat.eps)}: gain {r.gain[0] / unit:.3f} ({r.gain_8bit[0] / unit:.3f} "
        f"saved in 8 bits), SSIM {r.ssim[0]:.3f}, {r.forwards[0]} forwards, {r.backwards[0]} backwards{asked}; "
        f"difference x {factor:.3g}.",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
