"""Colours of the page, computed: series can be told apart by the colour-blind, and what has to be read can be.

Simulation: Machado, Oliveira and Fernandes 2009, matrices for severity 1.0, on linear RGB. Distances: CIE76 in CIELAB
(D65), in which 2.3 is just noticeable. Contrast: WCAG 2.1.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import robustiqa.leaderboard.report.page as page

STYLE = (Path(page.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
SCRIPT = (Path(page.__file__).parent / "templates" / "core.js").read_text(encoding="utf-8")
MACHADO = {
    "normal": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                        [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                        [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
WHITE = TO_XYZ @ np.ones(3)
APART = 13.0
"""Least distance of two colours that stand for two things, more than five times what is noticed side by side."""


def themes() -> dict[str, dict[str, str]]:
    """The variables of the style sheet, by theme; the two ways into the dark one have to agree."""
    blocks = [dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{3,6})", text)) for text in STYLE.split("{")[1:]]
    light, system, chosen = [block for block in blocks if "accent" in block and "c0" in block]
    assert system == chosen
    return {"light": light, "dark": light | chosen}


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    c = np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distances(colours: dict[str, str], sight: str) -> dict[tuple[str, str], float]:
    """Between each two of the colours, as somebody sees them."""
    seen = {name: lab(MACHADO[sight] @ linear(c)) for name, c in colours.items()}
    return {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)}


def contrast(a: str, b: str) -> float:
    """WCAG 2.1, relative luminance of the lighter over that of the darker, each plus .05."""
    high, low = sorted((float(TO_XYZ[1] @ linear(c)) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_instruments() -> None:
    """Known values: CIELAB of primaries (Lindbloom), WCAG's 21 and 4.54, and that red against green is what is lost."""
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert lab(linear("#0000ff")) == pytest.approx([32.30, 79.19, -107.86], abs=0.02)
    assert contrast("#fff", "#000") == pytest.approx(21)
    assert contrast("#fff", "#767676") == pytest.approx(4.54, abs=0.01)
    red_green = {"a": "#c03030", "b": "#5c7a10"}
    normal, deutan = (distances(red_green, sight)["a", "b"] for sight in ("normal", "deutan"))
    assert deutan < normal / 3
    for matrix in MACHADO.values():
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=2e-6)  # grey stays grey


GROUPS = {
    "kinds of defence": ("undefended", "certified", "randomised", "deterministic"),
    "curves": tuple(re.findall(r"var\(--(c\d)\)", SCRIPT.split("const COLOURS")[1].split(";")[0])),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", MACHADO)
@pytest.mark.parametrize("group", GROUPS)
def test_series_can_be_told_apart(theme: str, sight: str, group: str) -> None:
    colours = themes()[theme]
    found = distances({name: colours[name] for name in GROUPS[group]}, sight)
    near = {pair: round(d, 1) for pair, d in found.items() if d < APART}
    assert not near, f"{theme}, {sight}: {near}"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_read_and_drawn_has_contrast(theme: str) -> None:
    """WCAG 2.1 AA: 4.5 for text, 3 for what plots are made of."""
    colours = themes()[theme]
    for ground in ("bg", "panel"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["warn"], colours["flag"]) >= 4.5
    for name in {n for group in GROUPS.values() for n in group}:
        assert contrast(colours[name], colours["bg"]) >= 3, name
