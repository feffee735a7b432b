"""The folder of a submission: what is taken, what is not, and the template, which works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadSubmission
from robustiqa.bench.submission import paths
from robustiqa.bench.submission.metadata import BreakSubmission, DefenseSubmission, placeholders, read_submission
from robustiqa.bench.submission.paths import inside, members
from robustiqa.bench.submission.template import FILES, write_template


def names(root: Path) -> list[str]:
    return [member.name for member in members(root, ("verified",))]


def test_members_are_plain_files_sorted_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.txt", "a/y.txt", ".git/config", "verified/run.json", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("xy")
    assert names(tmp_path) == ["a/y.txt", "a/z.txt", "b.py"]
    assert {member.size for member in members(tmp_path)} == {2}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    for target in ("/etc/passwd", "secret", "nowhere"):
        folder = tmp_path / f"of-{Path(target).name}"
        folder.mkdir()
        (folder / "link").symlink_to(target if target.startswith("/") else tmp_path / target)
        with pytest.raises(BadSubmission, match="is a link"):
            names(folder)
        with pytest.raises(BadSubmission, match="is a link"):
            inside(folder, "link")
    os.mkfifo(tmp_path / "secret" / "pipe")
    with pytest.raises(BadSubmission, match="no plain file"):
        names(tmp_path / "secret")


def test_a_folder_on_the_way_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "defense.py").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "src").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadSubmission, match="is a link"):
        inside(tmp_path / "mine", "src/defense.py")


def test_names_that_differ_in_case_or_are_illegal_somewhere(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "A.txt").touch()
    with pytest.raises(BadSubmission, match="differ in case only"):
        names(tmp_path)
    (tmp_path / "A.txt").unlink()
    for name in ("a b", "a:b", "con.txt", "a\x1b[2J", "trailing."):
        (tmp_path / name).touch()
        with pytest.raises(BadSubmission, match="no plain relative path") as found:
            names(tmp_path)
        assert str(found.value).isprintable()
        (tmp_path / name).unlink()


def test_a_folder_has_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(600))
    (tmp_path / "b").write_bytes(bytes(600))
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(paths, "MOST_BYTES", 1000)
    with pytest.raises(BadSubmission, match="leave out what is not needed"):
        names(tmp_path)


def test_metadata_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(BadSubmission, match=r"has no submission\.yml"):
        read_submission(tmp_path)
    (tmp_path / "submission.yml").symlink_to("/etc/passwd")
    with pytest.raises(BadSubmission, match="is a link"):
        read_submission(tmp_path)


@pytest.mark.parametrize("kind", list(FILES))
def test_a_template_is_a_sound_submission(tmp_path: Path, kind: str) -> None:
    folder = write_template("soft-colour", kind, tmp_path / "new")
    submission = read_submission(folder)
    assert isinstance(submission, DefenseSubmission if kind == "defense" else BreakSubmission)
    assert submission.name == "soft-colour"
    assert {"title", "authors", "code"} <= set(placeholders(submission))
    assert names(folder) == sorted(FILES[kind])
    assert not any(f"my-{kind}" in (folder / file).read_text() for file in FILES[kind])
    with pytest.raises(BadSubmission, match="there already"):
        write_template("soft-colour", kind, tmp_path / "new")


def test_new_names_the_pytest_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare `pytest` may be another one, which has no robustiqa; where there is none, it says how to get one."""
    runner, options = CliRunner(), ["--into", str(tmp_path)]
    assert (
        f"`python -m pytest {tmp_path / 'one'}`, then" in runner.invoke(cli, ["submit", "new", "one", *options]).output
    )
    monkeypatch.setattr("robustiqa.bench.cli.submit_new.find_spec", lambda _: None)
    assert "after `pip install pytest`" in runner.invoke(cli, ["submit", "new", "two", *options]).output
    assert "pip install" not in runner.invoke(cli, ["submit", "new", "three", "--break", *options]).output


@pytest.mark.parametrize("name", ["../up", "Soft", "a b", "nul", "/tmp/x"])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(cli, ["submit", "new", name, "--into", str(tmp_path)])
    assert result.exit_code == 1
    assert "kebab-case" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_generated_test_passes(tmp_path: Path) -> None:
    folder = write_template("soft-colour", "defense", tmp_path)
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, str(folder)], capture_output=True, text=True,
                          cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
