"""Dask: the same tables on a cluster, and what the death of a worker or of the scheduler costs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from robustiqa.bench import run_suite
from robustiqa.bench.errors import RunStopped
from robustiqa.bench.executors import dask
from robustiqa.bench.plan import make_plan
from small_runs import LINUX, command, events, faulty, processes, results, rows, same_tables, started, tiny, until

pytest.importorskip("distributed")
pytestmark = pytest.mark.usefixtures("faults")


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _process(folder: Path, module: str, *words: str) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (folder / f"{module}.log").open("ab") as log, subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{module}", *words],
        env=environment, cwd=folder, stdout=log, stderr=log,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


def _scheduler(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen]:
    return _process(folder, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")


def _workers(folder: Path, address: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """Two worker processes, each started again by its nanny when it dies."""
    return _process(folder, "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard",
                    "--memory-limit", "0", "--death-timeout", "120")  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """A scheduler and two worker processes on loopback."""
    folder, port = tmp_path_factory.mktemp("cluster"), _port()
    address = f"tcp://127.0.0.1:{port}"
    with _scheduler(folder, port), _workers(folder, address):
        yield address


def test_a_cluster_gives_the_same_tables(tmp_path: Path, cluster: str) -> None:
    """Scores and attacks, in two bundles a worker; `test_a_local_cluster_needs_no_scheduler` has certificates, too."""
    suite, inline, out = tiny(certify=None, chunk=3), tmp_path / "inline", tmp_path / "out"
    run_suite(suite, inline, progress=False)
    result = run_suite(suite, out, progress=False, executor="dask", scheduler=cluster)
    assert result.ok
    assert result.computed == 8
    assert same_tables(inline, out)
    pd.testing.assert_frame_equal(rows(inline), rows(out), check_exact=True)


def test_a_worker_that_dies_in_a_cell_costs_its_try(tmp_path: Path, cluster: str) -> None:
    """The cell kills the dask worker that watches it; another worker takes the bundle, complete cells stay."""
    suite = tiny(defenses=["none", faulty("parent", tmp_path / "once", above=1)], certify=None, attacks=[], chunk=6)
    result = run_suite(suite, tmp_path / "out", progress=False, executor="dask", scheduler=cluster)
    assert result.ok
    assert (tmp_path / "once").exists()
    assert len(results(tmp_path / "out")) == 2
    found = rows(tmp_path / "out").set_index("defense")["clean"]
    assert found.loc["none"].tolist() == found.loc[faulty("parent", tmp_path / "once", above=1)].tolist()
    done = [e["cell"] for e in events(tmp_path / "out") if e["event"] == "done"]
    assert len(done) == len(set(done)) == 2


@pytest.mark.slow
def test_a_cell_that_kills_every_worker_fails_alone(tmp_path: Path, cluster: str) -> None:
    suite = tiny(defenses=["none", faulty("parent", above=1)], certify=None, attacks=[], chunk=6)
    result = run_suite(suite, tmp_path, progress=False, executor="dask", scheduler=cluster, retries=0)
    (cell,) = result.failed
    assert "dask workers" in result.failed[cell]
    assert cell in {c.id for c in make_plan(suite).cells if "parent" in c.defense}


@pytest.mark.slow
def test_a_local_cluster_needs_no_scheduler(inline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run(command(tiny(), out, "--executor", "dask", "--workers", "2"), check=True, capture_output=True)
    assert same_tables(inline, out)


def test_no_scheduler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "WAIT", 0.5)
    where = f"tcp://127.0.0.1:{_port()}"
    with pytest.raises(RunStopped, match=f"no dask scheduler with workers at {where}.*what is complete is kept"):
        run_suite(tiny(), tmp_path, progress=False, executor="dask", scheduler=where)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_scheduler_that_is_lost(tmp_path: Path, comes_back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it comes back, the run goes on; if not, it stops with a sentence, and the same command goes on later."""
    port = _port()
    where = f"tcp://127.0.0.1:{port}"
    suite = tiny(defenses=["none", faulty("slow")], certify=None, attacks=[], chunk=1, datasets=["specks[count=60]"])
    out = tmp_path / "out"
    words = command(suite, out, "--executor", "dask", "--scheduler", where)
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(_scheduler(tmp_path, port))
        workers = stack.enter_context(_workers(tmp_path, where))
        process = stack.enter_context(started(words))
        until(lambda: len(results(out)) >= 10)
        scheduler.kill()
        scheduler.wait()
        if comes_back:
            stack.enter_context(_scheduler(tmp_path, port))
            stack.enter_context(_workers(tmp_path, where))
        _, text = process.communicate(timeout=240)
        workers.terminate()
        assert process.returncode == (0 if comes_back else 1), text
        assert "Traceback" not in text, text
    if not comes_back:
        assert "run the same command again" in text
        kept = len(results(out))
        assert 10 <= kept < 120
        assert run_suite(suite, out, progress=False).resumed == kept
    assert len(results(out)) == 120
    until(lambda: not processes(str(out)), 30)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="looks at processes in /proc")
def test_workers_stop_when_the_run_is_killed(tmp_path: Path, cluster: str) -> None:
    out = tmp_path / "out"
    suite = tiny(defenses=[faulty("slow")], certify=None, attacks=[], chunk=1, datasets=["specks[count=400]"])
    with started(command(suite, out, "--executor", "dask", "--scheduler", cluster)) as process:
        until(lambda: len(results(out)) >= 3)
        process.kill()
        process.wait()
    until(lambda: not processes(str(out)), 30)
    assert len(results(out)) < 800
