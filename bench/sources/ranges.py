"""What a server's answer means for a file of which some bytes are here already (RFC 9110, sections 13 to 15)."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

import requests

_NUMBER = re.compile(r"[0-9]{1,18}")
"""What `str.isdigit` lets pass, `int` may not: superscripts, and thousands of digits."""
_RANGE = re.compile(r"bytes (?:(?P<start>[0-9]{1,18})-[0-9]{1,18}|\*)/(?P<total>[0-9]{1,18}|\*)")
_LATER = (408, 425, 429, 500, 502, 503, 504)
_WHY = {
    401: "asks for a login",
    403: "refuses access",
    404: "does not have the file",
    410: "no longer has the file",
    429: "has had too many requests",
}


class Refused(Exception):
    """This mirror will not give the file; the next one may."""


class Cut(Exception):
    """The connection ended early, or the server asks to come again.

    Attributes:
        wait: after how many seconds, if the server says.
        reached: whether there was a connection at all.
    """

    def __init__(self, reason: str, wait: float = 0.0, reached: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.reached = wait, reached


class Answered(enum.Enum):
    """The body follows; all bytes are here already; the bytes here are of no use."""

    BODY = "body"
    COMPLETE = "complete"
    OUTDATED = "outdated"


class Answer(NamedTuple):
    """How to read an answer.

    Attributes:
        kind: what it says.
        start: position of the body's first byte; 0 also where a range was asked for, and the server ignores ranges or
            has another version by now.
        total: size of the whole file, None if the server does not say.
        validator: what names this version in a later `If-Range`, None if the server says nothing that would do.
    """

    kind: Answered
    start: int = 0
    total: int | None = None
    validator: str | None = None

    @classmethod
    def read(cls, response: requests.Response, have: int, expected: int | None) -> Answer:
        """Read an answer to a request for what follows the first `have` bytes.

        Args:
            response: the answer; its body is not touched.
            have: how many bytes are here.
            expected: size of the pinned file, None if there is no pin.

        Raises:
            Refused: this address does not give this file.
            Cut: it may do so later.
        """
        code = response.status_code
        if code in _LATER:
            wait = response.headers.get("Retry-After", "")
            raise Cut(_say(code), float(wait) if _NUMBER.fullmatch(wait) else 0.0)
        if code not in (200, 206, 416):
            raise Refused(_say(code))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("sends the file in another encoding than was asked for")
        start, total = _position(response)
        if code == 416 and total == have > 0:
            return cls(Answered.COMPLETE)
        if code == 416 or start != (have if code == 206 else 0):
            if have:
                return cls(Answered.OUTDATED)
            raise Refused("does not answer what was asked")
        if None not in (total, expected) and total != expected:
            raise Refused(f"has {total} bytes, and the pinned file {expected}")
        return cls(Answered.BODY, start, total, _validator(response))


def request_headers(have: int, validator: str | None) -> dict[str, str]:
    """Headers that ask for what follows the first `have` bytes, or for all if the file is no longer that version."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "robustiqa"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    return headers


def _say(code: int) -> str:
    return f"{_WHY.get(code, 'failed' if code >= 500 else 'gives no file')} (HTTP {code})"


def _position(response: requests.Response) -> tuple[int, int | None]:
    """Where the body starts (-1 if that is not said), and the size of the whole file (None if not said)."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if _NUMBER.fullmatch(length) else None
    match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        return -1, None
    return int(match["start"] or -1), None if match["total"] == "*" else int(match["total"])


def _validator(response: requests.Response) -> str | None:
    """A strong ETag, or the date of the last change: only these may stand in `If-Range`."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")
