"""From a pack to a row of the registry: what is believed, what is refused, and the same bytes again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from robustiqa.bench import records, store
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadSubmission, BrokenInvariant, RobustIQAError
from robustiqa.bench.store import Store
from robustiqa.bench.submission.packing import pack, unpack_sources
from robustiqa.leaderboard.report import report
from robustiqa.leaderboard.submissions import accept, look, write_tables
from submissions import METADATA, NAME, PLUGIN, archive_of, changed_json, contents, folder_of, verified


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified folder whose texts are all hostile to whoever shows them."""
    nasty = {"title": '=cmd|" /C calc"!A0 <script>alert(1)</script>', "description": "| a | b |\n\n# <img src=x>"}
    authors = [{"name": "@SUM(A1) <b>Ada</b> | [x](javascript:1)", "affiliation": "+1"}]
    return verified(folder_of(tmp_path_factory.mktemp("root"), authors=authors, **nasty))


@pytest.fixture(scope="module")
def archive(root: Path) -> Path:
    return pack(root, out=root.parent / "half-way.zip")[0]


@pytest.fixture(scope="module")
def files(archive: Path) -> dict[str, bytes]:
    return contents(archive)


@pytest.fixture(scope="module")
def accepted(archive: Path) -> Path:
    """A registry with the archive, only to be read."""
    accept(archive, archive.parent / "board")
    return archive.parent / "board"


@pytest.fixture
def board(accepted: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(accepted, tmp_path / "board")


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows_of(into: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((into / "submissions.csv").read_text())))


def test_packing_is_deterministic_and_names_no_place(root: Path, archive: Path, tmp_path: Path) -> None:
    again, _ = pack(root, out=tmp_path / "again.zip")
    assert again.read_bytes() == archive.read_bytes()
    home = str(Path.home())
    for name, content in contents(archive).items():
        if not name.endswith(".gz"):
            assert str(root.parent).encode() not in content, name
            assert len(home) < 2 or f'"{home}/'.encode() not in content, name
            assert b"~/" not in content, name


def test_a_row_claimed_beside_measured(accepted: Path, root: Path) -> None:
    """The measured value is that of the run's own table."""
    (row,) = rows_of(accepted)
    own = csv.DictReader((root / "verified" / "leaderboard" / "summary.csv").open(newline=""))
    (gain,) = [float(line["worst_gain_mean"]) for line in own if line["defense"] == NAME]
    assert float(row["measured"]) == pytest.approx(gain, rel=1e-5)
    assert float(row["claimed"]) == 0.5
    assert row["verified"] == ""
    assert (row["verdict"], row["verified_by"]) == ("better", "author")
    assert float(row["best_known"]) == float(row["measured"])
    assert row["digest"] == hashlib.sha256((accepted / NAME / "MANIFEST.json").read_bytes()).hexdigest()[:16]
    assert {p.name for p in accepted.glob("[!.]*") if p.is_file()} == {
        "submissions.csv",
        "best_known.csv",
        "submissions.md",
    }


def test_only_data_are_kept(accepted: Path) -> None:
    kept = tree(accepted)
    assert not [name for name in kept if name.endswith((".py", ".png", ".safetensors"))]
    assert not [content for content in kept.values() if b"class HalfWay" in content]
    assert f"{NAME}/run/plan.json" in kept


def test_the_tables_are_the_same_again(board: Path, tmp_path: Path) -> None:
    before = tree(board)
    write_tables(board)
    assert tree(board) == before
    shutil.move(board, tmp_path / "elsewhere")
    write_tables(tmp_path / "elsewhere")
    assert tree(tmp_path / "elsewhere") == before


def test_one_accept_at_a_time(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once would each write tables without the other's entry."""
    monkeypatch.setattr(store, "_PATIENCE", 0.0)
    with (
        Store(tmp_path / "board").locked("accept", "--into"),
        pytest.raises(BadData, match=r"another accept \(process \d+ .*\) is writing to .*board.*another --into"),
    ):
        accept(archive, tmp_path / "board")
    assert not (tmp_path / "board" / NAME).exists()
    accept(archive, tmp_path / "board")
    assert (tmp_path / "board" / NAME).is_dir()


def test_texts_of_others_stay_texts(accepted: Path) -> None:
    """No formula, no tag, no column, no link of their own."""
    (row,) = rows_of(accepted)
    assert row["authors"].startswith("'@SUM")
    markdown = (accepted / "submissions.md").read_text()
    assert "<script>" not in markdown
    assert "<b>" not in markdown
    assert "&lt;script&gt;" in markdown
    assert "](javascript" not in markdown
    lines = [line for line in markdown.splitlines() if NAME in line]
    assert {line.replace("\\|", "").count("|") for line in lines} == {13, 7}


def test_the_maintainers_run_stands_beside_the_authors(archive: Path, board: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSubmission, match="is accepted already, the same to the last byte: add the maintainers' run"):
        accept(archive, board)
    accept(archive, board, verified=root / "verified")
    (row,) = rows_of(board)
    assert row["verified"] == row["measured"] != ""
    assert row["verified_by"] == "maintainers"
    before = tree(board)
    accept(archive, board, verified=root / "verified")
    assert tree(board) == before
    assert row["problems"] == ""
    other = shutil.copytree(root / "verified", tmp_path / "other")
    data = json.loads((other / "verification.json").read_text()) | {"ok": False, "problems": ["=it is | <b>random"]}
    (other / "verification.json").write_text(json.dumps(data))
    accept(archive, board, verified=other)
    assert rows_of(board)[0]["problems"] == "'=it is | <b>random", "what did not hold is shown"
    assert "=it is \\| &lt;b&gt;random" in (board / "submissions.md").read_text()
    before = tree(board)
    data["files"]["defense.py"] = "0" * 64
    (other / "verification.json").write_text(json.dumps(data))
    with pytest.raises(BadSubmission, match=r"is of other files than the archive's \('defense\.py'\)"):
        accept(archive, board, verified=other)
    assert tree(board) == before


def test_an_unpacked_archive_can_be_verified_and_packed_again(archive: Path, root: Path, tmp_path: Path) -> None:
    """What is unpacked is what was packed, to the last bit: the author's records fit it."""
    unpack_sources(archive, tmp_path / NAME)
    shutil.copytree(root / "verified", tmp_path / NAME / "verified")
    assert pack(tmp_path / NAME, out=tmp_path / "again.zip")[1].digest == look(archive).packed.digest


def refused(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    """With a manifest that fits the edited files; nothing is left in the board's folder."""
    path, board = archive_of(tmp_path / "edited.zip", files), tmp_path / "board"
    with pytest.raises(RobustIQAError, match=words):
        accept(path, board)
    assert not list(board.glob("[!.]*"))


def edited(files: dict[str, bytes], part: str, change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    """The records of the first cell whose name has a part, each changed in place."""
    name = next(name for name in files if name.startswith(f"run/cells/{part}"))
    rows = records.decode(files[name], name).to_pylist()
    for row in rows:
        change(row)
    return files | {name: records.encode(rows)}


RECORDS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "a smaller gain": (f"attack-cheap-{NAME}", lambda row: row.update(gain=0.0), "gain is 0, but its scores differ"),
    "a smaller score": (f"attack-cheap-{NAME}", lambda row: row.update(attacked=row["clean"]), "gain: cheap"),
    "no number": (f"attack-cheap-{NAME}", lambda row: row.update(gain=float("nan")), "gain is nan"),
    "no end": (f"attack-cheap-{NAME}", lambda row: row.update(attacked=float("inf")), "attacked is inf"),
    "a larger budget": (f"attack-cheap-{NAME}", lambda row: row.update(linf=0.1), "measured linf 0.1 is above eps"),
    "another attack": (f"attack-cheap-{NAME}", lambda row: row.update(attack="fgsm"), "but the cell was planned for"),
    "another clean score": (f"score-cheap-{NAME}", lambda row: row.update(clean=1e3), "the clean score is"),
    "another defence": (f"score-cheap-{NAME}", lambda row: row.update(defense="none"), "but the cell was planned for"),
    "the same image": (f"score-cheap-{NAME}", lambda row: row.update(image="speck-0"), "images, where the cell has"),
    "a failed image": (f"score-cheap-{NAME}", lambda row: row.update(status="error"), "3 images failed"),
    "no image": (f"score-cheap-{NAME}", lambda row: row.update(image=None), "refused|cannot be right"),
    "no status": (f"score-cheap-{NAME}", lambda row: row.update(status=None), "3 images failed"),
}


@pytest.mark.parametrize("how", RECORDS)
def test_edited_records(files: dict[str, bytes], how: str, tmp_path: Path) -> None:
    part, change, words = RECORDS[how]
    refused(edited(files, part, change), words, tmp_path)


def test_records_edited_all_together(files: dict[str, bytes], tmp_path: Path) -> None:
    """Nothing contradicts itself, but the verification is of other figures; with that edited, too, nobody can tell."""

    def weaken(row: dict[str, Any]) -> None:
        row["attacked"] = row["clean"] + 0.1 * (row["attacked"] - row["clean"])
        row["attacked_8bit"] = row["clean"] + 0.1 * (row["attacked_8bit"] - row["clean"])
        row["gain"], row["gain_8bit"] = 0.1 * row["gain"], 0.1 * row["gain_8bit"]

    forged = files
    for name in [name for name in files if name.startswith(f"run/cells/attack-cheap-{NAME}")]:
        forged = edited(forged, name.removeprefix("run/cells/"), weaken)
    refused(forged, r"give .* \(better\) for .*, verification\.json says .*: one was edited", tmp_path)
    measured = json.loads(files["verification.json"])["claims"][0]["measured"]

    def forge(data: dict[str, Any]) -> None:
        data["claims"][0]["measured"] = 0.1 * measured

    forged |= {"verification.json": changed_json(files["verification.json"], forge)}
    accept(archive_of(tmp_path / "a.zip", forged), tmp_path / "board")
    (row,) = rows_of(tmp_path / "board")
    assert float(row["measured"]) == pytest.approx(0.1 * measured, rel=1e-4)
    assert row["verified"] == "", "which is why this column is another one"


def test_records_that_do_not_belong(files: dict[str, bytes], tmp_path: Path) -> None:
    def plan(change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
        return files | {"run/plan.json": changed_json(files["run/plan.json"], change)}

    def record(**changes: object) -> dict[str, bytes]:
        return files | {"run/run.json": changed_json(files["run/run.json"], lambda data: data.update(changes))}

    def each(**changes: object) -> Callable[[dict[str, Any]], object]:
        return lambda data: [cell.update(changes) for cell in data["cells"]]

    cell = next(name for name in files if name.startswith("run/cells/"))
    less = {name: content for name, content in files.items() if name != cell}
    refused(less, "has no result", tmp_path)
    refused(files | {"run/cells/more.arrow.gz": files[cell]}, "'more' was not planned", tmp_path)
    refused(plan(each(defense="jpeg")), "results of the defence 'jpeg', which is none of the submission's", tmp_path)
    refused(plan(each(metric="tiny-iqa")), "results of the metric 'tiny-iqa'", tmp_path)
    refused(plan(each(defense="none")), "have no attack on 'half-way' behind 'cheap'", tmp_path)
    refused(record(plugin_files=[]), r"were not made with the 'defense\.py' of this submission", tmp_path)
    for name in ("<script>", "caf\u00e9", "x" * 300, "a[b=", "\x1b[2J", "z[b=1,a=2]"):
        refused(plan(each(dataset=name)), "which is no plug-in string", tmp_path)
    refused(record(finished=None), "did not end well", tmp_path)
    refused(record(failed=3), "did not end well", tmp_path)


PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path as id": lambda data: data["cells"][0].update(id="../../x"),
    "an id twice": lambda data: data["cells"][0].update(id=data["cells"][1]["id"]),
    "a list as text": lambda data: data["cells"][0].update(metric=["cheap"]),
    "a text as number": lambda data: data["cells"][0].update(start="0"),
    "a negative range": lambda data: data["cells"][0].update(start=5, stop=1),
    "endless images": lambda data: data["cells"][0].update(stop=10**12),
    "an endless number": lambda data: data["cells"][0].update(eps=[10**400], kind="certify"),
    "no cells": lambda data: data.update(cells=None),
    "no plan": lambda data: data.clear(),
}


@pytest.mark.parametrize("how", PLANS)
def test_plans_that_are_none(files: dict[str, bytes], how: str, tmp_path: Path) -> None:
    plan = changed_json(files["run/plan.json"], PLANS[how])
    refused(files | {"run/plan.json": plan}, r"is damaged|was not planned|has no result", tmp_path)


def test_records_of_a_run_that_are_of_other_kinds(files: dict[str, bytes], tmp_path: Path) -> None:
    """What only notes speak of may be anything, and gives none."""
    odd = {"plugins": ["x", {"kind": [], "origin": "file"}, {}], "code": {"git": "dirty"}, "notes": 3}
    record = changed_json(files["run/run.json"], lambda data: data.update(odd))
    found = look(archive_of(tmp_path / "a.zip", files | {"run/run.json": record}))
    assert len(found.notes) == 1
    plan = changed_json(files["run/plan.json"], lambda data: data.update(skipped=[["<b>", "<script>alert(1)"]]))
    accept(archive_of(tmp_path / "a.zip", files | {"run/plan.json": plan}), tmp_path / "board")
    assert not [p for p in (tmp_path / "board").rglob("*.md") if "<script>" in p.read_text() or "<b>" in p.read_text()]


def test_deep_json(files: dict[str, bytes], tmp_path: Path) -> None:
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for name in ("run/plan.json", "run/run.json", "run/runs/0001.json", "verification.json"):
        refused(files | {name: deep}, "is no JSON that can be read", tmp_path)


def test_one_name_and_one_defence_once(board: Path, root: Path, tmp_path: Path) -> None:
    before = tree(board)
    same = tmp_path / "same" / NAME
    shutil.copytree(root, same)
    (same / "README.md").write_text("another text\n")
    with pytest.raises(BadSubmission, match="a submission of the name 'half-way' is accepted already, with other"):
        accept(pack_again(same), board)
    metadata = yaml.safe_load((same / "submission.yml").read_text()) | {"name": "other-way"}
    (same / "submission.yml").write_text(yaml.safe_dump(metadata))
    with pytest.raises(BadSubmission, match="the defence 'half-way' is that of the accepted submission 'half-way'"):
        accept(pack_again(same), board)
    assert tree(board) == before


def pack_again(root: Path) -> Path:
    """After a change that `verify` is taken to have seen."""
    from robustiqa.bench.submission.metadata import read_submission
    from robustiqa.bench.submission.packing import digests, sources

    path = root / "verified" / "verification.json"
    submission = read_submission(root)
    data = json.loads(path.read_text()) | {"files": digests(sources(root, submission)), "name": submission.name}
    path.write_text(json.dumps(data))
    return pack(root, out=root.parent / "again.zip")[0]


def test_what_was_changed_since_is_not_packed(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / NAME)
    (copy / "defense.py").write_text(PLUGIN.replace("0.5", "0.6"))
    with pytest.raises(BadSubmission, match=r"'defense\.py' is not what was verified"):
        pack(copy, out=tmp_path / "a.zip")
    with pytest.raises(BadSubmission, match=r"were not made with the 'defense\.py' of this submission"):
        pack_again(copy)


def test_texts_of_the_template_are_not_packed(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / NAME)
    data = yaml.safe_load((copy / "submission.yml").read_text()) | {"title": "CHANGE THIS to one line"}
    (copy / "submission.yml").write_text(yaml.safe_dump(data))
    path = copy / "verified" / "verification.json"
    found = json.loads(path.read_text())
    found["files"]["submission.yml"] = hashlib.sha256((copy / "submission.yml").read_bytes()).hexdigest()
    path.write_text(json.dumps(found))
    with pytest.raises(BadSubmission, match=r"the key 'title' of submission\.yml is still that of the template"):
        pack(copy, out=tmp_path / "a.zip")


def test_what_was_accepted_cannot_be_edited_in_place(archive: Path, board: Path, root: Path) -> None:
    for name in ("submission.yml", "verification.json", "run/run.json"):
        path = board / NAME / name
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        with pytest.raises(BadSubmission, match="was changed since it was accepted"):
            write_tables(board)
        path.write_bytes(before)
    (board / NAME / "run" / "more.json").write_text("{}")
    with pytest.raises(BadSubmission, match=r"'run/more\.json' is missing, or was not in its archive"):
        write_tables(board)
    (board / NAME / "run" / "more.json").unlink()
    accept(archive, board, verified=root / "verified")
    path = board / NAME / "verified" / "verification.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"better", b"confirmed"))
    with pytest.raises(BadSubmission, match=r"verified: 'verification\.json' was changed since it was accepted"):
        write_tables(board)
    path.write_bytes(before)
    (board / "link").symlink_to(board / NAME)
    with pytest.raises(BadSubmission, match="is a link"):
        write_tables(board)


def test_broken_records_name_the_row(files: dict[str, bytes], tmp_path: Path) -> None:
    part, change, _ = RECORDS["a larger budget"]
    path = archive_of(tmp_path / "a.zip", edited(files, part, change))
    with pytest.raises(BrokenInvariant, match=r"cannot be right, the submission is refused .*\n  budget: cheap \|"):
        look(path)


def test_the_commands(archive: Path, root: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["submit", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    board = str(tmp_path / "board")
    assert "digest" in run("pack", str(root), "--out", str(tmp_path / "a.zip"))
    shown = run("show", str(archive))
    assert METADATA["code"] in shown
    assert "| half-way" in shown
    assert "note: the metric 'cheap' is not one that comes with robustiqa" in shown
    assert json.loads(run("show", str(archive), "--json"))["rows"][0]["verified"] is None
    assert "defense.py" in run("unpack", str(archive), "--to", str(tmp_path / "new"))
    assert "accepted: half-way" in run("accept", str(archive), "--into", board)
    assert "submissions.csv" in run("table", "--into", board)
    failed = CliRunner().invoke(cli, ["submit", "accept", str(archive), "--into", board])
    assert failed.exit_code == 1
    assert "is accepted already" in failed.output


def test_the_page_shows_them_as_text(accepted: Path, root: Path, tmp_path: Path) -> None:
    """Below the boards of a run; none where there are none."""
    run = shutil.copytree(root / "verified", tmp_path / "run")
    plain = report(run, "none").read_text(encoding="utf-8")
    assert 'id="submissions"' not in plain
    shutil.copytree(accepted, run / "submissions")
    page = report(run, "none").read_text(encoding="utf-8")
    section = page[page.index('<section aria-labelledby="submissions-h"') : page.index('id="flags"')]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert "<script" not in section
    assert "better" in section
    assert "0.500" in section
    shutil.rmtree(run / "submissions")
    assert report(run, "none", accepted).read_text(encoding="utf-8") == page
