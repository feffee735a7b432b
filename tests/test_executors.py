"""Executors: the same tables from all of them, and what a fault in a cell costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import Absent, BadParameter, RunStopped, UnknownName
from robustiqa.bench.executors import dask as dask_module
from robustiqa.bench.executors import local as local_module
from robustiqa.bench.executors import slurm as slurm_module
from robustiqa.bench.executors.choose import choose
from robustiqa.bench.executors.job import Job, SameCells
from robustiqa.bench.executors.local import Local, Work
from robustiqa.bench.interrupt import Terminated, terminable
from robustiqa.bench.plan import make_plan
from robustiqa.bench.registry import registry
from robustiqa.bench.run import slurm_script
from robustiqa.bench.status import status
from robustiqa.bench.store import Store
from small_runs import (
    FAULTS,
    LINUX,
    command,
    events,
    faulty,
    processes,
    results,
    rows,
    same_tables,
    started,
    tables,
    tiny,
    until,
    words_of,
)

pytestmark = pytest.mark.usefixtures("faults", "no_pause")


def test_local_workers_give_the_same_tables(inline: Path, tmp_path: Path) -> None:
    result = run_suite(tiny(), tmp_path, progress=False, executor="local", workers=2)
    assert result.ok
    assert result.computed == len(make_plan(tiny()).cells) == 15
    assert same_tables(inline, tmp_path)
    pd.testing.assert_frame_equal(rows(inline), rows(tmp_path), check_exact=True)
    assert {e["worker"].rsplit("-", 1)[1] for e in events(tmp_path) if e["event"] == "done"} == {"0", "1"}
    assert len([e for e in events(tmp_path) if e["event"] == "done"]) == 15
    if LINUX:
        assert not processes(str(tmp_path))


def test_a_signal_is_passed_on_only_when_the_workers_have_ended(
    inline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that takes its time to stop is waited for, whatever CPython's `join` does on signals."""
    ended = threading.Event()

    def slow(*words: object) -> None:
        stopped = words[-1]
        assert callable(stopped)
        time.sleep(0.3)  # until it is waited for
        os.kill(os.getpid(), signal.SIGTERM)
        until(stopped, 10)
        time.sleep(0.3)
        ended.set()

    monkeypatch.setattr(local_module, "supervise", slow)
    plan, store = make_plan(tiny()), Store(tmp_path)
    with pytest.raises(Terminated), terminable():
        Local(1, 1, "cpu").execute(Job.read(inline), plan.cells, store, lambda event: None)
    assert ended.is_set()


def test_submitits_local_executor_gives_the_same_tables(inline: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = {"cluster": "local"}  # one worker has two bundles; each more would be two processes more
    result = run_suite(tiny(), tmp_path, progress=False, executor="slurm", workers=1, slurm=options)
    assert result.ok
    assert same_tables(inline, tmp_path)
    pd.testing.assert_frame_equal(rows(inline), rows(tmp_path), check_exact=True)


@pytest.mark.parametrize(("chunk", "batch"), [
    (1, None), (8, None), (64, None), (8, 1), (8, 4),
    *(pytest.param(chunk, batch, marks=pytest.mark.slow) for chunk in (1, 64) for batch in (1, 4)),
])  # fmt: skip
def test_chunks_and_batches_do_not_change_results(inline: Path, tmp_path: Path, chunk: int, batch: int | None) -> None:
    run_suite(tiny(chunk=chunk), tmp_path, progress=False, batch=batch)
    known = tables(inline, None)
    for name, table in tables(tmp_path, None).items():
        pd.testing.assert_frame_equal(table, known[name], rtol=1e-4, atol=1e-6, obj=name)
    assert rows(tmp_path)["batch"].isna().all()


def test_workers_of_another_ground_are_refused(inline: Path) -> None:
    job = Job.read(inline)
    job.enter()
    for changes, words in (
        ({"code": "another"}, "another code of robustiqa"),
        ({"packages": ("torch 0",)}, "another packages"),
        ({"plugins": ((str(FAULTS), "0"),)}, "another plug-in file"),
        ({"plugins": (("/nowhere.py", "0"),)}, "no plug-in file '/nowhere.py'"),
    ):
        with pytest.raises(RunStopped, match=words):
            replace(job, **changes).enter()


def test_data_are_digested_where_they_were_not_planned(inline: Path, tmp_path: Path) -> None:
    """The planner's host is believed, another one reads each data set once, and other data are refused."""
    job, plan = Job.read(inline), make_plan(tiny())
    cell, contents, factory = plan.cells[0], dict(plan.datasets), registry.get("dataset", "specks").factory
    (tmp_path / "log").mkdir()
    SameCells(tmp_path, job, contents).check(cell, factory(count=6))
    elsewhere = replace(job, host="another")
    other = factory(count=6)
    other.items = other.items[:5]
    for _ in range(2):
        with pytest.raises(RunStopped, match="other data"):
            SameCells(tmp_path, elsewhere, contents).check(cell, other)
    assert not list((tmp_path / "log").iterdir())
    SameCells(tmp_path, elsewhere, contents).check(cell, factory(count=6))
    (seen,) = (tmp_path / "log").iterdir()
    assert seen.read_text() == f"{cell.dataset}\n"
    untouched = factory(count=6)
    SameCells(tmp_path, elsewhere, contents).check(cell, untouched)
    assert vars(untouched)["content_hash"] == contents[cell.dataset]


def test_a_plugin_that_changes_while_workers_start_stops_the_run(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "from robustiqa.bench import register_metric\nimport torch\n"
        "@register_metric('own-mean')\nclass Own(torch.nn.Module):\n    '''x'''\n"
        "    def forward(self, x):\n        return x.mean((1, 2, 3))\n"
    )
    registry.load_file(plugin)
    try:
        plugin.write_text(plugin.read_text() + "\n")
        with pytest.raises(RunStopped, match="another plug-in file"):
            run_suite(tiny(metrics=["own-mean"]), tmp_path / "out", progress=False, executor="local", workers=1)
    finally:
        registry._files.pop(plugin.resolve())


@pytest.mark.parametrize(("name", "options", "error", "words"), [
    ("inline", {"workers": 2}, BadParameter, "use --executor local"),
    ("inline", {"scheduler": "tcp://x:1"}, BadParameter, "belongs to --executor dask"),
    ("local", {"slurm": {"time": "1"}}, BadParameter, "belongs to --executor slurm"),
    ("local", {"workers": 0}, BadParameter, "at least 1"),
    ("slurm", {"slurm": {"cluster": "moon"}}, BadParameter, "slurm or local"),
    ("slurm", {"slurm": {"cluster": "local", "cpus_per_task": "x"}}, BadParameter, "integer"),
    ("dusk", {}, UnknownName, "did you mean 'dask'"),
])  # fmt: skip
def test_impossible_options(name: str, options: dict, error: type[Exception], words: str) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(error, match=words):
        choose(name, **options)


def test_engines_that_are_not_installed_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_module, "distributed", None)
    monkeypatch.setattr(slurm_module, "submitit", None)
    for name in ("dask", "slurm"):
        with pytest.raises(Absent, match=rf"robustiqa\[{name}\]"):
            choose(name)


@pytest.mark.parametrize(("options", "words"), [
    (["--cell-timeout", "5"], "add --executor local"),
    (["--retries", "-1"], "--retries -1"),
    (["--batch", "0"], "--batch 0"),
    (["--executor", "local", "--cell-timeout", "0"], "seconds > 0"),
])  # fmt: skip
def test_command_line_refuses_in_a_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    found = CliRunner().invoke(cli, words_of(tiny(), tmp_path / "out", *options))
    assert found.exit_code == 1
    assert words in found.output


def test_a_worker_without_work_takes_half_of_anothers() -> None:
    cells = make_plan(tiny()).cells
    work = Work([cells[:10]])
    first, second = work.of(0), work.of(1)
    taken = [next(first), next(second), *first, *second]
    assert sorted(c.id for c in taken) == sorted(c.id for c in cells[:10])
    assert taken[1] != cells[1]


def test_printed_script_and_work_do_what_a_run_does(inline: Path, tmp_path: Path) -> None:
    """The script of the job array is run here, with its array index in the environment."""
    options = {"partition": "long", "time": "30"}
    script = slurm_script(tiny(), tmp_path / "out", workers=2, slurm=options)
    lines = script.splitlines()
    assert "#SBATCH --partition=long" in lines
    assert "#SBATCH --time=30" in lines
    (array,) = [line for line in lines if "--array" in line]
    last = int(array.split("=")[1].split("%")[0].split("-")[1])
    assert array.endswith("%2")
    (tmp_path / "job.sh").write_text(script)
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=_environment(last), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    share = len(results(tmp_path / "out"))
    assert 0 < share < 15
    result = run_suite(tiny(), tmp_path / "out", progress=False)
    assert (result.resumed, result.computed) == (share, 15 - share)
    assert same_tables(inline, tmp_path / "out")


def _environment(index: int) -> dict[str, str]:
    return {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), "PYTHONPATH": ":".join(p for p in sys.path if p)}


def test_overwrite_all_computes_again_and_images_are_kept(inline: Path, tmp_path: Path) -> None:
    suite = tiny(defenses=["none"], certify=None)
    run_suite(suite, tmp_path, progress=False)
    result = run_suite(suite, tmp_path, progress=False, save_images=True)
    attacks = [c for c in make_plan(suite).cells if c.kind == "attack"]
    assert (result.computed, result.resumed) == (3, 3), "cells without their images are not complete"
    store = Store(tmp_path)
    for cell in attacks:
        images = store.read_images(cell.id)
        assert sorted(images) == sorted(store.read_cell(cell.id)["image"].to_pylist())
        assert all(image.shape == (3, 16, 16) for image in images.values())
    assert run_suite(suite, tmp_path, progress=False, save_images=True).computed == 0
    before = rows(tmp_path)
    assert run_suite(suite, tmp_path, progress=False, overwrite="all").computed == 6
    pd.testing.assert_frame_equal(rows(tmp_path), before, check_exact=True)


def test_status_prints_a_table_or_json(inline: Path) -> None:
    text = CliRunner().invoke(cli, ["status", str(inline)]).output
    assert "| all" in text
    data = json.loads(CliRunner().invoke(cli, ["status", str(inline), "--json"]).output)
    assert sum(group["done"] for group in data["groups"]) == 15
    assert data["cells_per_hour"] > 0


def test_torn_lines_of_a_log_are_passed_over(inline: Path, tmp_path: Path) -> None:
    shutil.copytree(inline, tmp_path / "out")
    for path in (tmp_path / "out" / "log").glob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-20] + b"\xff{not json\n")
    assert status(tmp_path / "out").total("done") == 15


@pytest.fixture
def slurm_here() -> None:
    """Skip unless this machine has a SLURM that takes jobs; docs/running.md says how to set up one for tests."""
    pytest.importorskip("submitit")
    if shutil.which("sinfo") is None or b"idle" not in subprocess.run(["sinfo"], capture_output=True).stdout:
        pytest.skip("no SLURM with an idle node: `sinfo` shows none")


@pytest.mark.slow
def test_slurm_gives_the_same_tables(inline: Path, tmp_path: Path, slurm_here: None) -> None:
    result = run_suite(tiny(), tmp_path, progress=False, executor="slurm", workers=2, slurm={"time": "20"})
    assert result.ok
    assert same_tables(inline, tmp_path)


@pytest.mark.slow
def test_slurm_tasks_that_are_cancelled_are_submitted_again(tmp_path: Path, slurm_here: None) -> None:
    out = tmp_path / "out"
    suite = tiny(defenses=["none", faulty("slow")], certify=None, attacks=[], chunk=1, datasets=["specks[count=60]"])
    with started(command(suite, out, "--executor", "slurm", "--workers", "2", "--slurm", "time=20")) as process:
        until(lambda: len(results(out)) >= 5)
        (folder,) = {p.name.split("_")[0] for p in (out / "log" / "slurm").glob("*_submitted.pkl")}
        subprocess.run(["scancel", folder], check=True)
        _, text = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert len(results(out)) == 120
    assert len(list((out / "log").glob("*.bundles.json"))) == 2


@pytest.mark.slow
def test_interrupted_run_cancels_its_slurm_tasks(tmp_path: Path, slurm_here: None) -> None:
    out = tmp_path / "out"
    suite = tiny(defenses=[faulty("slow")], certify=None, attacks=[], chunk=1, datasets=["specks[count=200]"])
    with started(command(suite, out, "--executor", "slurm", "--workers", "2", "--slurm", "time=20")) as process:
        until(lambda: len(results(out)) >= 3)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in text
    (job,) = {p.name.split("_")[0] for p in (out / "log" / "slurm").glob("*_submitted.pkl")}
    until(lambda: not subprocess.run(["squeue", "-hj", job], capture_output=True).stdout, 60)
    until(lambda: not processes(str(out)), 30)


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_threads_give_the_same_tables(tmp_path: Path, threads: int) -> None:
    """Inline with T threads and a local worker with T; another thread count agrees up to rounding only."""
    before = torch.get_num_threads()
    suite = tiny(metrics=["tiny-iqa"], datasets=["photos[size=128,subset=references,limit=2]"], certify=None)
    run_suite(suite, tmp_path / "inline", progress=False, threads=threads)
    run_suite(suite, tmp_path / "local", progress=False, threads=threads, executor="local", workers=1)
    assert torch.get_num_threads() == before
    assert Job.read(tmp_path / "local").threads == threads
    pd.testing.assert_frame_equal(rows(tmp_path / "inline"), rows(tmp_path / "local"), check_exact=True)


def test_trusted_files_and_sibling_modules_reach_the_workers(tmp_path: Path) -> None:
    """A network in a file that `--trust` names, which imports another file beside it."""
    (tmp_path / "own_part.py").write_text("import torch\n\n\ndef score(x):\n    return x.mean((1, 2, 3))\n")
    (tmp_path / "own_net.py").write_text(
        "import torch\nfrom own_part import score\n\n\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return score(x)\n"
    )
    metric = f"module[file={tmp_path / 'own_net.py'},class=Net]"
    words = command(tiny(metrics=[metric], certify=None, attacks=[], defenses=["none"]), tmp_path / "out")
    words += ["--trust", str(tmp_path / "own_net.py"), "--executor", "local", "--workers", "1"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "out")) == 3
