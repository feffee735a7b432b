"""Downloads from a server on this machine: resumed, cut, changed in between, lied about, wrong, and given up."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from robustiqa.bench.errors import BadData
from robustiqa.bench.files import no_os_errors
from robustiqa.bench.sources.download import Patience, download
from robustiqa.bench.sources.table import File
from webserver import Web, largest_file, serving

CONTENT = np.random.default_rng(3).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, first=0.001, longest=0.002, silence=5)
HALF = 40 * 2**15  # a whole number of the pieces that are written at once


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


def pinned(*urls: str, **changes: Any) -> File:
    return File(**{"save": "a.bin", "urls": urls, "sha256": SHA, "bytes": len(CONTENT), **changes})


def unpinned(*urls: str) -> File:
    return pinned(*urls, sha256=None, bytes=None)


def get(file: File, folder: Path) -> bytes:
    """The file after a download that leaves nothing else behind."""
    got = download(file, folder / "a.bin", QUICK)
    content = (folder / "a.bin").read_bytes()
    assert [p.name for p in folder.iterdir()] == ["a.bin"]
    assert got.sha256 == hashlib.sha256(content).hexdigest()
    return content


def fails(file: File, folder: Path) -> str:
    """The message of a download that fails, and leaves no file of its name."""
    with pytest.raises(BadData) as caught:
        download(file, folder / "a.bin", QUICK)
    assert not (folder / "a.bin").exists()
    return str(caught.value)


def test_whole_file(web: Web, tmp_path: Path) -> None:
    assert get(pinned(web.add("/a", CONTENT)), tmp_path) == CONTENT
    assert web.ranges() == [None]


def test_cut_connections_go_on_where_they_stopped(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, etag='"one"', cuts=[HALF, HALF // 2])
    assert get(pinned(url), tmp_path) == CONTENT
    assert web.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF * 3 // 2}-"]
    assert [version for *_, version in web.log] == [None, '"one"', '"one"']


def test_more_cuts_than_tries_while_there_is_progress(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, cuts=[2**17] * 12)
    assert get(pinned(url), tmp_path) == CONTENT
    assert len(web.log) == 13


def test_a_later_call_goes_on(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, etag='"one"', cuts=[HALF, 0, 0, 0])
    message = fails(unpinned(url), tmp_path)
    assert "1.3 MB are kept" in message
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:HALF]
    web.files["/a"].cuts.clear()
    web.log.clear()
    assert get(unpinned(url), tmp_path) == CONTENT
    assert web.log == [("/a", f"bytes={HALF}-", '"one"')]


def test_unpinned_file_without_a_version_starts_again(web: Web, tmp_path: Path) -> None:
    """Without digest and version nobody could tell a mixture of two files."""
    url = web.add("/a", CONTENT, cuts=[HALF])
    assert get(unpinned(url), tmp_path) == CONTENT
    assert web.ranges() == [None, None]


def test_file_that_changed_in_between(web: Web, tmp_path: Path) -> None:
    old = web.add("/a", bytes(len(CONTENT)), etag='"old"', cuts=[HALF, 0, 0, 0])
    fails(unpinned(old), tmp_path)
    for how in ({"obeys_if_range": True}, {"obeys_if_range": False}):
        (tmp_path / "a.bin").unlink(missing_ok=True)
        (tmp_path / "a.bin.part").write_bytes(bytes(HALF))
        web.log.clear()
        web.add("/a", CONTENT, etag='"new"', **how)
        (tmp_path / "a.bin.part.json").write_text(f'{{"url": "{old}", "validator": "\\"old\\""}}')
        assert get(unpinned(old), tmp_path) == CONTENT
        assert web.log[0] == ("/a", f"bytes={HALF}-", '"old"')


def test_date_stands_in_where_the_etag_is_weak(web: Web, tmp_path: Path) -> None:
    date = "Sat, 21 Nov 2026 20:00:00 GMT"
    url = web.add("/a", CONTENT, etag='W/"one"', modified=date, cuts=[HALF])
    assert get(unpinned(url), tmp_path) == CONTENT
    assert web.log[1] == ("/a", f"bytes={HALF}-", date)


def test_server_without_ranges(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, ranges=False, cuts=[HALF])
    assert get(pinned(url), tmp_path) == CONTENT
    assert web.ranges() == [None, f"bytes={HALF}-"]


def test_server_that_answers_another_range(web: Web, tmp_path: Path) -> None:
    """Its bytes would land in the wrong place: the download starts again."""
    url = web.add("/a", CONTENT, etag='"one"', shift=-100, cuts=[HALF])
    assert get(unpinned(url), tmp_path) == CONTENT
    assert web.ranges() == [None, f"bytes={HALF}-", None]


def test_killed_after_the_last_byte(web: Web, tmp_path: Path) -> None:
    """All is here but the name: with a pin nothing is asked, without one the server says that nothing follows."""
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    url = web.add("/a", CONTENT, etag='"one"')
    assert get(pinned(url), tmp_path) == CONTENT
    assert web.log == []
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")
    (tmp_path / "a.bin.part.json").write_text(f'{{"url": "{url}", "validator": "\\"one\\""}}')
    assert get(unpinned(url), tmp_path) == CONTENT
    assert web.ranges() == [f"bytes={len(CONTENT)}-"]


def test_corrupt_byte_is_caught_and_the_next_mirror_taken(web: Web, tmp_path: Path) -> None:
    wrong = bytearray(CONTENT)
    wrong[HALF] ^= 1
    first, second = web.add("/wrong", bytes(wrong)), web.add("/right", CONTENT)
    got = download(pinned(first, second), tmp_path / "a.bin", QUICK)
    assert got.url == second
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [path for path, *_ in web.log] == ["/wrong", "/right"]
    (tmp_path / "a.bin").unlink()
    message = fails(pinned(first), tmp_path)
    assert "other bytes than the pinned ones" in message
    assert SHA[:16] in message
    assert list(tmp_path.iterdir()) == []


def test_corrupt_byte_in_what_was_there_before(web: Web, tmp_path: Path) -> None:
    """The server is right and the beginning on the disk is not: once more, from the first byte."""
    (tmp_path / "a.bin.part").write_bytes(b"x" + CONTENT[1:HALF])
    assert get(pinned(web.add("/a", CONTENT)), tmp_path) == CONTENT
    assert web.ranges() == [f"bytes={HALF}-", None]


def test_a_mirror_goes_on_where_another_stopped(web: Web, tmp_path: Path) -> None:
    first = web.add("/first", CONTENT, etag='"first"', cuts=[HALF, 0, 0])
    second = web.add("/second", CONTENT, etag='"second"')
    assert get(pinned(first, second), tmp_path) == CONTENT
    assert web.log[-1] == ("/second", f"bytes={HALF}-", None)


@pytest.mark.parametrize(
    ("code", "words", "asked"),
    [(404, "does not have the file", 1), (403, "refuses access", 1), (429, "too many requests", 3), (500, "failed", 3)],
)
def test_codes(web: Web, tmp_path: Path, code: int, words: str, asked: int) -> None:
    """What will not change is asked once; what may pass as often as patience allows; then the next mirror."""
    url = web.add("/a", CONTENT, codes=[code] * 9)
    message = fails(pinned(url), tmp_path)
    assert f"{words} (HTTP {code})" in message
    assert len(web.log) == asked
    assert get(pinned(url, web.add("/b", CONTENT)), tmp_path) == CONTENT


def test_code_that_passes(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, codes=[503, 429], headers={"Retry-After": "100"})
    assert get(pinned(url), tmp_path) == CONTENT


def test_waits_as_long_as_the_server_asks(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("robustiqa.bench.sources.download.time.sleep", waited.append)
    url = web.add("/a", CONTENT, codes=[500, 429, 500, 500], headers={"Retry-After": "7"})
    download(pinned(url), tmp_path / "a.bin", Patience(tries=5, first=1, longest=20))
    assert waited == [7, 7, 7, 8]
    waited.clear()
    web.add("/a", CONTENT, codes=[429], headers={"Retry-After": "900"})
    download(pinned(url), tmp_path / "b.bin", Patience(tries=5, first=1, longest=20))
    assert waited == [20]


def test_length_that_is_a_lie(web: Web, tmp_path: Path) -> None:
    """More announced than sent is a cut; other than pinned is another file; less announced leaves the file short."""
    url = web.add("/a", CONTENT, length=len(CONTENT) + 5)
    assert f"has {len(CONTENT) + 5} bytes, and the pinned file {len(CONTENT)}" in fails(pinned(url), tmp_path)
    assert "cut the connection" in fails(unpinned(url), tmp_path)
    (tmp_path / "a.bin.part").unlink()
    url = web.add("/b", CONTENT, length=HALF)
    assert f"has {HALF} bytes" in fails(pinned(url), tmp_path)


def test_more_than_pinned_without_a_length(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT + b"x" * 5_000_000, headers={"Content-Length": ""})
    assert "sends more than" in fails(pinned(url), tmp_path)
    assert (tmp_path / "a.bin.part").stat().st_size <= len(CONTENT)


def test_redirects(web: Web, tmp_path: Path) -> None:
    web.add("/end", CONTENT)
    url = web.add("/a", b"", codes=[302, 302], headers={"Location": "/end"})
    assert get(pinned(url), tmp_path) == CONTENT
    web.add("/loop", b"", codes=[302] * 99, headers={"Location": "/loop"})
    (tmp_path / "a.bin").unlink()
    assert "TooManyRedirects" in fails(pinned(web.url + "/loop"), tmp_path)


def test_unpinned_file_may_not_leave_https(web: Web, tmp_path: Path) -> None:
    """127.0.0.2 stands for a machine elsewhere: it is not taken for this one."""
    with serving("127.0.0.2") as elsewhere:
        url = web.add("/a", b"", codes=[302] * 2, headers={"Location": elsewhere.add("/a", CONTENT)})
        assert "without https" in fails(unpinned(url), tmp_path)
        assert get(pinned(url), tmp_path) == CONTENT
    with pytest.raises(ValueError, match="every address must be https"):
        unpinned("http://example.org/a")


def test_login_page_is_not_taken_for_the_file(web: Web, tmp_path: Path) -> None:
    """Without a digest nothing else would tell; with one, the digest does."""
    url = web.add("/a", CONTENT, headers={"Content-Type": "text/html; charset=utf-8"})
    assert "gives a web page" in fails(unpinned(url), tmp_path)
    assert get(pinned(url), tmp_path) == CONTENT


def test_other_encoding_is_refused(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, headers={"Content-Encoding": "gzip"})
    assert "another encoding" in fails(pinned(url), tmp_path)


def test_nobody_there(tmp_path: Path) -> None:
    with serving() as web:
        url = web.url
    assert "cannot be reached (tried 2 times)" in fails(pinned(url + "/a"), tmp_path)


def test_silent_server(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, cuts=[HALF, 0], hold=threading.Event())
    with pytest.raises(BadData, match=r"did not answer for 0\.2 s"):
        download(pinned(url), tmp_path / "a.bin", Patience(tries=1, silence=0.2))
    assert (tmp_path / "a.bin.part").stat().st_size > 0


DRIPS = Patience(tries=2, first=0.001, longest=0.002, silence=5, span=0.4, least=2**15)


@pytest.mark.parametrize(("file", "headers"), [(pinned, {}), (pinned, {"Content-Length": ""}), (unpinned, {})])
def test_server_that_drips(web: Web, tmp_path: Path, file: Callable[..., File], headers: dict[str, str]) -> None:
    """A byte now and then ends no timeout between two of them; a later call goes on where it stopped."""
    url = web.add("/a", CONTENT, etag='"one"', cuts=[HALF, 0], drip=0.02, headers=headers)
    with pytest.raises(BadData, match=r"was too slow \(less than 32\.8 kB in 0\.4 s\) \(tried 2 times\)"):
        download(file(url), tmp_path / "a.bin", DRIPS)
    assert (tmp_path / "a.bin.part").stat().st_size >= HALF
    assert len(web.log) == 2
    web.files["/a"].drip = 0
    web.log.clear()
    assert get(file(url), tmp_path) == CONTENT
    (asked,) = web.ranges()
    assert HALF <= int(str(asked).removeprefix("bytes=").removesuffix("-")) < HALF + 2000


def test_headers_that_drip(web: Web, tmp_path: Path) -> None:
    url = web.add("/a", CONTENT, drip=0.02, drip_headers=True)
    with pytest.raises(BadData, match="was too slow"):
        download(pinned(url), tmp_path / "a.bin", DRIPS)
    assert len(web.log) == 2


def test_a_slow_server_is_waited_for(web: Web, tmp_path: Path) -> None:
    """More than the least in every span, for several spans."""
    url = web.add("/a", CONTENT, cuts=[HALF] * 3, drip=0.001)
    slow = Patience(tries=2, first=0.001, longest=0.002, silence=5, span=0.2, least=10)
    assert download(pinned(url), tmp_path / "a.bin", slow).url == url


def test_disk_too_small(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    message = fails(pinned(web.add("/a", CONTENT)), tmp_path)
    assert "needs 3.0 MB" in message
    assert "only 10 bytes are free" in message


def test_disk_that_fills_up(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived before stays, and a later call goes on behind it."""
    url = web.add("/a", CONTENT, cuts=[HALF])
    real = Path.open

    def full(self: Path, mode: str = "r", *more: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *more)

    monkeypatch.setattr(Path, "open", full)
    assert "free some space and run again" in fails(pinned(url), tmp_path)
    monkeypatch.undo()
    web.log.clear()
    assert get(pinned(url), tmp_path) == CONTENT
    assert web.ranges() == [f"bytes={HALF}-"]


@pytest.mark.parametrize("room", [100_000, 2**15 * 50 - 1000])
def test_file_that_the_system_refuses_to_let_grow(web: Web, tmp_path: Path, room: int) -> None:
    """One sentence also where the refusal comes in the middle of a piece, and again when the file is closed."""
    url = web.add("/a", CONTENT)
    with largest_file(room):
        assert "cannot write" in fails(pinned(url), tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:room], "what there was room for is kept"
    assert get(pinned(url), tmp_path) == CONTENT
    assert web.ranges() == [None, f"bytes={room}-"]


def test_a_quota_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="free some space"), no_os_errors(tmp_path):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize("where", ["http://[::1", "http://.example.org/", "http://[x]/", "http://127.0.0.1/\xff",
                                   "http://h:99999/", "file:///etc/passwd", "ftp://x/a"])  # fmt: skip
def test_redirects_to_what_is_no_address(web: Web, tmp_path: Path, where: str) -> None:
    """Some of these the client does not recognise as wrong addresses: a sentence all the same, and the next mirror."""
    url = web.add("/a", b"", codes=[302] * 2, headers={"Location": where})
    assert "cannot be used" in fails(pinned(url), tmp_path)
    assert get(pinned(url, web.add("/b", CONTENT)), tmp_path) == CONTENT


@pytest.mark.parametrize("number", ["\xb2", "9" * 5000])
def test_numbers_that_are_none(web: Web, tmp_path: Path, number: str) -> None:
    url = web.add("/a", CONTENT, codes=[503], headers={"Retry-After": number})
    assert get(pinned(url), tmp_path) == CONTENT
    for name in ("Content-Length", "Content-Range"):
        (tmp_path / "a.bin").unlink()
        url = web.add("/b", CONTENT, headers={name: number if name == "Content-Length" else f"bytes 0-1/{number}"})
        assert get(pinned(url, web.add("/c", CONTENT)), tmp_path) == CONTENT


def test_certificates_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert "none.pem" in fails(pinned("https://127.0.0.1:9/a"), tmp_path)


def test_end_that_is_not_marked(web: Web, tmp_path: Path) -> None:
    """Without length, pieces and digest, a file that was cut looks as a whole one does."""
    url = web.add("/a", CONTENT, cuts=[HALF, HALF], headers={"Content-Length": ""})
    assert "does not say where the file ends" in fails(unpinned(url), tmp_path)
    web.files["/a"].cuts.clear()
    assert get(pinned(url), tmp_path) == CONTENT


@pytest.mark.parametrize("broken", [requests.exceptions.SSLError, requests.ConnectionError])
def test_outage_in_the_middle(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: type[Exception]
) -> None:
    """After a server was there once, one that is away is waited for as often as one that answers nothing."""
    url = web.add("/a", CONTENT, cuts=[HALF])
    real, calls = requests.Session.get, []

    def get_(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if 1 < len(calls) < QUICK.tries:
            raise broken("away")
        return real(*args, **more)

    monkeypatch.setattr(requests.Session, "get", get_)
    assert get(pinned(url), tmp_path) == CONTENT
    assert len(calls) == QUICK.tries


def test_certificate_that_is_not_trusted(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It will not be another one a second later."""
    calls = []

    def get_(*args: Any, **more: Any) -> Any:
        calls.append(args)
        raise requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    monkeypatch.setattr(requests.Session, "get", get_)
    assert "no certificate that this machine trusts" in fails(pinned(web.url), tmp_path)
    assert len(calls) == 1
