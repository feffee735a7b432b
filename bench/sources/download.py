"""One file from the network, resumed where it was cut, from the first of its mirrors that gives the right bytes.

The HTTP client is `requests`: it knows proxies, redirects and certificates. What it leaves to its user is the going on:
pooch, which downloads files with known hashes, starts from the first byte again, and the resuming clients belong to
one site each. So here is only what HTTP says about ranges (RFC 9110, sections 13 and 14), and when to try again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from ..errors import BadData
from ..files import no_os_errors, write_json, writing
from .pace import Pace
from .places import digest_of, human
from .ranges import Answer, Answered, Cut, Refused, request_headers
from .space import check_space
from .table import File, secure

_CHUNK = 2**15
"""Bytes that are written at once; what has arrived of one when a connection is cut, is lost."""
_PROGRESS = 2**16
"""Bytes that count as progress: a server that sends a byte a connection does not keep us for ever."""


@dataclass(frozen=True)
class Patience:
    """How often a mirror is tried without progress, and for how long it is waited for.

    Attributes:
        tries: connections without progress before the next mirror is taken.
        unreachable: the same for addresses to which there never was a connection, as without a network.
        first: seconds before the second try; doubled for each further one.
        longest: most seconds between tries, also where a server asks for more.
        silence: seconds without an answer or a byte after which a connection is given up.
        span: seconds in which the answer, and then every `least` bytes of the file, have to arrive.
        least: by default about 1 kB/s, at which a gigabyte takes eleven days.
    """

    tries: int = 5
    unreachable: int = 2
    first: float = 1.0
    longest: float = 60.0
    silence: float = 60.0
    span: float = 60.0
    least: int = _PROGRESS


PATIENCE = Patience()


_UNREACHABLE = "cannot be reached"


class Got(NamedTuple):
    """A downloaded file: the mirror it came from, and its SHA-256."""

    url: str
    sha256: str


def download(file: File, path: Path, patience: Patience = PATIENCE) -> Got:
    """Download a file of the table to `path`, which appears only when it is whole and has the pinned digest.

    What has arrived so far lies beside it (`.part`), so that a later call goes on there. One process at a time: the
    caller holds the lock.

    Raises:
        BadData: no mirror gave it, with what each did; the disk is full or read-only.
    """
    part = _Part(path)
    failures = []
    with requests.Session() as session:
        session.mount("http://", pace := Pace(patience.least, patience.span))
        session.mount("https://", pace)
        for url in file.urls:
            # Bytes of an earlier run or another mirror may be the wrong ones: then once more, from the first byte.
            for again in (False, True):
                try:
                    begun = part.usable(url, file)
                    _from_mirror(session, pace, url, file, part, patience)
                    digest = digest_of(part.path)
                    if file.fits(digest):
                        part.finish(path)
                        return Got(url, digest)
                    part.discard()
                    if begun == 0 or again:
                        raise Refused(f"gave other bytes than the pinned ones (SHA-256 {digest[:16]}..., expected "
                                      f"{(file.sha256 or '')[:16]}...), which were deleted")  # fmt: skip
                except Refused as error:
                    failures.append(f"{urlsplit(url).netloc} {error}")
                    break
    kept = f"; {human(part.size)} are kept, and the same command goes on there" if part.size else ""
    raise BadData(
        f"{file.save} could not be downloaded: {'; '.join(failures)}{kept}; try again later, or get it by hand from "
        "the page that `robustiqa data list` names"
    )


def _from_mirror(session: requests.Session, pace: Pace, url: str, file: File, part: _Part, patience: Patience) -> None:
    """Make `part` whole from one mirror; raises `Refused` when this mirror will not do it."""
    failed, reached = 0, False
    while True:
        before = part.size
        try:
            if file.bytes is None or part.usable(url, file) < file.bytes:
                with pace.kept():
                    _receive(session, pace, url, file, part, patience)
            return
        except Cut as cut:
            failed = 1 if part.size >= before + _PROGRESS else failed + 1
            reached = reached or cut.reached  # then there is a network, and a server that may come back
            if failed >= (patience.tries if reached else patience.unreachable):
                raise Refused(f"{cut} (tried {failed} times)") from cut
            time.sleep(min(max(cut.wait, patience.first * 2 ** (failed - 1)), patience.longest))


def _receive(session: requests.Session, pace: Pace, url: str, file: File, part: _Part, patience: Patience) -> None:
    """One connection: go on behind what is there, or from the first byte where the server will have it so."""
    have = part.usable(url, file)
    headers = request_headers(have, part.validator(url))
    try:
        with session.get(url, headers=headers, stream=True, timeout=patience.silence) as response:
            if not file.whole and not all(secure(r.url) for r in (*response.history, response)):
                raise Refused("leads to an address without https, and no whole digest is pinned")
            if file.sha256 is None and response.headers.get("Content-Type", "").startswith("text/html"):
                raise Refused("gives a web page, not the file")
            answer = Answer.read(response, have, file.bytes)
            changed = file.sha256 is None and answer.start > 0 and answer.validator != part.validator(url)
            if answer.kind is Answered.OUTDATED or changed:
                part.discard()
                raise Cut("has another version by now")
            if answer.kind is Answered.BODY:
                if file.sha256 is None and not _marks_its_end(response):
                    raise Refused("does not say where the file ends: a part could not be told from the whole")
                pace.answered()
                _write(response, answer, url, file, part, pace)
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise Refused(f"cannot be used ({type(error).__name__})") from error
    except requests.RequestException as error:
        if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise Refused("has no certificate that this machine trusts") from error
        reason = _reason(error, patience)
        raise Cut(reason, reached=reason != _UNREACHABLE) from error
    except (ValueError, OSError) as error:  # a redirect to what is no address; no file of certificates
        raise Refused(f"cannot be used ({' '.join(str(error).split())})") from error


def _write(response: requests.Response, answer: Answer, url: str, file: File, part: _Part, pace: Pace) -> None:
    """Add the body of an answer to what is there; raises `Cut` where it ends too early."""
    total = answer.total if answer.total is not None else file.bytes
    check_space(part.path.parent, 0 if total is None else total - answer.start, file.save)
    end = answer.start
    with part.opened(url, answer) as write, _bar(file.save, answer.start, total) as bar:
        for chunk in response.iter_content(_CHUNK):
            end += len(chunk)
            if file.bytes is not None and end > file.bytes:
                raise Refused(f"sends more than the {file.bytes} bytes of the pinned file")
            write(chunk)
            pace.arrived(len(chunk))
            bar.update(len(chunk))
    if total is not None and part.size < total:
        raise Cut(f"ended after {part.size} of {total} bytes")


def _marks_its_end(response: requests.Response) -> bool:
    """Whether a cut body is noticed: its length is known, or it comes in pieces of which the last is marked."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return chunked or "Content-Length" in response.headers


def _reason(error: requests.RequestException, patience: Patience) -> str:
    """What went wrong with a connection, in a few words."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "cannot be reached through the proxy"
    # Silence in the middle of a body comes as a ConnectionError.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"did not answer for {patience.silence:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.SSLError):
        return "cut the connection"
    return _UNREACHABLE if isinstance(error, requests.ConnectionError) else f"failed ({type(error).__name__})"


def _bar(name: str, start: int, total: int | None) -> Any:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=None)


class _Part:
    """What has arrived of a file, and beside it from where and in which version."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def usable(self, url: str, file: File) -> int:
        """How many bytes are there to go on from; what cannot be gone on from is deleted.

        With a pinned digest any mirror may go on where another stopped: a mixture would be found out at the end.
        Without one, only the same address can, and only if it can say whether its file has changed.
        """
        size = self.size
        too_long = file.bytes is not None and size > file.bytes
        if size and (too_long or (file.sha256 is None and self.validator(url) is None)):
            self.discard()
            return 0
        return size

    def validator(self, url: str) -> str | None:
        """The version of the file as this address gave it (ETag or date), None if it said none."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return note["validator"] if note["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextlib.contextmanager
    def opened(self, url: str, answer: Answer) -> Iterator[Callable[[bytes], None]]:
        """Open for what an answer brings: at its end, or from the first byte; gives what writes to it."""
        # Emptied before the note changes: a kill in between must not leave old bytes under a new version.
        with writing(self.path, "ab" if answer.start else "wb", "--to") as write:
            write_json(self._note, {"url": url, "validator": answer.validator})
            yield write

    def discard(self) -> None:
        """Delete it."""
        with no_os_errors(self.path, "--to"):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Give it its name, safely on the disk."""
        with no_os_errors(path, "--to"):
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            self.path.replace(path)
            self._note.unlink(missing_ok=True)
