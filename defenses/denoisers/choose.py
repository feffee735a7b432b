"""Which shipped denoiser a defence takes when the user names none."""

from __future__ import annotations

from ...bench.errors import Incompatible
from ...bench.registry import Strength
from ...bench.spec import parse_spec
from . import DENOISERS

AUTO = "auto"
"""Stands for the denoiser that comes with the package for this noise level (and, for dms-iqa, this metric)."""

LEVELS = (0.06, 0.12, 0.18, 0.25)
"""Noise levels for which denoisers are shipped, pixels in [0,1]."""
NOISE = Strength("sigma", LEVELS)
"""What makes a smoothing stronger."""


def ordinary(sigma: float) -> str:
    """Name of the ordinary light denoiser, trained by mean squared error, of the level nearest to sigma."""
    nearest = min(LEVELS, key=lambda level: abs(level - sigma))
    return f"light-s{nearest:g}"


DMS = "dms"
"""Denoisers trained by image, target and ranking loss: the method."""
TIGHT = "tight"
"""Those of our variant, whose loss also asks for a small spread of scores under noise."""

_OPTIONS = {DMS: "", TIGHT: " --loss mse+target+rank+spread --image-weight 10 --spread-weight 2"}


def trained_for(metric: str, sigma: float, family: str = DMS) -> str:
    """Name of the shipped denoiser that was trained for a metric at a noise level.

    Args:
        metric: canonical plug-in string; one with parameters is another metric.
        sigma: noise level in [0,1] pixel units.
        family: `DMS` or `TIGHT`.

    Raises:
        Incompatible: there is none.
    """
    name = f"{family}-{parse_spec(metric)}-s{sigma:g}"
    if name not in DENOISERS:
        shipped = ", ".join(n for n in DENOISERS if n.startswith(f"{family}-"))
        raise Incompatible(
            f"no denoiser of the kind {family!r} is shipped for the metric {metric!r} at sigma {sigma:g} (there are "
            f"{shipped}): train one with `robustiqa train denoiser --metric '{metric}' --sigma {sigma:g}"
            f"{_OPTIONS[family]} --data FOLDER` (and the --plugin of the metric, if it has one) and give denoiser=FILE"
        )
    return name
