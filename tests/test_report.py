"""The report page without a browser: what is on it, what is escaped, what is left out."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.errors import BadData
from robustiqa.bench.store import Store
from robustiqa.leaderboard.report import page as page_module
from robustiqa.leaderboard.report import pictures, report
from robustiqa.leaderboard.report.commands import command_of
from robustiqa.leaderboard.report.extracts import extract
from robustiqa.leaderboard.report.flags import BOARD, explained
from robustiqa.leaderboard.report.frames import plain
from robustiqa.leaderboard.report.points import LEVELS, MOST, _packed
from robustiqa.leaderboard.report.transfer import matrices
from robustiqa.leaderboard.results import FailedImages, read_groups, read_plan
from support import example

HOSTILE = '</script><script>alert(1)</script><!--<img src=x onerror="alert(2)">\u2028\'&amp;'
VENDOR = Path(page_module.__file__).parent / "vendor"


@pytest.fixture(scope="module")
def made_up() -> ModuleType:
    return example("made_up_board")


@pytest.fixture(scope="module")
def hostile(made_up: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run in which every name is an attempt to break the page.

    Two of 18 images leave their bound: enough for the flag, too few for the invariants to stop the board.
    """
    root = tmp_path_factory.mktemp("report") / "run"
    defenses = ("none", "dms-iqa[sigma=0.12]", f"evil{HOSTILE}")
    made_up.make(root, defenses, (f"metric{HOSTILE}",), 7, 18, "dms-iqa[sigma=0.12]", f"data{HOSTILE}", HOSTILE)
    return root


@pytest.fixture(scope="module")
def page(hostile: Path) -> Path:
    return report(hostile)


def data_of(path: Path) -> dict:
    """The data inside a page, read as a browser would."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_the_same_records_give_the_same_bytes(hostile: Path, page: Path) -> None:
    first = page.read_bytes()
    assert report(hostile).read_bytes() == first


def test_hostile_names_are_text_and_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<!--" not in text.replace("<!doctype", "")
    assert "<img src=x" not in text
    # theme, two libraries, the page's own, and the data, which no browser runs
    assert len(re.findall(r"<script[ >]", text)) == text.count("</script>") == 5
    assert data_of(page)["title"] == HOSTILE
    assert "\u2028" not in data_text(text)


def data_text(text: str) -> str:
    return text[text.index('id="data">') : text.index("</script>", text.index('id="data">'))]


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    parts = dict(part.split(" ", 1) for part in policy[1].split("; "))
    assert parts["default-src"] == "'none'"
    assert parts["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts]
    assert parts["script-src"].split() == digests
    assert "unsafe" not in policy[1]


def test_libraries_are_those_that_npm_serves() -> None:
    table = (VENDOR / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", table, flags=re.MULTILINE))
    assert set(named) == set(page_module.LIBRARIES)
    for name, digest in named.items():
        content = (VENDOR / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert not re.search(rb"</script|<!--", content), "it could not stand in a page"
        assert (VENDOR / f"{name.split('-')[0]}.LICENSE").is_file()


def test_nothing_on_the_page_names_another_place(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(src|href|action)\s*=\s*[\"']?(https?:)?//", own)
    assert not re.search(r"@import|url\(", own)


def test_figures_are_those_of_the_tables(hostile: Path, page: Path) -> None:
    block = data_of(page)["blocks"][0]
    summary = pd.read_csv(hostile / "leaderboard" / "summary.csv", keep_default_na=False, na_values=[""])
    for row, table in zip(block["rows"], summary.to_dict("records"), strict=True):
        assert row["defense"] == table["defense"]
        for column in ("rank", "srocc_clean", "worst_gain_mean", "worst_gain_lo", "n_ok", "n_planned"):
            assert row[column] == plain(table[column], exact=True)
    threats = pd.read_csv(hostile / "leaderboard" / "threats.csv", keep_default_na=False, na_values=[""])
    shown = {(t["norm"], t["eps"], r["defense"]): r["adaptive_gain_mean"] for t in block["threats"] for r in t["rows"]}
    expected = {(r["norm"], r["eps"], r["defense"]): r["adaptive_gain_mean"] for r in threats.to_dict("records")}
    assert {k: v for k, v in shown.items() if v is not None} == {k: v for k, v in expected.items() if v == v}


def test_violations_are_on_the_page(hostile: Path, page: Path) -> None:
    """Two images were pushed out of its bound; `certified.csv` counts them, the points show them."""
    panels = [p for p in data_of(page)["blocks"][0]["panels"] if p["eps"] == 0.05]
    population = next(p for p in panels if p["kind"] == "population")
    certified = pd.read_csv(hostile / "leaderboard" / "certified.csv")
    counted = certified[(certified["eps"] == 0.05) & (certified["kind"] == "population")]["violations"].iloc[0]
    assert population["violations"] == counted == len(population["bad"]) > 0
    raw = np.frombuffer(base64.b64decode(population["points"]), "<u2") * population["scale"] / LEVELS
    delta, shift = np.split(raw, 2)
    assert (shift[population["bad"]] > delta[population["bad"]]).all()


@pytest.mark.parametrize("count", [10, MOST, 1000])
def test_points_keep_violations_and_values(count: int) -> None:
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"delta": rng.uniform(0.5, 1, count), "shift": rng.uniform(0, 0.5, count), "bad": False})
    pairs.loc[[3, 7], ["shift", "bad"]] = [1.5, True]
    found = _packed(pairs)
    assert found["n"] == count
    assert found["shown"] == min(count, MOST)
    assert len(found["bad"]) == found["violations"] == found["over"] == 2
    raw = np.frombuffer(base64.b64decode(found["points"]), "<u2") * found["scale"] / LEVELS
    delta, shift = np.split(raw, 2)
    assert shift[found["bad"]] == pytest.approx(1.5)
    truth = pairs.set_index(pairs["delta"].round(4))["shift"]
    for d, s in zip(delta[:20], shift[:20], strict=True):
        assert np.abs(truth - s)[np.abs(truth.index - d) < 2e-4].min() < 2e-4
    # the nearest to the diagonal are never left out
    margin = (pairs["delta"] - pairs["shift"]).sort_values()
    assert (delta - shift).min() == pytest.approx(margin.iloc[0], abs=1e-4)
    assert np.sort(delta - shift)[2] == pytest.approx(margin.iloc[2], abs=1e-4)


def test_unbounded_images_are_counted_not_drawn() -> None:
    found = _packed(pd.DataFrame({"delta": [np.inf, 1.0], "shift": [0.1, 0.2], "bad": [False, False]}))
    assert (found["n"], found["shown"], found["unbounded"]) == (2, 1, 1)


@pytest.mark.parametrize(
    "name", ["plain", "with space", "$(rm -rf /)", "a'; rm -rf / #", "`x`", HOSTILE.replace("\u2028", "")]
)
def test_commands_are_quoted(name: str) -> None:
    record = {"arguments": ["run", "--suite", "my suite.yml", "--metric", "other", "--plugin", "p.py", "--out", "x"]}
    command = command_of({"metric": name, "defense": "none", "dataset": "d"}, record, "OUT")
    assert command is not None
    words = shlex.split(command)
    assert words[:4] == ["robustiqa", "run", "--suite", "my suite.yml"]
    assert words[words.index("--metric") + 1] == name
    assert words.count("--metric") == 1
    assert words[words.index("--plugin") + 1] == "p.py"
    again = shlex.split(str(command_of({"row": name}, record, "OUT")))
    assert again == [
        "robustiqa",
        "reproduce",
        name,
        "--from",
        "OUT",
    ]


@pytest.mark.parametrize("name", ["a\nrm -rf /", "a\x1b[2J", "a\u2028b", "a\u202eb"])
def test_what_could_not_be_pasted_safely_has_no_command(name: str) -> None:
    assert command_of({"metric": name, "defense": "none", "dataset": "d"}, {}, "OUT") is None


def test_every_flag_is_explained() -> None:
    assert all(entry["advice"] for entry in explained([*BOARD, "no-op:pgd@linf:0.0157", "certificate-violated"]))
    assert explained(["no-op:pgd@linf:0.0157", "no-op:fgsm@l2:1"])[0]["name"] == "no-op"
    assert explained(["made-by-a-newer-program"])[0]["raised_if"] == ""


def test_numbers_as_json() -> None:
    given = {
        "a": np.float64("nan"),
        "b": np.inf,
        "c": (-np.inf, 1 / 3),
        "d": np.int64(3),
        "e": pd.NA,
        "f": np.bool_(True),
    }
    assert plain(given) == {"a": None, "b": "inf", "c": ["-inf", 0.333333], "d": 3, "e": None, "f": True}
    assert plain(1 / 3, exact=True) == 1 / 3


def save_images(root: Path, dataset: str) -> None:
    """Adversarial images for every attack of a run: the clean ones, a pixel of each changed."""
    data = load_dataset(dataset)
    clean = {f"photo-{i // 5}/version-{i}": item.id for i, item in enumerate(data.items)}
    store = Store(root)
    for file in sorted(store.cells.glob("attack-*")):
        cell = file.name.removesuffix(".arrow.gz")
        rows = store.read_cell(cell).to_pylist()
        for row, item in zip(rows, data.items, strict=True):
            row |= {"image": clean[row["image"]], "reference": item.reference}
        store.write_cell(cell, rows)
        images = {item.id: data.load(i).numpy().copy() for i, item in enumerate(data.items)}
        for image in images.values():
            image[:, 0, 0] = np.where(image[:, 0, 0] < 0.5, image[:, 0, 0] + 4 / 255, image[:, 0, 0] - 4 / 255)
        store.write_images(cell, images)
    for file in sorted(store.cells.glob("score-*")):
        cell = file.name.removesuffix(".arrow.gz")
        rows = store.read_cell(cell).to_pylist()
        store.write_cell(cell, [row | {"image": clean[row["image"]]} for row in rows])


@pytest.fixture(scope="module")
def pictured(made_up: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictured") / "run"
    dataset = "photos[size=128,subset=references]"
    made_up.make(root, ("none", "jpeg[quality=50]"), ("tiny-iqa",), 3, 5, dataset=dataset)
    plan = json.loads((root / "plan.json").read_text())
    plan["datasets"] = [[dataset, load_dataset(dataset).content_hash]]
    (root / "plan.json").write_text(json.dumps(plan))
    save_images(root, dataset)
    return root


def test_only_pictures_with_a_licence_are_shown(pictured: Path) -> None:
    """Nobody says that the motorcycle may be published; whoever asks for all images gets it."""
    entries = data_of(report(pictured))["pictures"]["entries"]
    assert len(entries) == 2 * 3
    assert all(e["licence"] for e in entries)
    assert "motorcycle/reference" not in {e["image"] for e in entries}
    assert data_of(report(pictured, "none"))["pictures"]["files"] == []
    everything = data_of(report(pictured, "all"))["pictures"]
    assert [e["factor"] for e in everything["entries"]] == pytest.approx([0.5 * 255 / 4] * 6, rel=1e-4)
    assert len(set(everything["files"])) == len(everything["files"])


def album_of(root: Path, show: pictures.Show) -> pictures.Album:
    suite, plan = read_plan(root)
    groups = read_groups(root, suite, plan, FailedImages(plan))
    extracts = [extract(g, suite.headline, interval=False, pictures=True) for g in groups]
    return pictures.album(extracts, plan, suite.headline, root, show)


def test_pictures_of_other_data_are_not_shown(pictured: Path) -> None:
    plan = json.loads((pictured / "plan.json").read_text())
    whole = json.dumps(plan)
    plan["datasets"][0][1] = "0" * 64
    (pictured / "plan.json").write_text(json.dumps(plan))
    try:
        found = album_of(pictured, "all")
    finally:
        (pictured / "plan.json").write_text(whole)
    assert found.entries == []
    assert "not those of the run" in found.notes[0]


def test_a_set_without_licence_is_not_even_opened(pictured: Path, tmp_path: Path, monkeypatch) -> None:
    """A submission may name any folder of this machine as its data set: its images are not put into a page."""
    root = tmp_path / "run"
    shutil.copytree(pictured, root)
    for file in (root / "plan.json", root / "run.json"):
        file.write_text(file.read_text().replace("photos[size=128,subset=references]", "folder[path=/secret]"))
    monkeypatch.setattr(pictures, "load_dataset", lambda name: pytest.fail(f"opened {name}"))
    opened = album_of(root, "licensed")
    assert opened.files == []
    assert "does not declare" in opened.notes[0]


def test_a_transfer_matrix_beside_the_run_is_shown(hostile: Path) -> None:
    path = hostile / "transfer.csv"
    rows = [
        {"source": s, "target": t, "reference": r, "gain": 0.25 if s == t else 0.1}
        for s in "ab"
        for t in "ab"
        for r in "xyz"
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    try:
        found = matrices(hostile)[0]
        assert found["sources"] == found["targets"] == ["a", "b"]
        assert [[cell["gain"] for cell in row] for row in found["cells"]] == [[0.25, 0.1], [0.1, 0.25]]
        path.write_text("no,matrix\n1,2\n")
        with pytest.raises(BadData, match="transfer-matrix"):
            matrices(hostile)
    finally:
        path.unlink()


def test_the_command_says_where_the_page_is(hostile: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(hostile), "--no-images"])
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output
    done = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "run.json" in done.output
