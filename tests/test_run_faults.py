"""What a fault costs: tries of its own cell. What an interruption costs: nothing."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from copies import copied
from robustiqa.bench import run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, RunStopped
from robustiqa.bench.executors import supervisor
from robustiqa.bench.plan import make_plan
from robustiqa.bench.status import status
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard import collect
from small_runs import (
    LINUX,
    command,
    events,
    faulty,
    processes,
    results,
    rows,
    same_tables,
    started,
    tiny,
    until,
    words_of,
)

pytestmark = pytest.mark.usefixtures("faults", "no_pause")


@pytest.fixture(scope="module")
def survivor(faults: None, tmp_path_factory) -> Path:
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
    assert "failed: it stopped with an error" in _nothing_goes_on(tmp_path / "b")
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
    with copied(words_of(suite, out, "--executor", "local", "--workers", "1")) as process:
        until(lambda: len(results(out)) >= 3)
        assert status(out).active
        process.send(number)
        assert process.wait(30) == code
        text = process.said
    assert "the same command goes on" in text
    assert "cells are complete and kept" in text
    assert "Traceback" not in text
    assert not processes(str(out))
    found = status(out)
    assert (found.active, found.ended) == (False, "interrupted")
    _nothing_goes_on(out)


def _nothing_goes_on(out: Path) -> str:
    """What `status` says of a run that is over and has cells left."""
    found, said = status(out), CliRunner().invoke(cli, ["status", str(out)]).output
    assert not found.active
    assert (found.total("running"), found.workers, found.seconds_left) == (0, (), None)
    assert found.total("left") > 0
    assert "the same command goes on where it stopped" in said
    assert not re.search(r"about .* left|since|between two cells|lost", said)
    return said


@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
@pytest.mark.parametrize("how", ["gil", pytest.param("slow", marks=pytest.mark.slow)])
def test_kill_9_leaves_no_children(tmp_path: Path, how: str) -> None:
    """Not even one that holds the interpreter in the middle of a cell."""
    out = tmp_path / "out"
    suite = tiny(defenses=["none", faulty(how)], certify=None, attacks=[], chunk=1)
    with copied(words_of(suite, out, "--executor", "local", "--workers", "1")) as process:
        until(lambda: [e for e in events(out) if f"how={how}" in e.get("label", "")])
        assert processes(str(out)), "the child"
        process.send(signal.SIGKILL)
        process.wait()
    until(lambda: not processes(str(out)), 10)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
def test_kill_9_at_20_moments_loses_nothing(tmp_path: Path) -> None:
    """At random ones: while it plans, starts and computes, or just after another result."""
    suite, out, chance = _slow(40), tmp_path / "out", random.Random(20)
    words = command(suite, out, "--executor", "local", "--workers", "2")
    for k in range(20):
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
    _goes_on(suite, out, "local", 2)


@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
def test_kill_9_between_two_results_loses_nothing(tmp_path: Path) -> None:
    suite, out = _slow(2), tmp_path / "out"
    with copied(words_of(suite, out, "--executor", "local", "--workers", "1")) as process:
        until(lambda: len(results(out)) >= 3)
        process.send(signal.SIGKILL)
        process.wait()
    assert "the last one was killed" in _nothing_goes_on(out), "at once, on its own host"
    until(lambda: not processes(str(out)), 10)
    _goes_on(suite, out, "inline", None)


def _slow(images: int) -> Suite:
    return tiny(defenses=["none", faulty("slow")], certify=None, datasets=[f"specks[count={images}]"], chunk=1)


def _goes_on(suite: Suite, out: Path, executor: str, workers: int | None) -> None:
    """The next run ends what was killed: what is complete is kept, the tables are those of one that was left alone."""
    whole = out.with_name("whole")
    assert run_suite(suite, whole, progress=False).ok
    kept = {p: p.stat().st_mtime_ns for p in results(out)}
    assert kept.keys() < {out / p.relative_to(whole) for p in results(whole)}
    assert run_suite(suite, out, progress=False, executor=executor, workers=workers).resumed == len(kept)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "what is complete is not computed again"
    assert same_tables(whole, out)
    assert len(results(out)) == len(results(whole))
    assert not list(out.rglob(".*.tmp"))


def test_status_counts_every_cell_once(survivor: Path) -> None:
    found = status(survivor)
    assert (found.total("done"), found.total("failed"), found.total("left")) == (4, 2, 0)
    assert found.ended == "complete"


def test_a_cell_that_was_lost_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an executor does with it."""
    compute = supervisor._one
    monkeypatch.setattr(supervisor, "_one", lambda cell, *rest: None if cell.start == 2 else compute(cell, *rest))
    suite = tiny(defenses=["none"], certify=None, attacks=[])
    result = run_suite(suite, tmp_path, progress=False)
    assert not result.ok
    assert list(result.failed.values()) == ["it has neither a result nor an error; see the logs, and run again"]
    assert (result.computed, result.resumed) == (2, 0)
    monkeypatch.undo()
    assert run_suite(suite, tmp_path, progress=False).ok


def test_status_counts_what_is_computed_once_more_as_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of before are not of this run."""
    suite, out, seen = tiny(defenses=["none"], certify=None, attacks=[]), tmp_path / "out", list[tuple[int, int]]()
    run_suite(suite, out, progress=False)
    one = supervisor._one

    def look(*given: Any) -> None:
        found = status(out)
        seen.append((found.total("done"), found.total("left") + found.total("running")))
        one(*given)

    monkeypatch.setattr(supervisor, "_one", look)
    run_suite(suite, out, progress=False, overwrite="all")
    assert seen == [(0, 3), (1, 2), (2, 1)]
    assert status(out).total("done") == 3


def test_a_run_without_a_board_says_what_failed_beside_what_is_wrong(tmp_path: Path) -> None:
    out, none = tmp_path / "out", tiny(defenses=["none"], certify=None, attacks=[])
    run_suite(none, out, progress=False)
    cell = make_plan(none).cells[0].id
    rows = Store(out).read_cell(cell).to_pylist()
    Store(out).write_cell(cell, [row | {"clean": float("inf")} for row in rows])
    both = tiny(defenses=["none", faulty("raise")], certify=None, attacks=[], chunk=2)
    found = CliRunner().invoke(cli, words_of(both, out))
    assert found.exit_code == 1
    assert "clean is inf" in found.output
    assert found.output.count("failed: RuntimeError: a bug in the defence") == 3
    assert Store(out).read_json("run.json")["failed"] == 3
    assert status(out).ended == "no board"
    assert "wrote no board: `robustiqa collect" in CliRunner().invoke(cli, ["status", str(out)]).output


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("plan.json", lambda d: d["cells"][0].update(id="../../x")),
        ("plan.json", lambda d: d["cells"][0].update(kind="evil")),
        ("plan.json", lambda d: d["cells"][0].update(stop=10**12)),
        ("plan.json", lambda d: d.update(cells="x")),
        ("run.json", lambda d: d.update(plugins=7)),
        ("job.json", lambda d: d.update(run="/etc/x")),
        ("job.json", lambda d: d.update(run="../x")),
    ],
)
def test_files_that_no_run_has_written_are_one_sentence(tmp_path: Path, survivor: Path, file: str, change: Any) -> None:
    root = tmp_path / "run"
    shutil.copytree(survivor, root)
    data = json.loads((root / file).read_text())
    change(data)
    (root / file).write_text(json.dumps(data))
    read: Any = collect if file == "run.json" else status
    with pytest.raises(BadData, match=rf"{file}.* (is damaged|cannot be read)"):
        read(root)
