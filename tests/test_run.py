"""The run: resume after kill -9, error rows, error files, tables."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from copies import copied
from robustiqa.bench import files, run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadSuite, UnknownName
from robustiqa.bench.files import temporary_name
from robustiqa.bench.plan import make_plan, plan_from_json
from robustiqa.bench.registry import registry
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite, load_suite, suite_names
from robustiqa.leaderboard import collect
from small_runs import results, until

PLUGINS = [Path(__file__).parent / "plugins" / name for name in ("linear.py", "tiny_bench.py")]


@pytest.fixture(scope="module", autouse=True)
def tiny_bench(linear_plugin) -> None:
    registry.load_file(PLUGINS[1])


def make_suite(**changes: object) -> Suite:
    data = {
        "name": "tiny",
        "metrics": ["linear"],
        "datasets": ["noise"],
        "defenses": ["none", "jpeg", "median-smoothing[n=120,m=15]"],
        "certify": {"eps": [0.05, 0.12]},
        "attacks": [
            {"attack": "random-noise", "linf": ["4/255"]},
            {"attack": "pgd[steps=3]", "linf": ["2/255", "4/255"], "only": "deterministic"},
            {"attack": "eot-pgd[steps=3]", "linf": ["4/255"], "only": "randomised"},
            {"attack": "eot-pgd[steps=3]", "l2": [0.05, 0.12], "directions": ["up", "down"], "only": "certified"},
        ],
        "chunk": 5,
    }
    return Suite.model_validate(data | changes)


def _tables(out: Path) -> dict[str, pd.DataFrame]:
    """The CSV tables without the one column that is a measured time."""
    names = ("summary", "empirical", "certified")
    return {n: pd.read_csv(out / "leaderboard" / f"{n}.csv").drop(columns="seconds", errors="ignore") for n in names}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    result = run_suite(make_suite(), out, progress=False)
    assert result.ok
    return out


def test_tables_have_the_contracts_columns(finished: Path) -> None:
    contract = {
        "summary": "rank metric defense dataset srocc_clean plcc_clean krocc_clean srocc_attacked plcc_attacked "
        "worst_gain_mean worst_gain_lo worst_gain_hi rscore_mean certified_delta_mean flags n_ok n_planned",
        "empirical": "metric defense dataset attack norm eps direction gain_mean gain_lo gain_hi gain_max "
        "gain_8bit_mean psnr_mean ssim_mean forwards backwards seconds n_ok n_planned",
        "certified": "metric defense dataset eps sigma n alpha kind certified_delta_mean gaming_delta_mean "
        "empirical_shift_worst_mean empirical_shift_max tightness_max violations violation_p vacuous_share "
        "certified_pairs krocc_lower srocc_lower srocc_clean plcc_clean rms psnr n_ok n_planned",
    }
    for name, columns in contract.items():
        found = list(pd.read_csv(finished / "leaderboard" / f"{name}.csv").columns)
        wanted = columns.split()
        assert [c for c in found if c in wanted] == wanted
    markdown = (finished / "leaderboard" / "board.md").read_text()
    assert "made-up" in markdown
    assert "| none" in markdown


def test_numbers_on_the_linear_metric_are_the_known_ones(finished: Path) -> None:
    tables = _tables(finished)
    empirical, certified, summary = tables["empirical"], tables["certified"], tables["summary"]
    gain = empirical[(empirical.defense == "none") & (empirical.attack == "pgd[steps=3]")].set_index("eps").gain_mean
    assert gain[4 / 255] == pytest.approx(2 * gain[2 / 255], rel=1e-3)
    smoothed = certified[certified.kind == "population"]
    # The smoothed linear metric shifts by eps |w|_2 under the worst attack, and the bound is above it.
    small, large = smoothed.empirical_shift_max
    assert large == pytest.approx(0.12 / 0.05 * small, rel=0.05)
    assert ((smoothed.tightness_max > 0.5) & (smoothed.tightness_max <= 1)).all()
    assert set(certified.violations) == {0}
    assert (certified.violation_p == 1).all()
    assert list(summary.n_ok) == list(summary.n_planned)
    assert set(summary["rank"]) == {1, 2, 3}
    row = summary.set_index("defense").to_dict("index")["none"]
    rows = Store(finished).read_rows([c.id for c in make_plan(make_suite()).cells])
    clean = rows[(rows["kind"] == "score") & (rows["defense"] == "none")]["clean"].to_numpy()
    assert row["range"] == pytest.approx(np.quantile(clean, 0.99) - np.quantile(clean, 0.01), rel=1e-4)
    linf = rows[(rows["norm"] == "linf") & (rows["defense"] == "none") & (rows["eps"] == 4 / 255)]
    worst = linf.groupby("image").gain.max().mean()
    assert row["worst_gain_mean"] == pytest.approx(worst / row["range"], rel=1e-4)


def test_running_again_computes_nothing(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "cells").iterdir()}
    tables = {p: p.read_bytes() for p in (finished / "leaderboard").iterdir()}
    result = run_suite(make_suite(), finished, progress=False)
    assert result.computed == 0
    assert result.resumed == len(before)
    assert {p: p.stat().st_mtime_ns for p in (finished / "cells").iterdir()} == before
    assert {p: p.read_bytes() for p in (finished / "leaderboard").iterdir()} == tables


def test_chunk_size_does_not_change_results(finished: Path, tmp_path: Path) -> None:
    run_suite(make_suite(chunk=3), tmp_path, progress=False)
    for name, table in _tables(tmp_path).items():
        pd.testing.assert_frame_equal(table, _tables(finished)[name], rtol=1e-4, atol=1e-6)


def test_plan_survives_json(tmp_path: Path) -> None:
    plan = make_plan(make_suite())
    import json

    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert len({c.id for c in plan.cells}) == len(plan.cells)


def test_ids_depend_on_what_decides_the_result() -> None:
    base = {c.id for c in make_plan(make_suite()).cells}
    assert {c.id for c in make_plan(make_suite(name="other", description="x")).cells} == base
    for change in ({"seed": 1}, {"datasets": ["noise[bright=3]"]}, {"metrics": ["linear[scale=2.0]"]}):
        changed = {c.id for c in make_plan(make_suite(**change)).cells}
        assert not base & changed


def test_kill_in_the_middle_then_run_again(tmp_path: Path) -> None:
    """kill -9 while cells are being written; the second run keeps what is complete and ends with the same tables."""
    suite = make_suite(defenses=["none", "slow", "median-smoothing[n=120,m=15]"], chunk=4)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    with copied(_words(suite, out)) as process:
        until(lambda: len(results(out)) >= 9)
        process.send(signal.SIGKILL)
        process.wait()
    half = temporary_name(out / "cells" / "half.arrow.gz")
    half = half.with_name(half.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    half.write_bytes(b"half written")
    before = {p: p.stat().st_mtime_ns for p in results(out)}
    assert 9 <= len(before) < len(make_plan(suite).cells)
    assert not (out / "leaderboard").exists()
    for folder in (out, whole):
        assert run_suite(suite, folder, progress=False).ok
    after = {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert {p: after[p] for p in before} == before
    assert not list(out.rglob(".*.tmp"))
    for name, table in _tables(out).items():
        pd.testing.assert_frame_equal(table, _tables(whole)[name], check_exact=True)


def _words(suite: Suite, out: Path) -> list[str]:
    """What is typed after `robustiqa` to run a suite."""
    path = out.with_suffix(".yml")
    path.write_text(suite.model_dump_json(by_alias=True))
    return ["run", "--suite", str(path), "--out", str(out), *(w for p in PLUGINS for w in ("--plugin", str(p)))]


@pytest.mark.parametrize(("metric", "words"), [("two-outputs", "one score each"), ("liar", "declared bounded")])
def test_a_metric_that_always_fails_has_a_row_without_numbers(tmp_path: Path, metric: str, words: str) -> None:
    result = run_suite(make_suite(metrics=[metric]), tmp_path, progress=False)
    assert not result.ok
    summary = _tables(tmp_path)["summary"]
    assert list(summary.n_ok) == [0, 0, 0]
    assert summary[["rank", "srocc_clean", "worst_gain_mean", "rscore_mean"]].isna().to_numpy().all()
    assert set(summary["flags"]) == {"failed"}
    assert words in result.tables["errors"].read_text()


def test_bad_images_cost_their_own_rows_only(tmp_path: Path) -> None:
    suite = make_suite(metrics=["bright-nan"], datasets=["noise[broken=1,bright=2,large=3]"], defenses=["none", "jpeg"])
    result = run_suite(suite, tmp_path, progress=False)
    assert not result.ok
    assert not result.failed
    rows = Store(tmp_path).read_rows([c.id for c in make_plan(suite).cells])
    bad = rows[rows.status == "error"]
    assert set(bad.image) == {"image-1", "image-2"}
    assert bad.clean.isna().all()
    assert bad.attacked.isna().all()
    assert bad[bad.image == "image-1"].message.str.contains("broken").all()
    assert bad[bad.image == "image-2"].message.str.contains("NaN").all()
    assert len(bad) == result.bad_images
    errors = pd.read_csv(result.tables["errors"])
    assert len(errors) == len(bad)
    assert set(errors.message) == set(bad.message)
    assert rows[rows.status == "ok"].groupby("image").size().nunique() == 1
    summary = _tables(tmp_path)["summary"]
    assert (summary.n_planned - summary.n_ok == len(bad) / 2).all()
    assert summary["rank"].isna().all()
    assert summary["flags"].str.contains("incomplete").all()


def test_a_bug_fails_its_cells_and_not_the_others(tmp_path: Path) -> None:
    suite = make_suite(defenses=["raising", "none"], certify=None)
    result = run_suite(suite, tmp_path, progress=False)
    assert result.failed
    assert all("raising" in cell for cell in result.failed)
    assert all("a bug in the defence" in message for message in result.failed.values())
    record = Store(tmp_path).read_json(f"errors/{next(iter(result.failed))}.json")
    assert "Traceback" in record["traceback"]
    summary = _tables(tmp_path)["summary"].set_index("defense")
    assert summary["rank"].isna().to_dict() == {"raising": True, "none": False}
    again = run_suite(suite, tmp_path, progress=False)
    assert set(again.failed) == set(result.failed)


def test_command_line_says_by_its_exit_code_that_something_failed(tmp_path: Path) -> None:
    path = tmp_path / "suite.yml"
    path.write_text(make_suite(defenses=["raising"], certify=None).model_dump_json(by_alias=True))
    found = CliRunner().invoke(cli, ["run", "--suite", str(path), "--out", str(tmp_path / "out")])
    assert found.exit_code == 1
    assert "a bug in the defence" in found.output


def test_skips_carry_their_reason(tmp_path: Path) -> None:
    plan = make_plan(make_suite(attacks=[{"attack": "torchattacks-pgd", "l2": [0.1]}]))
    assert plan.skipped
    assert "works in linf" in plan.skipped[0][1]


def test_lower_better_metrics_are_oriented(tmp_path: Path) -> None:
    """The same metric with its sign turned gives the same board."""
    run_suite(make_suite(metrics=["linear-dmos[scale=-1.0,offset=-3.0]"]), tmp_path / "dmos", progress=False)
    run_suite(make_suite(), tmp_path / "mos", progress=False)
    dmos, mos = _tables(tmp_path / "dmos"), _tables(tmp_path / "mos")
    for name in ("summary", "empirical", "certified"):
        mine, theirs = (table[name].drop(columns=["metric", "row"]) for table in (dmos, mos))
        pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4)


def test_store_refuses_what_it_cannot_read(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no run\.json"):
        collect(tmp_path)
    store = Store(tmp_path)
    store.create()
    (store.cells / "a.arrow.gz").write_bytes(b"gzip but not really")
    with pytest.raises(BadData, match=r"a\.arrow\.gz.*corrupt"):
        store.read_rows(["a"])


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadData, match="choose another --out"):
        Store(tmp_path / "file").create()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.create()
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(files, "temporary_name", lambda path: tmp_path / "full")
    with pytest.raises(BadData, match="free some space and run again"):
        files.write_atomically(store.cells / "a", b"x" * 100_000)
    assert not (store.cells / "a").exists()


def test_suites_that_come_with_the_package_load() -> None:
    assert "quick" in suite_names()
    for name in suite_names():
        assert load_suite(name).name == name


@pytest.mark.parametrize(("text", "error", "words"), [
    ("quik", UnknownName, "did you mean 'quick'"),
    ("absent.yml", BadSuite, "does not exist"),
])  # fmt: skip
def test_unknown_suites(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_suite(text)


@pytest.mark.parametrize(("content", "error", "words"), [
    ("metric: [linear]", UnknownName, "did you mean 'metrics'"),
    ("attacks: [{attack: pgd, linff: [1/255]}]", UnknownName, "did you mean 'linf'"),
    ("headline: {epss: 1}", UnknownName, "did you mean 'eps'"),
    ("attacks: [{attack: pgd, linf: [-1]}]", BadSuite, "eps"),
    ("chunk: 0", BadSuite, "chunk"),
    ("certify: {eps: [0.1], alpha: 2}", BadSuite, "alpha"),
    ("a: [", BadSuite, "YAML"),
    ("- 1", BadSuite, "list"),
])  # fmt: skip
def test_bad_suite_files(tmp_path: Path, content: str, error: type[Exception], words: str) -> None:
    base = "name: t\nmetrics: [linear]\ndefenses: [none]\ndatasets: [noise]\n"
    path = tmp_path / "suite.yml"
    path.write_text(content if content[0] in "-a:" and "attack" not in content else base + content)
    with pytest.raises(error, match=words):
        load_suite(str(path))


def test_overrides_replace_the_suites_lists() -> None:
    suite = make_suite().override(metrics=(), defenses=("jpeg",), datasets=(), attacks=("fgsm",))
    assert suite.defenses == ("jpeg",)
    assert [a.attack for a in suite.attacks] == ["fgsm"]
    assert suite.attacks[0].linf == (2 / 255, 4 / 255)
    assert suite.attacks[0].l2 == (0.05, 0.12)


def test_a_changed_weights_file_or_plugin_is_another_result(tmp_path: Path) -> None:
    """The id covers files that parameters name, and the code of the data set and of the plug-in's registration."""
    source = (
        "from robustiqa.bench import register_metric\nimport torch\n"
        "@register_metric('from-file', lower_better={lower})\n"
        "class FromFile(torch.nn.Module):\n"
        "    '''x'''\n"
        "    def __init__(self, weights: str = ''):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        return x.mean((1, 2, 3))\n"
    )
    plugin, weights = tmp_path / "from_file.py", tmp_path / "w.txt"
    suite = make_suite(metrics=[f"from-file[weights={weights}]"], defenses=["none"], certify=None)
    seen: set[str] = set()
    for lower, content in ((False, "a"), (False, "b"), (True, "b")):
        plugin.write_text(source.format(lower=lower))
        weights.write_text(content)
        registry.load_file(plugin)
        ids = {c.id for c in make_plan(suite).cells}
        assert not ids & seen
        seen |= ids


def test_a_damaged_result_is_computed_again(tmp_path: Path) -> None:
    suite = make_suite(defenses=["none"], certify=None)
    run_suite(suite, tmp_path, progress=False)
    victim = next((tmp_path / "cells").iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    result = run_suite(suite, tmp_path, progress=False)
    assert (result.computed, result.ok) == (1, True)


def test_images_without_scores_still_give_a_board(tmp_path: Path) -> None:
    from robustiqa.bench.images import save_png

    for k in range(9):
        x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k))
        save_png(0.2 + 0.6 * x, tmp_path / "in" / f"{k}.png")
    suite = make_suite(datasets=[f"folder[root={tmp_path / 'in'}]"], defenses=["none", "median-smoothing[n=50,m=11]"])
    assert run_suite(suite, tmp_path / "out", progress=False).ok
    summary = _tables(tmp_path / "out")["summary"]
    assert summary["srocc_clean"].isna().all()
    assert summary["worst_gain_mean"].notna().all()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "o"
    with copied(_words(make_suite(defenses=["slow"], chunk=1, certify=None), out)) as process:
        until(lambda: results(out))
        process.send(signal.SIGINT)
        assert process.wait() == 130
        assert "the same command goes on" in process.said


def test_an_attack_may_name_its_data_sets() -> None:
    attacks = [{"attack": "fgsm", "linf": ["4/255"], "datasets": ["noise[count=4]"]}, {"attack": "pgd", "l2": [0.1]}]
    suite = make_suite(datasets=["noise", "noise[count=4]"], attacks=attacks, defenses=["none"], certify=None)
    cells = [(c.attack, c.dataset) for c in make_plan(suite).cells if c.kind == "attack"]
    assert set(cells) == {("fgsm", "noise[count=4]"), ("pgd", "noise"), ("pgd", "noise[count=4]")}
    # On another data set than the suite's own every attack runs.
    other = suite.override(metrics=(), defenses=(), datasets=("noise[count=2]",), attacks=())
    assert {c.attack for c in make_plan(other).cells if c.kind == "attack"} == {"fgsm", "pgd"}
    with pytest.raises(ValueError, match="not among its data sets"):
        make_suite(attacks=attacks)


def test_a_defence_that_leans_on_an_absent_data_set_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path / "nowhere"))
    lost = "ensemble[others=bounded,calibration=clive]"
    suite = make_suite(defenses=["none", lost], absent="skip", certify=None)
    plan = make_plan(suite)
    assert {c.defense for c in plan.cells} == {"none"}
    assert any("nowhere" in why for _, why in plan.skipped)
    with pytest.raises(BadData, match="nowhere"):
        make_plan(make_suite(defenses=["none", lost], certify=None))


def test_rows_of_many_cells_are_those_of_each(tmp_path: Path) -> None:
    """More cells than are joined at once, one of them absent: the order asked for, nothing lost."""
    store = Store(tmp_path)
    store.create()
    for k in range(70):
        store.write_cell(f"c{k}", [{"cell": f"c{k}", "image": f"{k}-{i}", "status": "ok", "clean": float(k)}
                                   for i in range(2)])  # fmt: skip
    found = store.read_rows([f"c{k}" for k in reversed(range(71))])
    assert found["image"].tolist() == [f"{k}-{i}" for k in reversed(range(70)) for i in range(2)]
    assert len(store.read_rows([])) == 0
