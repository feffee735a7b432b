"""What kind of failure an exception is: the run's answer to each is another one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal

import torch

Fault = Literal["deterministic", "transient", "device", "memory", "fatal"]
"""`deterministic`: the same again if tried again. `transient`: a file server or a connection that may come back.
`device`: the accelerator's state is lost, and only a new process has a working one. `memory`: too much at once.
`fatal`: nothing can be written any more, so no other cell would fare better."""

_TRANSIENT = {
    getattr(errno, name)
    for name in ("ESTALE", "EIO", "ETIMEDOUT", "EREMOTEIO", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE",
                 "ENETUNREACH", "EHOSTUNREACH", "ENETRESET", "EHOSTDOWN")
    if hasattr(errno, name)
}  # fmt: skip
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)}
_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
_CONNECTION = {"ConnectionError", "ConnectTimeout", "ReadTimeout", "ChunkedEncodingError"}


def fault_of(error: BaseException) -> Fault:
    """The kind of an exception, also of one that another was raised from."""
    found: Fault = "deterministic"
    for cause in _causes(error):
        kind = _kind(cause)
        if kind == "fatal":
            return kind
        if found == "deterministic":
            found = kind
    return found


def _kind(error: BaseException) -> Fault:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "memory"
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return "fatal"
        lost = isinstance(error, ConnectionError) or type(error).__name__ in _CONNECTION
        return "transient" if lost or error.errno in _TRANSIENT else "deterministic"
    if isinstance(error, RuntimeError):
        text = str(error)
        if any(words in text for words in _MEMORY):
            return "memory"
        if text.startswith("CUDA error"):
            return "device"
    return "deterministic"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
