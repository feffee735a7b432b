"""The run record: it can be read back, holds what decides the numbers, and nothing that is nobody's business."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.plan import make_plan, plan_from_json
from robustiqa.bench.provenance import differences, found_path, git_state, shown_path, write_record
from robustiqa.bench.registry import checks_digest, code_digest, version_of
from robustiqa.bench.suite import Suite

SUITE = """
schema: 1
name: recorded
metrics: [linear]
datasets: ["noise[count=3]"]
defenses: [none]
attacks:
  - {attack: "pgd[steps=2]", linf: [4/255]}
"""


@pytest.fixture(scope="module")
def runs(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs into one folder, the second with another defence; the home folder is what holds them all."""
    home = tmp_path_factory.mktemp("home")
    (home / "suite.yml").write_text(SUITE)
    plugins = [
        word for name in ("linear.py", "tiny_bench.py") for word in ("--plugin", str(linear_plugin.parent / name))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HOME", str(home))
        patch.setenv("SECRET_TOKEN", "s3cr3t")
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        for more in ([], ["--defense", "gaussian-blur"]):
            words = ["run", "--suite", str(home / "suite.yml"), "--out", "out", *plugins, *more]
            result = CliRunner().invoke(cli, words)
            assert result.exit_code == 0, result.output
    return home / "out"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_every_run_into_a_folder_keeps_its_record(runs: Path) -> None:
    first, second = read(runs / "runs" / "0001.json"), read(runs / "runs" / "0002.json")
    assert sorted(path.name for path in (runs / "runs").iterdir()) == ["0001.json", "0002.json"]
    assert read(runs / "run.json") == second
    assert [record["suite"]["defenses"] for record in (first, second)] == [["none"], ["gaussian-blur"]]
    assert [(record["computed"], record["failed"]) for record in (first, second)] == [(2, 0), (2, 0)]
    assert first["started"] <= first["finished"] <= second["started"] <= second["finished"]


def test_a_record_from_before_there_was_a_history_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1}')
    path = write_record(tmp_path, {"schema": 2})
    assert path == tmp_path / "runs" / "0002.json"
    assert [read(tmp_path / name) for name in ("runs/0001.json", "runs/0002.json", "run.json")] == [
        {"schema": 1}, {"schema": 2}, {"schema": 2}
    ]  # fmt: skip


def test_the_record_plans_the_same_cells_again(runs: Path) -> None:
    """What was resolved is the whole suite: nothing of the command line or the suite file is needed."""
    again = make_plan(Suite.model_validate(read(runs / "run.json")["suite"]))
    assert again == plan_from_json(read(runs / "plan.json"))


def test_arguments_are_there_as_given_and_as_resolved(runs: Path) -> None:
    record = read(runs / "run.json")
    assert record["arguments"][:5] == ["run", "--suite", "~/suite.yml", "--out", "out"]
    assert record["arguments"][-2:] == ["--defense", "gaussian-blur"]
    assert record["options"]["suite"] == "~/suite.yml"
    assert record["options"]["defenses"] == ["gaussian-blur"]
    assert record["options"]["device"] == "cpu"
    assert found_path(record["folder"], runs) == runs.parent


def test_plug_ins_data_code_and_arithmetic_are_identified(runs: Path, linear_plugin: Path) -> None:
    record = read(runs / "run.json")
    plugins = {plugin["plugin"]: plugin for plugin in record["plugins"]}
    assert set(plugins) == {"linear", "none", "gaussian-blur", "pgd[steps=2]", "noise[count=3]"}
    assert plugins["pgd[steps=2]"]["identity"] == "pgd-v1[restarts=1,step=none,steps=2]"
    built_in = plugins["gaussian-blur"]
    assert (built_in["distribution"], built_in["distribution_version"]) == ("robustiqa", version_of("robustiqa"))
    own = plugins["linear"]
    assert own["distribution"] is None
    assert found_path(own["origin"].removeprefix("file "), runs) == linear_plugin.resolve()
    files = {found_path(entry["file"], runs) for entry in record["plugin_files"]}
    assert linear_plugin.resolve() in files
    (dataset,) = record["datasets"]
    assert dataset["content"] == load_dataset("noise[count=3]").content_hash
    assert dataset["parameters"] == {"count": 3, "broken": -1, "bright": -1, "large": -1}
    assert dataset["images"] == 3
    assert record["code"]["digest"] == code_digest()
    assert record["packages"]["torch"] == torch.__version__
    assert "ruff" not in record["packages"]
    assert record["numerics"]["threads"] == torch.get_num_threads()
    assert record["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert record["hardware"]["memory_gb"] > 0


def test_neither_secrets_nor_the_home_folder_are_written(runs: Path) -> None:
    text = (runs / "run.json").read_text()
    assert "s3cr3t" not in text
    assert "SECRET_TOKEN" not in text
    assert str(runs.parent) not in text


@pytest.mark.parametrize(("file", "out", "shown"), [
    ("home/me/own.py", "home/me/runs/quick", "../../own.py"),
    ("home/me/own.py", "home/me", "own.py"),
    ("data/own.py", "home/me/runs", "../../../data/own.py"),
])  # fmt: skip
def test_paths_are_shown_from_the_results(tmp_path: Path, file: str, out: str, shown: str) -> None:
    assert shown_path(tmp_path / file, tmp_path / out) == shown
    assert found_path(shown, tmp_path / out) == tmp_path / file


def test_a_path_with_nothing_in_common_hides_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = Path("/elsewhere/out")
    assert shown_path(tmp_path / "own.py", out) == "~/own.py"
    assert found_path("~/own.py", out) == tmp_path / "own.py"


def test_the_state_of_the_source_tree_is_told(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git("init")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert len(clean["revision"]) == 40
    assert (clean["dirty"], clean["changes"]) == (False, None)
    changes = []
    for name, content in (("a.py", "2"), ("a.py", "3"), ("b.py", "new"), ("b.py", "newer")):
        (tmp_path / "bench" / name).write_text(content)
        state = git_state(tmp_path)
        assert state is not None
        assert state["dirty"]
        assert state["revision"] == clean["revision"]
        changes.append(state["changes"])
    assert len(set(changes)) == 4


def test_what_has_changed_between_two_records_is_named(runs: Path) -> None:
    before = read(runs / "run.json")
    assert list(differences(before, copy.deepcopy(before))) == []

    def after(*keys: str | int, value: object) -> list[str]:
        now = copy.deepcopy(before)
        inner = now
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return list(differences(before, now))

    assert after("code", "digest", value="other") == ["the code of robustiqa that decides scores has changed"]
    torch_now = after("packages", "torch", value="9.9")
    assert torch_now == [f"package torch: {torch.__version__}, now 9.9"]
    assert after("datasets", 0, "content", value="other") == [
        "the images or scores of data set 'noise[count=3]' have changed"
    ]
    assert after("hardware", "processor", value="Z80")[0].endswith("now Z80")
    assert after("hardware", "memory_gb", value=1) == []
    assert after("numerics", "threads", value=64)[0].startswith("number of threads: ")
    assert after("execution", "threads", value=64)[0].endswith("now 64")
    assert after("numerics", "default_dtype", value="torch.float64")[0].endswith("now torch.float64")
    assert after("environment", value={})[0].startswith(
        "environment variable CUBLAS_WORKSPACE_CONFIG: :4096:8, now none"
    )
    assert after("device", value="cuda") == ["device: cpu, now cuda"]
    index = next(i for i, plugin in enumerate(before["plugins"]) if plugin["plugin"] == "linear")
    assert after("plugins", index, "source", value="x") == ["the source of metric 'linear' has changed"]
    assert after("plugins", index, "digest", value="x") == ["what decides metric 'linear' has changed"]


def test_checks_have_a_digest_of_their_own(runs: Path) -> None:
    before = read(runs / "run.json")
    assert before["code"]["checks"] == checks_digest()
    now = copy.deepcopy(before)
    now["code"]["checks"] = "other"
    assert list(differences(before, now)) == ["the code of the reliability checks has changed"]
