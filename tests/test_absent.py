"""`absent: skip`: what is not on this machine is left out with its reason; what is broken stays an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import Absent, BadData, BadSuite, UnknownName
from robustiqa.bench.plan import make_plan
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import Suite, load_suite

HERE = Path(__file__).parent / "plugins" / "tiny_bench.py"
SOURCE = '''
"""Plug-ins that are not on this machine, or broken."""

from pathlib import Path

import torch
from robustiqa.bench import Dataset, register_dataset, register_metric
from robustiqa.bench.errors import Absent, BadData

CALLS = Path(__file__).with_suffix(".calls")


@register_metric("not-here")
def not_here():
    """A metric whose package is not installed."""
    CALLS.write_text((CALLS.read_text() if CALLS.exists() else "") + "x")
    raise Absent("metric 'not-here' needs a package: pip install it")


@register_metric("damaged")
def damaged():
    """A metric whose weights are damaged."""
    raise BadData("weights are damaged")


@register_dataset("far-away")
class FarAway(Dataset):
    """A data set whose files are elsewhere."""

    def __init__(self, broken: bool = False):
        raise BadData("a table is damaged") if broken else Absent("no files of 'far-away': unpack them")

    def load(self, index: int) -> torch.Tensor:
        """Nothing."""
        raise NotImplementedError
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, linear_plugin: Path) -> Path:
    path = tmp_path_factory.mktemp("plugins") / "not_here.py"
    path.write_text(SOURCE)
    registry.load_file(HERE)
    registry.load_file(path)
    return path


@pytest.fixture
def calls(plugin: Path) -> Path:
    """Where `not-here` counts the attempts to build it."""
    path = plugin.with_suffix(".calls")
    path.unlink(missing_ok=True)
    return path


def write(folder: Path, **changes: object) -> Path:
    data = {
        "name": "tiny",
        "metrics": ["not-here", "linear"],
        "datasets": ["far-away", "noise[count=4]", "noise[count=3]"],
        "defenses": ["none", "jpeg"],
        "attacks": [{"attack": "pgd[steps=2]", "linf": ["4/255"], "only": "deterministic"}],
        "absent": "skip",
    }
    path = folder / "suite.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in (data | changes).items() if v is not None}))
    return path


def suite(folder: Path, **changes: object) -> Suite:
    return load_suite(str(write(folder, **changes)))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_skip_leaves_out_with_the_reason_and_asks_once(tmp_path: Path, calls: Path) -> None:
    plan = make_plan(suite(tmp_path))
    assert plan.skipped == (
        ("data set far-away", "no files of 'far-away': unpack them"),
        ("metric not-here", "metric 'not-here' needs a package: pip install it"),
    )
    assert calls.read_text() == "x"
    whole = make_plan(suite(tmp_path, metrics=["linear"], datasets=["noise[count=4]", "noise[count=3]"], absent=None))
    assert [cell.id for cell in plan.cells] == [cell.id for cell in whole.cells]


def test_a_pair_of_an_absent_metric_is_left_out(tmp_path: Path, plugin: Path) -> None:
    plan = make_plan(suite(tmp_path, metrics=["linear"], pairs=[{"metric": "not-here", "defense": "jpeg"}]))
    assert {cell.metric for cell in plan.cells} == {"linear"}
    assert "metric not-here" in dict(plan.skipped)


@pytest.mark.parametrize("change", [{"metrics": ["linear"]}, {"datasets": ["noise"]}])
@pytest.mark.parametrize("absent", [None, "error"])
def test_the_default_is_an_error(tmp_path: Path, plugin: Path, change: dict[str, object], absent: str | None) -> None:
    with pytest.raises(Absent, match=r"not-here|far-away"):
        make_plan(suite(tmp_path, absent=absent, **change))


@pytest.mark.parametrize(
    "change", [{"metrics": ["damaged", "linear"]}, {"datasets": ["far-away[broken=true]", "noise"]}]
)
def test_what_is_broken_stays_an_error(tmp_path: Path, plugin: Path, change: dict[str, object]) -> None:
    with pytest.raises(BadData, match="damaged") as found:
        make_plan(suite(tmp_path, **change))
    assert not isinstance(found.value, Absent)


@pytest.mark.parametrize("change", [
    {"datasets": ["clive[root=/no/such]", "noise"]},
    {"datasets": ["folder[root=/no/such]", "noise"]},
    {"metrics": ["onnx[path=/no/such.onnx]", "linear"]},
    {"metrics": ["linear", "aligned[metric=linear,calibration=clive[root=/no/such]]"]},
    {"defenses": ["dms-iqa[denoiser=/no/such.safetensors]", "none"]},
])  # fmt: skip
def test_what_is_given_by_its_path_is_an_error_that_says_why(
    tmp_path: Path, plugin: Path, change: dict[str, object]
) -> None:
    given = suite(tmp_path, **({"metrics": ["linear"], "datasets": ["noise"]} | change))
    with pytest.raises(BadData, match=r"/no/such.*an error in spite of `absent: skip`.*given by its path") as found:
        make_plan(given)
    assert not isinstance(found.value, Absent)
    with pytest.raises(BadData, match="/no/such") as found:
        make_plan(given.model_copy(update={"absent": "error"}))
    assert "absent" not in str(found.value)


@pytest.mark.parametrize(("name", "first"), [
    ("my-own-net", "unknown metric 'my-own-net': if it is in a file of yours, add --plugin FILE.py; known are "),
    ("Tiny-IQA", "unknown metric 'Tiny-IQA': did you mean 'tiny-iqa'? known are aligned, "),
])  # fmt: skip
def test_a_metric_that_nobody_knows(name: str, first: str) -> None:
    """Advice comes first where no known name is near, and last where one is."""
    with pytest.raises(UnknownName) as found:
        registry.get("metric", name)
    assert str(found.value).startswith(first)
    assert str(found.value).count("if it is in a file of yours, add --plugin FILE.py") == 1


@pytest.mark.parametrize(("change", "words"), [
    ({"metrics": ["not-here"]}, "needs a package"),
    ({"datasets": ["far-away"]}, "unpack them"),
])  # fmt: skip
def test_nothing_left_is_an_error(tmp_path: Path, plugin: Path, change: dict[str, object], words: str) -> None:
    path = write(tmp_path, **change)
    for command in (["plan"], ["run", "--out", tmp_path / "out"]):
        result = call(*command, "--suite", path)
        assert result.exit_code == 1
        assert "suite 'tiny' has nothing to run on this machine" in result.stderr
        assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSuite, match="absent"):
        suite(tmp_path, absent="ignore")


def test_plan_run_and_records_say_what_was_left_out(tmp_path: Path, plugin: Path) -> None:
    path = write(tmp_path, datasets=["far-away", "noise[count=3]"])
    lines = ["left out: data set far-away: no files", "left out: metric not-here: metric 'not-here' needs a package"]
    planned = call("plan", "--suite", path)
    assert planned.exit_code == 0
    assert all(line in planned.stdout for line in lines)
    ran = call("run", "--suite", path, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    assert all(line in ran.stderr for line in lines)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [entry["what"] for entry in record["left_out"]] == ["data set far-away", "metric not-here"]
    assert "needs a package" in record["left_out"][1]["why"]
    board = (tmp_path / "out" / "leaderboard" / "board.md").read_text()
    assert "Left out: data set far-away" in board
    again = call("run", "--suite", path, "--out", tmp_path / "out")
    assert "0 cells computed" in again.stdout


def test_real_data_sets_and_metrics_are_skipped(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path))
    names = ["clive", "koniq10k", "spaq"]
    plan = make_plan(suite(tmp_path, metrics=["linear"], datasets=[*names, "noise[count=2]"]))
    assert [what for what, _ in plan.skipped] == [f"data set {name}" for name in names]
    assert all("unpack" in why for _, why in plan.skipped)
