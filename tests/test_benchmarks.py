"""Readings in turns, on machines made up so that the truth is known; equal work; errors that do not stop the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.bench.errors import BadParameter
from torch import nn

from benchmarks import attacking, certification, peak, scaling, session, subjects
from benchmarks.__main__ import main
from benchmarks.interleave import (
    Readings,
    UnequalWork,
    as_told,
    by_clock,
    by_timer,
    equal,
    exponent,
    interleave,
    ratios,
    slope,
    summarise,
)
from benchmarks.profiles import profiled
from benchmarks.subjects import Best, bare, defended
from benchmarks.tables import Settings, Table, compare, series

QUICK = Settings(quick=True, rounds=3)


class Machine:
    """A clock that work moves on: by its cost, times how slow the machine is at the time."""

    def __init__(self, slowness: Callable[[float], float]) -> None:
        self.now, self.slowness = 0.0, slowness

    def work(self, cost: float) -> Callable[[], float]:
        def run() -> float:
            took = cost * self.slowness(self.now)
            self.now += took
            return took

        return run


def drifting() -> Machine:
    """Three times as slow after the first hundred seconds, and so on."""
    return Machine(lambda now: 1 + now / 50)


def test_a_drift_of_the_machine_cancels_in_turns_and_not_in_blocks() -> None:
    costs = {"bare": 1.0, "ours": 2.0, "peer": 0.5}
    machine, block = drifting(), drifting()
    found = ratios(interleave({k: machine.work(c) for k, c in costs.items()}, 15, read=as_told), "bare")
    # Each case in a block of its own, as pytest-benchmark and asv time it: same machine, same number of readings.
    blocks = {k: np.array([block.work(c)() for _ in range(16)])[1:] for k, c in costs.items()}
    for name, cost in costs.items():
        assert found[name].median == pytest.approx(cost, rel=0.05)
        assert found[name].lo <= cost * 1.05
        assert found[name].hi >= cost * 0.95
    wrong = {name: float(np.median(values) / np.median(blocks["bare"])) for name, values in blocks.items()}
    assert wrong["ours"] > 1.5 * costs["ours"]
    assert wrong["peer"] > 1.5 * costs["peer"]


def test_what_something_else_ran_into_does_not_move_the_median() -> None:
    rng = np.random.default_rng(0)
    machine = Machine(lambda now: 1.0 if rng.random() > 0.2 else 30.0)
    readings = interleave({"bare": machine.work(1.0), "ours": machine.work(1.5)}, 41, read=as_told)
    found = ratios(readings, "bare")
    assert found["ours"].median == pytest.approx(1.5, rel=1e-9)
    assert readings.values["ours"].max() > 30


def test_the_baseline_is_one_and_speed_is_the_inverse() -> None:
    readings = Readings({"bare": np.array([1.0, 2.0, 4.0]), "ours": np.array([2.0, 4.0, 8.0])})
    cost, speed = ratios(readings, "bare"), ratios(readings, "bare", speed=True)
    assert cost["bare"] == (1, 1, 1, 1, 1, 3)
    assert cost["ours"] == (2, 2, 2, 2, 2, 3)
    assert speed["ours"] == (0.5, 0.5, 0.5, 0.5, 0.5, 3)


def test_the_order_is_shuffled_anew_each_round_and_all_run_in_each() -> None:
    seen: list[str] = []
    interleave({name: lambda name=name: seen.append(name) or 1.0 for name in "abc"}, 20, read=as_told, warm_up=2)
    orders = ["".join(seen[k : k + 3]) for k in range(0, 66, 3)]
    assert len(seen) == 66
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) == 6


def test_the_interval_covers_the_true_median() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        found = summarise(2 * np.exp(0.3 * rng.standard_normal(11)), seed)
        assert found.lo <= found.median <= found.hi
        assert found.q1 <= found.median <= found.q3
        inside += found.lo <= 2 <= found.hi
    assert 0.88 <= inside / 200 <= 1.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_growth_is_the_power(power: float) -> None:
    x = [10.0, 20.0, 70.0]
    drift = np.linspace(1, 3, 7)  # of the machine, from round to round
    assert exponent(x, [v**power * drift for v in x]).median == pytest.approx(power, abs=1e-12)
    assert slope(x, [5 + power * v + np.zeros(3) for v in x]).median == pytest.approx(power)


def test_a_series_is_read_off_its_first_point() -> None:
    machine = drifting()
    works = {x: machine.work(0.1 * x) for x in (1.0, 2.0, 4.0)}
    made = series(works, "name", "title", "how", expected=1.0, settings=replace(QUICK, rounds=9), read=as_told)
    assert [row.x for row in made.rows] == [1, 2, 4]
    assert [row.ratio.median for row in made.rows] == pytest.approx([1, 2, 4], rel=0.05)
    assert made.growth is not None
    assert made.growth.median == pytest.approx(1, rel=0.05)


def test_how_a_reading_is_made() -> None:
    before, seen = torch.get_num_threads(), []

    def work() -> float:
        seen.append(torch.get_num_threads())
        return 42.0

    assert 0 < by_timer(work) < 0.1
    assert seen == [before] * 3, "two calls to warm up, one that counts, with our threads"
    assert 0 < by_clock(work) < 0.1
    assert len(seen) == 4
    assert as_told(work) == 42


def test_one_that_fails_is_named_and_the_others_go_on() -> None:
    calls = 0

    def late() -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ValueError("no\nmore")
        return 1.0

    made = compare({"bare": lambda: 1.0, "late": late, "ours": lambda: 2.0}, QUICK, read=as_told, name="n", title="t",
                   how="h", baseline="bare", reads="cost")  # fmt: skip
    assert [row.name for row in made.rows] == ["bare", "ours"]
    assert made.rows[1].ratio == (2, 2, 2, 2, 2, QUICK.rounds)
    assert list(made.errors) == ["late"]
    assert made.errors["late"].startswith("ValueError: no more (late, line ")
    lost = compare({"bare": late, "ours": lambda: 2.0}, QUICK, read=as_told, name="n", title="t", how="h",
                   baseline="none", reads="cost")  # fmt: skip
    assert lost.rows == [], "without a baseline there is no ratio"


def one_table(errors: dict[str, str]) -> Callable[[Settings], Iterator[Table]]:
    def work(settings: Settings) -> Iterator[Table]:
        """Made up."""
        made = compare({"bare": lambda: 1.0, "ours": lambda: 2.0}, settings, read=as_told, name="made-up",
                       title="Made up", how="By hand.", baseline="bare", reads="speed")  # fmt: skip
        yield replace(made, errors=errors)

    return work


def failing(settings: Settings) -> Iterator[Table]:
    """Fails after its first table."""
    yield from one_table({})(settings)
    raise RuntimeError("the disk is on fire")


def test_the_exit_code_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"good": one_table({}), "bad": failing, "half": one_table({"peer": "ImportError: gone"})}
    monkeypatch.setattr(session, "BENCHMARKS", cases)
    monkeypatch.setattr("benchmarks.__main__.BENCHMARKS", cases)
    path = tmp_path / "new" / "bench.json"
    threads = torch.get_num_threads()
    assert main(["good", "--out", str(path), "--quick", "--threads", str(threads)]) == 0
    assert "0.500 [0.500, 0.500]" in capsys.readouterr().out
    assert main(["half", "--out", str(path)]) == 1
    assert "FAILED: made-up, peer: ImportError: gone" in capsys.readouterr().err
    assert main(["bad", "good", "--out", str(path), "--quick"]) == 1
    assert "FAILED: bad: RuntimeError: the disk is on fire (failing, line " in capsys.readouterr().err
    kept = session.Session.read(path)
    assert len(kept.tables) == 2, "the first table of bad, and that of good"
    assert list(kept.errors) == ["bad"]
    assert set(kept.seconds) == {"bad", "good"}
    assert kept.about["numerics"]["threads"] == threads
    assert {"git", "hardware", "packages", "made", "settings"} <= set(kept.about)
    again = tmp_path / "again.json"
    kept.write(again)
    assert json.loads(again.read_text()) == json.loads(path.read_text())
    assert main(["--list"]) == 0
    assert "half       Made up." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["bda"])
    assert "unknown: bda; expected some of good" in capsys.readouterr().err


def test_equal_work_is_insisted_on() -> None:
    equal("steps", 3, 3)
    equal("gain", 1.0, 0.985, 0.02)
    for ours, theirs, tolerance in ((3, 4, 0.0), (1.0, 0.97, 0.02), (1.0, float("nan"), 0.02)):
        with pytest.raises(UnequalWork, match="gain"):
            equal("gain", ours, theirs, tolerance)


class Counting(nn.Module):
    """Scores are the numbers of the draws, 1 to n, in an order of their own."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.scores, self.batches = torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 1.0, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        done = sum(self.batches)
        self.batches.append(len(x))
        return self.scores[done : done + len(x)]


def test_the_naive_loop_reads_off_the_right_draws() -> None:
    """The order statistics at sigma .12, alpha .001, n 1000, from independent tables."""
    net, x = Counting(1000), torch.zeros(1, 3, 4, 4)
    found = certification.naive_bounds(net, x, 1000, [0.05, 0.12, 0.25, 0.36], torch.Generator())
    assert found[0].tolist() == [[290, 711], [122, 879], [6, 995], [-np.inf, np.inf]]
    assert net.batches == [20] * 50


def test_the_bare_network_runs_as_many_images_as_it_is_told() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((len(x), x.requires_grad))
            return x.mean((1, 2, 3))

    seen: list[tuple[int, bool]] = []
    one, x = Best(Net(), 16, "channels-last"), torch.zeros(16, 3, 8, 8)
    one.forward(x, 37)
    one.backward(x, 5)
    one.forward(x, 0)
    assert seen == [(16, False), (16, False), (5, False), (5, True)]


def test_the_fastest_setting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ordered = x.is_contiguous(memory_format=torch.channels_last)
            time.sleep(0.002 if ordered else 0.004)  # a call, whatever it holds
            return x.mean((1, 2, 3))

    assert subjects.batches((256, 256), QUICK) == [1, 4, 8, 16]
    assert subjects.batches((256, 256), QUICK, most=5) == [1, 4, 5]
    assert subjects.batches((1024, 1024), QUICK) == [1]
    monkeypatch.setattr(subjects, "bare", lambda g: Slow())
    monkeypatch.setattr(subjects, "batches", lambda *given: [1, 5])
    found, images = subjects.best(defended("none", QUICK), (32, 32), QUICK, backward=True)
    assert (found.batch, found.order) == (5, "channels-last")
    assert images.shape == (5, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("defense", "attack"), [("median-smoothing[n=4]", None), ("none", "pgd[steps=1]")])
def test_a_profile_names_the_operators(defense: str, attack: str | None) -> None:
    table = profiled(defense, attack, QUICK, (64, 64))
    assert "convolution" in table
    assert ("backward" in table) == (attack is not None)
    assert table.count("aten::") <= 15


@pytest.mark.parametrize("spec", ["none", "median-smoothing", "dms-iqa"])
def test_the_bare_network_is_what_is_defended(spec: str) -> None:
    g = defended(spec, QUICK)
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    denoiser = getattr(g, "denoiser", None)
    expected = g.metric(x if denoiser is None else denoiser(x))
    torch.testing.assert_close(bare(g)(x), expected, rtol=1e-5, atol=1e-4)


def test_a_peer_that_does_other_work_gets_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def fewer(net: nn.Module, x: torch.Tensor, steps: int) -> torch.Tensor:
        return attacking.torchattacks_pgd(net, x, steps - 1)

    pytest.importorskip("torchattacks", reason="torchattacks is not installed: see the README")
    honest = attacking.PEERS["torchattacks PGDL2"]
    lazy = honest._replace(run=lambda net, x, steps: x)
    absent = honest._replace(package="no_such_package", install="pip install no_such_package")
    rows = {"honest": honest, "lazy": lazy, "fewer": honest._replace(run=fewer), "absent": absent}
    monkeypatch.setattr(attacking, "PEERS", rows)
    (made,) = attacking.peers(QUICK)
    assert [row.name for row in made.rows] == ["ours", "ours, whole call", "honest"]
    assert set(made.errors) == {"lazy", "fewer"}
    assert "backwards of lazy: 0 and 6" in made.errors["lazy"]
    assert any(note.startswith("absent: absent, since no_such_package") for note in made.notes)
    assert made.rows[0].ratio == (1, 1, 1, 1, 1, QUICK.rounds)


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is of Linux")
def test_the_peak_is_what_was_resident_at_most() -> None:
    before = torch.ones(25_000_000)
    high = peak.peak()
    del before
    peak.forget_peak()
    low = peak.peak()
    during = torch.ones(15_000_000)
    assert low < high - 80, "100 MB less"
    assert peak.peak() - low == pytest.approx(4e-6 * during.numel(), abs=10)


@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix")
def test_peak_memory_is_asked_of_a_child(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The child is run in this process: importing torch once more would take seconds."""
    asked: list[list[str]] = []

    def child(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[1:])
        try:
            peak.main(int(command[3]), command[4], int(command[5]))
        except BadParameter as error:
            return subprocess.CompletedProcess(command, 1, "", f"Traceback\n{error}\n")
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(scaling.subprocess, "run", child)
    assert 50 < scaling.peak_megabytes(10) < 1e5
    assert asked == [["-m", "benchmarks.peak", "10", "cpu", str(torch.get_num_threads())]]
    with pytest.raises(RuntimeError, match=r"n = 0 in a process of its own failed: .*n=0"):
        scaling.peak_megabytes(0)
