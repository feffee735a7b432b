"""The CI job for submissions: it may only read, and it takes one folder of a legal name, nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / ".github" / "workflows" / "submission.yml"
TEXT = FILE.read_text()
JOB: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = JOB["jobs"]["verify"]["steps"]


def test_a_strangers_program_gets_no_rights() -> None:
    """`on` is a boolean in YAML 1.1."""
    assert set(JOB[True]) == {"pull_request"}
    assert JOB["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB["jobs"]["verify"]
    assert "secrets" not in TEXT.replace("no secrets", "")
    checkouts = [step["with"] for step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert [c["persist-credentials"] for c in checkouts] == [False, False]
    assert [c["path"] for c in checkouts] == ["program", "proposed"]
    assert "base.sha" in checkouts[0]["ref"], "who judges does not come from the pull request"
    scripts = " ".join(step.get("run", "") for step in STEPS)
    assert "${{" not in scripts, "nothing of the pull request is pasted into a shell"
    assert "./program" in scripts
    assert "./proposed" not in scripts
    assert "robustiqa submit verify" in scripts


def changed(tmp_path: Path, *files: str) -> tuple[int, str, str]:
    """Exit code, words, and output of the step that finds the submission, for a pull request that adds these files."""
    repository = tmp_path / "proposed"
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir()

    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *name, *words], cwd=repository, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "base")
    base = git("rev-parse", "HEAD").strip()
    for file in files:
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).write_text("x")
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", "head")
    (script,) = [step["run"] for step in STEPS if step.get("id") == "which"]
    output = tmp_path / "output"
    output.write_text("")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "BASE": base, "GITHUB_OUTPUT": str(output)},
    )  # fmt: skip
    return done.returncode, done.stdout, output.read_text()


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("git") is None, reason="needs bash and git")
def test_the_job_takes_one_submission(tmp_path: Path) -> None:
    assert changed(tmp_path, "submissions/my-one/submission.yml", "submissions/my-one/a/b.py") == (
        0, "", "name=my-one\n",
    )  # fmt: skip
    for files in (
        (),
        ("submissions/a/x", "submissions/b/x"),
        ("submissions/a/x", "bench/cli/main.py"),
        ("bench/x",),
        ("submissions/x",),
        ("submissions/a b/x",),
        ("submissions/$(touch pwned)/x",),
        ("submissions/a\nname=b/x",),
        ("submissions/-a/x",),
    ):
        code, words, output = changed(tmp_path, *files)
        assert (code, output) == (1, ""), files
        assert words.startswith("::error::expected changes in")
        assert not (tmp_path / "proposed" / "pwned").exists()
