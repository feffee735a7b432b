"""A page of all defences: what each does, its parameters and strengths, and what the metric sees through it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

from ..bench.api import DefendedMetric, Metric
from ..bench.build import load_defense
from ..bench.docstrings import running_text
from ..bench.errors import RobustIQAError
from ..bench.files import write_atomically
from ..bench.images import compare
from ..bench.registry import Strength, registry
from ..bench.seeds import Role, Streams, image_keys
from ..bench.spec import format_value
from .gallery import links, parameters_of, picture, section


def write_defenses(metric: Metric, x: torch.Tensor, folder: Path, of_what: str) -> Path:
    """Write `defenses.md`, and `defenses/NAME.jpg` for those that change the image, into a folder; the page's path.

    Args:
        metric: what is defended.
        x: one image (1,3,H,W).
        folder: made if need be.
        of_what: what the image is, in words.
    """
    pictures = folder / "defenses"
    pictures.mkdir(parents=True, exist_ok=True)
    names = registry.names("defense")
    lines = [
        "# The defences",
        "",
        f"Made by `robustiqa gallery` from the registry: each defence with its defaults around `{metric.spec}`, on "
        f"{of_what}, whose undefended score is {float(metric(x)[0]):.1f}. Pictures: the image, what the metric sees of "
        "it (enlarged or reduced to the same size where it has another), and the difference around grey, amplified "
        "until the largest becomes black or white.",
        "",
        *links(names),
    ]
    for name in names:
        try:
            plugin = registry.get("defense", name)
            lines += section(name, running_text(plugin.factory), parameters_of(plugin))
            strength = plugin.meta.get("strength")
            lines += [*_strength(strength), *_shown(load_defense(name, metric), x, pictures, name), ""]
        except RobustIQAError as error:  # a broken plug-in, or one that is made for other metrics
            lines += [f"Not shown here: {error}.", ""]
    page = folder / "defenses.md"
    write_atomically(page, "\n".join(lines).encode())
    return page


def _strength(strength: Strength | None) -> list[str]:
    if strength is None:
        return []
    presets = ", ".join(format_value(value) for value in strength.presets)
    return [f"Strength, from weak to strong: `{strength.parameter}` = {presets}.", ""]


def _shown(g: DefendedMetric, x: torch.Tensor, folder: Path, name: str) -> list[str]:
    """The picture, where the defence has one, and a line of facts."""
    keys = image_keys(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = g.estimate(x, Streams.create(keys, Role.EVALUATION))
    facts = [f"score {found.score[0]:.1f}", f"{g.cost} forward{'s' * (g.cost > 1)} a score"]
    facts += ["randomised" if g.randomised else "deterministic"]
    facts += [f"certified in {g.certified_norm}"] if g.certified_norm else []
    step = getattr(g, "step", None)
    if step is None:
        return ["; ".join(facts).capitalize() + "."]
    with torch.inference_mode():
        out = step(x, Streams.create(keys, Role.EVALUATION))
    size = tuple(out.shape[2:])
    facts += ["smooth" if getattr(g, "smooth", True) else "not smooth"]
    if size != tuple(x.shape[2:]):
        facts += [f"the metric sees {size[1]}x{size[0]} px of {x.shape[3]}x{x.shape[2]}"]
        out = F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=False)
    else:
        psnr = compare(x[0], out[0]).psnr
        facts += [f"PSNR {psnr:.1f} dB" if math.isfinite(psnr) else "the image itself"]
    image, factor = picture(x[0], out[0])
    image.save(folder / f"{name}.jpg", quality=80, subsampling=0)
    facts += [f"difference x {factor:.3g}"]
    text = "; ".join(facts)
    return [f"![{name}: the image, what the metric sees, difference](defenses/{name}.jpg)", "",
            text[0].upper() + text[1:] + "."]  # fmt: skip
