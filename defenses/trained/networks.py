"""The trained networks behind the defences by training: which file, whether it fits, and what can be wrong with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ...bench.api import Metric
from ...bench.errors import BadData, BadParameter, Incompatible
from ...bench.metrics.loading import check_file
from ...bench.metrics.tiny_iqa import TinyIQA
from ...bench.training.variants import file_name
from ...bench.weights import finite, read_safetensors, readable

FOLDER = Path(__file__).parent / "weights"
"""The shipped weights; the model card of each is the `.md` beside it."""
METRIC = "tiny-iqa"
"""The only metric that weights are shipped for, without parameters: they were trained from its shipped weights."""


def trained_network(metric: Metric, defense: str, settings: Mapping[str, str | float], weights: str) -> nn.Module:
    """A copy of the metric's network with the weights of a defence by training.

    Args:
        metric: the metric to be defended.
        defense: gradient-norm, adversarial or noise.
        settings: which variant (`variants.NAMED_BY`).
        weights: a safetensors file; empty means the shipped one.

    Raises:
        BadData: the file is missing, corrupt, of another defence, or of none though the network is a tiny-iqa.
        BadParameter: the file is of another variant, or no safetensors file.
        Incompatible: no such weights are shipped for this metric, or the file holds another network than the metric's.
    """
    training = f"robustiqa train metric --defense {defense}"
    path = Path(weights) if weights else _shipped(metric, defense, settings, training)
    check_file(path, training)
    with readable(path, "weights", training):
        about, tensors = read_safetensors(path)
        finite(tensors)
    own = {key: value.shape for key, value in metric.module.state_dict().items()}
    if own != {key: value.shape for key, value in tensors.items()}:
        raise Incompatible(
            f"weights {str(path)!r} do not belong to the network of metric {metric.spec!r}: give weights of that "
            "network"
        )
    _check_defense(about.get("defense"), defense, metric, f"weights {str(path)!r}", training)
    for key, value in settings.items():
        if about.get(key, value) != value:
            raise BadParameter(
                f"{defense}-training[{key}={value}]: expected {key}={about[key]}, as weights {str(path)!r} were trained"
            )
    network = copy.deepcopy(metric.module)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _check_defense(named: object, defense: str, metric: Metric, what: str, training: str) -> None:
    """Raise `BadData` unless the file names this defence; a network of one's own, which no training of ours writes, may
    name none, and is warned of."""
    if named == defense:
        return
    if named is not None:
        raise BadData(f"{what} are of the defence {named!r}, expected {defense!r}")
    if isinstance(metric.module, TinyIQA):
        raise BadData(f"{what} name no defence in their header, expected {defense!r}: give a file of `{training}`")
    warnings.warn(f"{what} name no defence in their header: taken for {defense!r} on trust", stacklevel=2)


def _shipped(metric: Metric, defense: str, settings: Mapping[str, str | float], training: str) -> Path:
    if metric.spec != METRIC or not isinstance(metric.module, TinyIQA):
        raise Incompatible(
            f"{defense}-training has weights for the metric {METRIC!r} only, not for {metric.spec!r}: train that "
            f"metric's network (for {METRIC} with other weights: `{training} --start FILE`), and give the result as "
            "weights=FILE"
        )
    path = FOLDER / file_name(defense, settings, METRIC)
    if not path.is_file():
        given = ",".join(f"{key}={value}" for key, value in settings.items())
        known = ", ".join(sorted(p.stem for p in FOLDER.glob(f"{defense}-*.safetensors")))
        # Not the user's mistake in a tuning, which asks for every strength: it goes on with those that there are.
        raise Incompatible(
            f"{defense}-training[{given}]: expected the {', '.join(settings)} of shipped weights ({known}), or "
            f"weights=FILE from `{training}`"
        )
    return path
