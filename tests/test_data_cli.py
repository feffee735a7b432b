"""`robustiqa data list|fetch|verify` as a user calls them, with a table of their own that points to a local server."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from click.testing import CliRunner, Result
from releases import photo
from robustiqa.bench.cli.main import cli
from robustiqa.bench.sources.places import RECEIPT
from robustiqa.bench.sources.verify import Finding
from small_runs import started
from test_fetch import COUNT, koniq, pin
from test_sources_table import ABOUT
from test_unpack import pack
from webserver import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def lab(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's own table: KonIQ-10k, weights for torch's cache, and a data set that is only to be had by hand."""
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    images, table = koniq()
    (tmp_path / "server").mkdir()
    archive = pack(tmp_path / "server", images).read_bytes()
    name = "koniq10k_scores_and_distributions.csv"
    files = [{"save": "i.zip", "urls": [web.add("/i", archive)], "archive": "zip", "strip": "koniq10k", **pin(archive)},
             {"save": name, "urls": [web.add("/t", table)], **pin(table)}]  # fmt: skip
    net = {"save": "net.pth", "urls": [web.add("/n", b"net")], **pin(b"net")}
    sources = [
        {"name": "koniq10k", "kind": "dataset", **ABOUT, "licence": "for science", "files": files},
        {"name": "net", "kind": "weights", **ABOUT, "below": "torch", "folder": "hub/pyiqa", "files": [net],
         "needed_by": ["tiny-iqa"]},
        {"name": "nips2017", "kind": "dataset", **ABOUT, "by_hand": "ask for it", "page": "https://example.org/nips2017"},
        {"name": "loose", "kind": "dataset", **ABOUT, "files": [{"save": "a", "urls": [web.add("/a", b"a")]}]},
    ]  # fmt: skip
    path = tmp_path / "lab.yml"
    path.write_text(yaml.safe_dump({"schema": 1, "sources": sources}))
    return path


def make_nips(folder: Path) -> list[Path]:
    """A small release of the NIPS 2017 images, which `lab` can only have by hand; its images."""
    paths = [folder / "images" / f"{number}.png" for number in range(4)]
    for path in paths:
        photo(path, 32, 32)
    (folder / "images.csv").write_text("ImageId\n" + "".join(f"{path.stem}\n" for path in paths))
    return paths


def data(*words: Any) -> Result:
    return CliRunner().invoke(cli, ["data", *map(str, words)])


def test_fetch_verify_list(lab: Path, tmp_path: Path) -> None:
    got = data("fetch", "koniq10k", "net", "--sources", lab, "--yes")
    assert got.exit_code == 0, got.output
    assert got.output.index("for science") < got.output.index("downloading i.zip"), "licences come first"
    assert "koniq10k: complete in" in got.output
    assert (tmp_path / "torch" / "hub" / "pyiqa" / "net.pth").read_bytes() == b"net"
    checked = data("verify", "koniq10k", "net", "--sources", lab)
    assert checked.exit_code == 0, checked.output
    assert f"{COUNT} of {COUNT} images" in checked.output
    assert "content hash" in checked.output
    again = data("fetch", "koniq10k", "--sources", lab)
    assert again.exit_code == 0
    assert "was fetched before" in again.output
    assert "for science" not in again.output
    rows = {row["name"]: row for row in json.loads(data("list", "--sources", lab, "--json").output)}
    assert rows["koniq10k"]["here"] == str(tmp_path / "data" / "koniq10k")
    assert rows["koniq10k"]["how"] == "pinned"
    assert rows["nips2017"]["here"] is None
    assert rows["nips2017"]["how"] == "by hand"
    assert rows["loose"]["how"] == "not pinned"
    assert rows["net"]["bytes"] == 3
    assert rows["kadid10k"]["citation"], "the built-in ones are listed, too"


def test_list_is_readable_without_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    shown = data("list").output
    for word in ("koniq10k", "nobody has verified a SHA-256 yet", "by hand; ask for it", "licence", "citation",
                 "finds damage, not an attacker", "108.6 MB"):  # fmt: skip
        assert word in shown
    assert "set ROBUSTIQA_DATA to one, or add --to DIR" in data("fetch", "koniq10k", "--yes").output


def test_licences_have_to_be_acknowledged(lab: Path, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = data("fetch", "koniq10k", "--sources", lab)
    assert refused.exit_code == 1
    assert "for science" in refused.output
    assert "add --yes" in refused.output
    assert web.log == []
    monkeypatch.setattr("robustiqa.bench.cli.data._on_terminal", lambda: True)
    runner = CliRunner()
    no = runner.invoke(cli, ["data", "fetch", "net", "--sources", str(lab)], input="n\n")
    assert no.exit_code == 1
    assert web.log == []
    yes = runner.invoke(cli, ["data", "fetch", "net", "--sources", str(lab)], input="y\n")
    assert yes.exit_code == 0, yes.output


def test_by_hand_and_unknown(lab: Path) -> None:
    by_hand = data("fetch", "nips2017", "net", "--sources", lab, "--yes")
    assert by_hand.exit_code == 1
    assert "nips2017 has to be got by hand: ask for it (https://example.org/nips2017)" in by_hand.output
    assert "net: complete" in by_hand.output, "what can be fetched is fetched"
    assert "did you mean 'koniq10k'" in data("fetch", "koniq", "--sources", lab).output
    assert "nothing to fetch is named" in data("fetch").output
    assert data("verify", "nips2017", "--sources", lab).exit_code == 1


def test_not_pinned_is_said(lab: Path) -> None:
    got = data("fetch", "loose", "--sources", lab, "--yes")
    assert got.exit_code == 0, got.output
    assert "size not known, not pinned" in got.output
    assert hashlib.sha256(b"a").hexdigest() in got.output


def test_one_failure_does_not_stop_the_others(lab: Path, web: Web) -> None:
    web.files["/i"].codes = [404]
    got = data("fetch", "koniq10k", "net", "--sources", lab, "--yes")
    assert got.exit_code == 1
    assert "does not have the file (HTTP 404)" in got.output
    assert "net: complete" in got.output
    assert "Traceback" not in got.output


def test_verify_says_by_its_exit_code(lab: Path, tmp_path: Path) -> None:
    data("fetch", "net", "--sources", lab, "--yes")
    (tmp_path / "torch" / "hub" / "pyiqa" / "net.pth").write_bytes(b"bad")
    checked = data("verify", "net", "--sources", lab)
    assert checked.exit_code == 1
    assert "net: wrong: net.pth has the SHA-256" in checked.output


def test_fetch_for_a_suite(lab: Path, tmp_path: Path) -> None:
    """Everything it needs; what is there already in any way does not count as lacking."""
    suite = tmp_path / "mine.yml"
    content = {"schema": 1, "name": "mine", "metrics": ["tiny-iqa"], "defenses": ["none"],
               "datasets": ["koniq10k", "nips2017[limit=2]", "photos"]}  # fmt: skip
    suite.write_text(yaml.safe_dump(content))
    got = data("fetch", "--suite", suite, "--sources", lab, "--yes")
    assert got.exit_code == 1
    for text in ("data set koniq10k needs koniq10k", "metric tiny-iqa needs net", "net: complete", "koniq10k: complete",
                 "nips2017 has to be got by hand"):  # fmt: skip
        assert text in got.output
    make_nips(tmp_path / "data" / "nips2017")
    again = data("fetch", "--suite", suite, "--sources", lab)
    assert again.exit_code == 0, again.output
    assert "put by hand: looked through; robustiqa data verify nips2017 also reads it" in again.output


def test_fetch_looks_through_what_was_put_by_hand(lab: Path, tmp_path: Path) -> None:
    """Nothing, or a part of it, is not enough; a folder of empty folders is nothing, too."""
    (tmp_path / "data" / "nips2017" / "pictures").mkdir(parents=True)
    empty = data("fetch", "nips2017", "--sources", lab)
    assert empty.exit_code == 1
    assert "robustiqa: nips2017: incomplete: no NIPS 2017 development set in" in empty.output
    images = make_nips(tmp_path / "data" / "nips2017")
    assert data("fetch", "nips2017", "--sources", lab).exit_code == 0
    images[-1].unlink()
    partial = data("fetch", "nips2017", "--sources", lab)
    assert partial.exit_code == 1
    assert f"nips2017: incomplete: {len(images) - 1} of {len(images)} images of its table are there" in partial.output
    data("fetch", "koniq10k", "--sources", lab, "--yes")
    (tmp_path / "data" / "koniq10k" / RECEIPT).unlink()
    assert data("fetch", "koniq10k", "--sources", lab).exit_code == 0
    (tmp_path / "data" / "koniq10k" / "512x384" / "0.jpg").unlink()
    partial = data("fetch", "koniq10k", "--sources", lab)
    assert partial.exit_code == 1
    assert f"koniq10k: incomplete: {COUNT - 1} of {COUNT} images" in partial.output


def test_a_suite_that_needs_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    got = data("fetch", "--suite", "quick")
    assert got.exit_code == 0
    assert got.output == "suite 'quick' needs nothing that has to be fetched\n"


def test_help_explains_what_verify_says() -> None:
    shown = data("verify", "--help").output
    assert all(f"\n  {status}  " in shown for status in get_args(get_type_hints(Finding)["status"]))


def test_to_another_folder(lab: Path, tmp_path: Path) -> None:
    got = data("fetch", "koniq10k", "--sources", lab, "--yes", "--to", tmp_path / "else where", "--keep-archives")
    assert got.exit_code == 0, got.output
    assert (tmp_path / "else where" / "koniq10k" / "512x384" / "0.jpg").is_file()
    assert (tmp_path / "else where" / "archives" / "koniq10k" / "i.zip").is_file()
    assert not (tmp_path / "data").exists()
    assert data("verify", "koniq10k", "--sources", lab, "--to", tmp_path / "else where").exit_code == 0


def test_interrupted_by_the_user(lab: Path, web: Web, tmp_path: Path) -> None:
    """Ctrl-C in the middle: the promise in words, kept by the same command."""
    file = web.files["/n"]
    file.content = bytes(2**17)
    table = yaml.safe_load(lab.read_text())
    table["sources"][1]["files"][0] |= pin(file.content)
    lab.write_text(yaml.safe_dump(table))
    file.cuts, file.hold = [2**16], threading.Event()
    words = ["-m", "robustiqa.bench.cli", "data", "fetch", "net", "--yes", "--sources", str(lab)]
    part = tmp_path / "torch" / "hub" / "pyiqa" / ".robustiqa" / "net" / "net.pth.part"
    with started([sys.executable, *words]) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (part.exists() and part.stat().st_size == 2**16):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted; the same command goes on where" in message
    assert "Traceback" not in message
    file.hold.set()
    web.log.clear()
    assert data(*words[3:]).exit_code == 0
    assert web.log == [("/n", f"bytes={2**16}-", None)]


def test_hostile_archive_through_the_command(lab: Path, web: Web, tmp_path: Path) -> None:
    """What a user sees of `../../x`: one sentence, exit code 1, and nothing outside."""
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("koniq10k/../../../x", "evil")
        content = buffer.getvalue()
    table = yaml.safe_load(lab.read_text())
    table["sources"][0]["files"][0] |= {"urls": [web.add("/evil", content)], **pin(content)}
    lab.write_text(yaml.safe_dump(table))
    got = data("fetch", "koniq10k", "--sources", lab, "--yes")
    assert got.exit_code == 1
    assert "leads out of the folder: refused" in got.output
    assert not list(tmp_path.rglob("x"))


def test_verify_says_when_nothing_could_be_checked(lab: Path, tmp_path: Path) -> None:
    hub = {"name": "hub", "kind": "weights", **ABOUT, "below": "hub", "folder": "models--x", "by_hand": "hf download x"}
    lab.write_text(yaml.safe_dump({"sources": [hub]}))
    got = CliRunner().invoke(
        cli, ["data", "verify", "hub", "--sources", str(lab)], env={"HF_HUB_CACHE": str(tmp_path / "hub")}
    )
    assert "hub: absent: nothing in" in got.output
    (tmp_path / "hub" / "models--x").mkdir(parents=True)
    (tmp_path / "hub" / "models--x" / "a").touch()
    got = CliRunner().invoke(
        cli, ["data", "verify", "hub", "--sources", str(lab)], env={"HF_HUB_CACHE": str(tmp_path / "hub")}
    )
    assert got.exit_code == 1
    assert "nothing of it could be checked" in got.output
