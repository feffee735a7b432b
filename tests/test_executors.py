"""Executors: the same tables from all of them, and what a fault in a cell costs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import Absent, BadData, BadParameter, RunStopped, UnknownName
from robustiqa.bench.executors import dask as dask_module
from robustiqa.bench.executors import slurm as slurm_module
from robustiqa.bench.executors import supervisor
from robustiqa.bench.executors.choose import choose
from robustiqa.bench.executors.job import Job, SameCells
from robustiqa.bench.executors.local import Work
from robustiqa.bench.plan import make_plan
from robustiqa.bench.registry import registry
from robustiqa.bench.run import slurm_script
from robustiqa.bench.status import status
from robustiqa.bench.store import Store
from runs import (
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
)


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    registry.load_file(FAULTS)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE", 0.0)


@pytest.fixture(scope="module")
def inline(tmp_path_factory) -> Path:
    """The tiny suite, undisturbed."""
    out = tmp_path_factory.mktemp("runs") / "inline"
    assert run_suite(tiny(), out, progress=False).ok
    return out


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


def test_submitits_local_executor_gives_the_same_tables(inline: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = {"cluster": "local"}
    result = run_suite(tiny(), tmp_path, progress=False, executor="slurm", workers=2, slurm=options)
    assert result.ok
    assert same_tables(inline, tmp_path)
    pd.testing.assert_frame_equal(rows(inline), rows(tmp_path), check_exact=True)


@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_chunks_and_batches_do_not_change_results(inline: Path, tmp_path: Path, chunk: int, batch: int | None) -> None:
    run_suite(tiny(chunk=chunk), tmp_path, progress=False, batch=batch)
    known = tables(inline, None)
    for name, table in tables(tmp_path, None).items():
        pd.testing.assert_frame_equal(table, known[name], rtol=1e-4, atol=1e-6, obj=name)
    assert rows(tmp_path)["batch"].isna().all()


@pytest.fixture(scope="module")
def survivor(tmp_path_factory) -> Path:
    """A local run whose cells do everything that a process may do to itself."""
    out = tmp_path_factory.mktemp("faults") / "out"
    here = out.parent
    defenses = ["none", faulty("raise"), faulty("segv"), faulty("exit", here / "exited"), faulty("hang", here / "hung"),
                faulty("kill", here / "killed", above=2)]  # fmt: skip
    suite = tiny(defenses=defenses, certify=None, attacks=[], chunk=6)
    result = run_suite(suite, out, progress=False, executor="local", workers=2, retries=1, cell_timeout=4)
    assert set(result.failed) == {c.id for c in make_plan(suite).cells if "raise" in c.defense or "segv" in c.defense}
    return out


def _of(out: Path, how: str) -> list[dict]:
    return [e for e in events(out) if f"how={how}" in e.get("label", "")]


def test_a_fault_costs_tries_of_its_own_cell_only(survivor: Path) -> None:
    found = rows(survivor).set_index("defense")
    for how in ("exit", "hang", "kill"):
        (cell,) = [d for d in found.index.unique() if f"how={how}" in d]
        assert found["clean"][cell].tolist() == found["clean"]["none"].tolist()
        assert [e["event"] for e in _of(survivor, how)] == ["start", "retry", "start", "done"]


@pytest.mark.parametrize(("how", "words"), [
    ("exit", "with exit code 3"), ("hang", "time limit of 4 s"), ("kill", "by signal SIGKILL"),
    ("segv", "by signal SIGSEGV"),
])  # fmt: skip
def test_the_log_says_what_happened(survivor: Path, how: str, words: str) -> None:
    assert words in _of(survivor, how)[1]["error"]


def test_a_bug_is_not_tried_again_and_a_crash_is(survivor: Path) -> None:
    assert [e["event"] for e in _of(survivor, "raise")] == ["start", "failed"]
    assert [e["event"] for e in _of(survivor, "segv")] == ["start", "retry", "start", "failed"]
    records = {path.name: json.loads(path.read_text()) for path in (survivor / "errors").iterdir()}
    tries = {r["error"]: len(r["tries"]) for r in records.values()}
    assert sorted(tries.values()) == [1, 2]
    segv = next(r for r in records.values() if "SIGSEGV" in r["error"])
    assert "Segmentation fault" in segv["traceback"], "the last words of the child"
    assert "purify" in segv["traceback"]


def test_a_killed_try_is_repeated_with_fewer_images(survivor: Path) -> None:
    """As after the kernel's out-of-memory killer: half of the six images, and the column says so."""
    found = rows(survivor)
    assert set(found[found["defense"].str.contains("how=kill")]["batch"]) == {3}
    assert found[~found["defense"].str.contains("how=kill")]["batch"].isna().all()


@pytest.mark.parametrize(("above", "batches"), [(4, [3] * 6), (2, [2] * 6), (1, [1] * 6)])
def test_too_little_memory_halves_the_batch(tmp_path: Path, above: int, batches: list[int]) -> None:
    suite = tiny(defenses=["none", faulty("memory", above=above)], certify=None, chunk=8)
    assert run_suite(suite, tmp_path, progress=False).ok
    found = rows(tmp_path).set_index("defense")
    small, whole = found.loc[faulty("memory", above=above)], found.loc["none"]
    assert small["batch"].tolist() == batches * 2
    assert whole["batch"].isna().all()
    for column in ("clean", "attacked", "gain"):
        assert small[column].to_numpy(float) == pytest.approx(whole[column].to_numpy(float), rel=1e-5, nan_ok=True)


def test_memory_that_does_not_suffice_for_one_image_fails_the_cell(tmp_path: Path) -> None:
    suite = tiny(defenses=["none", faulty("memory")], certify=None, attacks=[])
    result = run_suite(suite, tmp_path, progress=False)
    assert len(result.failed) == 3
    assert all("out of memory with one image at a time" in message for message in result.failed.values())


def test_a_stale_file_handle_is_tried_again_and_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    suite = tiny(defenses=[faulty("stale", tmp_path / "stale"), "none"], certify=None, attacks=[])
    assert run_suite(suite, tmp_path / "a", progress=False).ok
    assert [e["error"] for e in events(tmp_path / "a") if e["event"] == "retry"] == [
        "OSError: [Errno 116] Stale file handle"
    ]
    suite = tiny(defenses=["none", faulty("full", tmp_path / "full")], certify=None, attacks=[])
    with pytest.raises(RunStopped, match="No space left"):
        run_suite(suite, tmp_path / "b", progress=False)
    kept = {p: p.stat().st_mtime_ns for p in results(tmp_path / "b")}
    assert len(kept) == 3
    assert run_suite(suite, tmp_path / "b", progress=False).resumed == 3
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_transient_fault_that_stays_fails_the_cell_with_every_try(tmp_path: Path) -> None:
    suite = tiny(defenses=["none", faulty("stale")], certify=None, attacks=[], chunk=6)
    result = run_suite(suite, tmp_path, progress=False, retries=2)
    (cell,) = result.failed
    assert len(Store(tmp_path).read_json(f"errors/{cell}.json")["tries"]) == 3
    again = run_suite(suite, tmp_path, progress=False, retries=0)
    assert (again.computed, again.resumed, set(again.failed)) == (0, 1, {cell})
    assert len(Store(tmp_path).read_json(f"errors/{cell}.json")["tries"]) == 1


def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    with Store(tmp_path).locked(), pytest.raises(BadData, match="another run"):
        run_suite(tiny(), tmp_path, progress=False)
    assert not results(tmp_path)


@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_interrupted_run_leaves_no_children_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    suite = tiny(defenses=[faulty("slow")], certify=None, attacks=[], chunk=1)
    out = tmp_path / "out"
    with started(command(suite, out, "--executor", "local", "--workers", "2")) as process:
        until(lambda: len(results(out)) >= 3)
        assert status(out).active
        process.send_signal(number)
        _, text = process.communicate(timeout=30)
    assert process.returncode == code
    assert "the same command goes on" in text
    assert "cells are complete and kept" in text
    assert "Traceback" not in text
    assert not processes(str(out))
    found = status(out)
    assert (found.active, found.ended) == (False, "interrupted")


@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
@pytest.mark.parametrize("how", ["gil", pytest.param("slow", marks=pytest.mark.slow)])
def test_kill_9_leaves_no_children(tmp_path: Path, how: str) -> None:
    """Not even one that holds the interpreter in the middle of a cell."""
    out = tmp_path / "out"
    suite = tiny(defenses=["none", faulty(how)], certify=None, attacks=[], chunk=1)
    with started(command(suite, out, "--executor", "local", "--workers", "1")) as process:
        until(lambda: [e for e in events(out) if f"how={how}" in e.get("label", "")])
        child = [p for p in processes(str(out)) if p != process.pid]
        assert child
        process.kill()
        process.wait()
    until(lambda: not processes(str(out)), 10)


@pytest.mark.slow
def test_kill_9_at_20_moments_loses_nothing(tmp_path: Path) -> None:
    _killed(tmp_path, 20)


@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
def test_kill_9_at_3_moments_loses_nothing(tmp_path: Path) -> None:
    _killed(tmp_path, 3)


def _killed(folder: Path, moments: int) -> None:
    """Kill the main process at random moments: while it plans, starts and computes, or just after another result."""
    suite = tiny(defenses=["none", faulty("slow")], certify=None, datasets=[f"specks[count={2 * moments}]"], chunk=1)
    out, whole, chance = folder / "out", folder / "whole", random.Random(moments)
    assert run_suite(suite, whole, progress=False).ok
    words = command(suite, out, "--executor", "local", "--workers", "2")
    for k in range(moments):
        before = len(results(out))
        with started(words) as process:
            if k % 2:
                time.sleep(chance.uniform(0.2, 7))
            else:
                until(lambda n=before: len(results(out)) > n)
                time.sleep(chance.uniform(0, 0.3))
            assert process.poll() is None, "it ended before it could be killed"
            process.kill()
            process.wait()
        until(lambda: not processes(str(out)), 10)
    kept = {p: p.stat().st_mtime_ns for p in results(out)}
    assert kept.keys() < {out / p.relative_to(whole) for p in results(whole)}
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "what is complete is not computed again"
    assert same_tables(whole, out)
    assert len(results(out)) == len(results(whole))
    assert not list(out.rglob(".*.tmp"))


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
    words_of_run = command(tiny(), tmp_path / "out", *options)[3:]
    found = CliRunner().invoke(cli, words_of_run)
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


def test_status_counts_every_cell_once(survivor: Path, inline: Path) -> None:
    found = status(survivor)
    assert (found.total("done"), found.total("failed"), found.total("left")) == (4, 2, 0)
    assert found.ended == "complete"
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
