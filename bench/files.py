"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import BadData

STALE_SECONDS = 3600.0
"""Age from which a temporary file is nobody's: writing one takes seconds, on a hanging file server minutes."""

_TEMPORARY = re.compile(r"\..+\.(?:(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}|\d+)\.tmp")
"""Names of `temporary_name`, and those of before, which hold a process id only."""


def no_file(path: str | Path, plural: bool = False) -> str:
    """The rest of a sentence whose subject, one or several things, should lie in a file that is not there."""
    if Path(path).is_dir():
        return f"{'are' if plural else 'is'} a folder: give a file"
    return f"{'do' if plural else 'does'} not exist: check the path"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def no_links(root: Path, names: Iterable[str]) -> None:
    """Raise `BadData` where a folder in ROOT is a link: a run may be a stranger's, and what is written must stay in it.

    ROOT itself may be one, since it is the user who names it.
    """
    for name in names:
        if (root / name).is_symlink():
            raise BadData(f"{str(root / name)!r} is a link, and what is written there would land elsewhere: put a "
                          "folder in its place, or let the link stand for the whole run")  # fmt: skip


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder with its parents unless it is there; raises `BadData` when that is impossible."""
    with no_os_errors(path, option):
        path.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file under a temporary name, sync it, rename it; raises `BadData` when the disk is full or read-only.

    Without `sync`, the file may be lost or empty after a power cut: for copies of what is kept elsewhere.

    Any number of processes on any number of hosts may write the same file: the temporary name is one's own, and the
    last rename wins whole.
    """
    temporary = temporary_name(path)
    try:
        with no_os_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
            if not sync:
                return
            # The rename is durable once the folder is synced; Windows cannot open folders.
            with contextlib.suppress(OSError):
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nobody else uses, on any host: of place, process and a random number."""
    return path.with_name(f".{path.name}.{place()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_stale(folders: Iterable[Path]) -> None:
    """Remove temporary files of `write_atomically` that nobody is writing any more, in folders as far as they exist.

    Those are the files of a process of this machine that has ended, and any older than `STALE_SECONDS` by the clock of
    the file system: a file just made there is the measure, since the clocks of hosts differ and may be set back.
    """
    for folder in folders:
        left = [(path, match) for path in folder.glob(".*.tmp") if (match := _TEMPORARY.fullmatch(path.name))]
        if not left:
            continue
        now = _file_time(folder)
        for path, match in left:
            with contextlib.suppress(FileNotFoundError):  # another one has removed it meanwhile
                if is_gone(match["place"], int(match["pid"] or 0)) or now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _file_time(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder."""
    probe = temporary_name(folder / "clock")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@functools.cache
def place() -> str:
    """Eight hex digits for where a process id means this process: the host since its last start, and the container.

    Two hosts of a cluster give out the same ids, and so do two containers on one host.
    """
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_gone(where: object, pid: int) -> bool:
    """Whether a process has ended, as far as this host knows: never of one that another place has started.

    Args:
        where: the `place` of the process.
        pid: its id there.
    """
    if where != place() or os.name != "posix":  # Windows cannot be asked without harm
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@contextlib.contextmanager
def no_os_errors(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into `BadData`; `option` is what chooses the folder."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and run again: what is complete is kept" if full else (
            f"check the folder's permissions, or choose another {option}")  # fmt: skip
        raise BadData(f"cannot write {str(path)!r} ({error.strerror}): {advice}") from error


@contextlib.contextmanager
def writing(path: Path, mode: str, option: str = "--out") -> Iterator[Callable[[bytes], None]]:
    """A file that is open while the block runs; gives what writes to it, and raises `BadData` where the system refuses.

    It has no buffer: what one still holds on a full disk is refused once more when the file is closed, by an `OSError`
    that takes the place of the sentence.
    """
    with no_os_errors(path, option):
        file = path.open(mode, 0)

    def write(content: bytes) -> None:
        rest = memoryview(content)
        with no_os_errors(path, option):
            while rest:
                rest = rest[file.write(rest) :]

    try:
        yield write
    finally:
        with no_os_errors(path, option):
            file.close()
