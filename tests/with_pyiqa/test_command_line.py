"""Score, attack and certify through the command line, on a photograph, for each architecture that needs no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli

PLUGIN = str(Path(__file__).parents[2] / "examples" / "pyiqa_random.py")
FROM_FILE = {
    "brisque": (96, ""), "cnniqa": (96, ""), "dbcnn": (48, ""), "hyperiqa": (64, "num_crop=1"), "metaiqa": (64, ""),
    "musiq": (64, ""), "niqe": (192, ""), "topiq_nr": (64, ""), "unique": (64, ""), "uranker": (48, ""),
    "wadiqam_nr": (96, ""),
}  # fmt: skip
"""Side of the photograph, and options, of what takes `weights=FILE`."""
SLOW = {"nima": (64, ""), "tres": (64, "test_sample=1"), "maniqa": (64, "test_sample=1")}
RANDOM = {"arniqa": 64, "liqe": 224, "qualiclip": 64}
"""Side of the photograph of what loads CLIP or several files, built by the example's plug-in file."""


def run(*words: str) -> list[dict[str, Any]]:
    """The records that a command prints."""
    found = CliRunner().invoke(cli, [*words, "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def all_three(metric: str, image: Path, *more: str) -> None:
    """Score, attack along the gradient, and certify."""
    common = [str(image), "--metric", metric, *more]
    (scored,) = run("score", *common)
    (attacked,) = run("attack", *common, "--attack", "pgd[steps=2]", "--norm", "linf", "--eps", "8/255")
    assert attacked["clean"] == pytest.approx(scored["score"], rel=1e-5)
    assert attacked["backwards"] >= 2
    assert 0 < attacked["linf"] <= 8 / 255
    assert attacked["gain"] > 0
    defense = "median-smoothing[sigma=0.12,n=10,m=1]"
    (record,) = run("certify", *common, "--defense", defense, "--eps", "0.01", "--alpha", "0.2")
    (bound, *_) = record["certificates"]
    assert bound["lo"] <= record["score"] <= bound["hi"]
    assert np.isfinite([bound["lo"], bound["hi"]]).all()


@pytest.mark.parametrize("name", [*FROM_FILE, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_with_weights_from_a_file(name: str, random_weights, photograph: Callable[[int], Path]) -> None:
    side, options = (FROM_FILE | SLOW)[name]
    settings = f"weights={random_weights(name)}" + (f",options={options}" if options else "")
    all_three(f"pyiqa:{name}[{settings}]", photograph(side))


@pytest.mark.parametrize("name", list(RANDOM))
def test_with_a_plugin_file(name: str, photograph: Callable[[int], Path]) -> None:
    all_three(f"pyiqa-random:{name}", photograph(RANDOM[name]), "--plugin", PLUGIN)


@pytest.mark.parametrize("name", ["piqe", "entropy"])
def test_what_has_no_gradient_is_attacked_by_its_scores(name: str, photograph: Callable[[int], Path]) -> None:
    common = [str(photograph(96)), "--metric", f"pyiqa:{name}"]
    (scored,) = run("score", *common)
    (attacked,) = run("attack", *common, "--attack", "square[queries=200]", "--eps", "8/255")
    assert attacked["queries"] > 0
    assert attacked["backwards"] == 0
    assert attacked["clean"] == pytest.approx(scored["score"])
    assert attacked["gain"] > 0
    refused = CliRunner().invoke(cli, ["attack", *common, "--attack", "pgd"])
    assert refused.exit_code != 0
    assert f"needs gradients, which metric 'pyiqa:{name}' does not give" in str(refused.output) + str(refused.exception)
    (record,) = run("certify", *common, "--defense", "median-smoothing[n=10,m=1]", "--eps", "0.01", "--alpha", "0.2")
    assert record["certificates"][0]["lo"] <= record["score"] <= record["certificates"][0]["hi"]
