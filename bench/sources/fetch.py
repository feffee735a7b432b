"""Fetching a source: all of its files, unpacked, under its name at once, or not at all."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import filelock

from ..errors import BadData
from ..files import make_folder, no_os_errors, write_atomically
from .download import PATIENCE, Patience, download
from .members import BadArchive
from .places import (
    RECEIPT,
    Content,
    Download,
    Receipt,
    Roots,
    base_of,
    digest_of,
    folder_of,
    is_filled,
    is_here,
    is_of,
    read_receipt,
    readable,
    receipt_json,
)
from .space import check_space
from .table import File, Source
from .unpack import unpack

OURS = ".robustiqa"
"""Folder below a root for locks and for what has not arrived whole."""


class Fetched(NamedTuple):
    """What a fetch found or did.

    Attributes:
        folder: where the source is.
        before: whether something was in its place before; then nothing was downloaded.
        ours: whether that, or what is there now, is by a fetch; what was put there by hand only `verify` can judge.
        downloads: files that were downloaded.
    """

    folder: Path
    before: bool
    ours: bool
    downloads: tuple[Download, ...] = ()


def fetch(
    source: Source,
    roots: Roots,
    keep_archives: bool = False,
    say: Callable[[str], None] = lambda text: None,
    patience: Patience = PATIENCE,
) -> Fetched:
    """Get a source unless it is there; what an interrupted call had downloaded is gone on from.

    Args:
        source: one that has files.
        roots: folders below which it goes.
        keep_archives: keep archives after unpacking, in archives/NAME below the root.
        say: is told about each step, in a sentence.
        patience: of the downloads.

    Raises:
        BadData: another fetch of it is under way; another version, or a file of that name, is in its place; no mirror
            gives it; an archive is refused; no room on the disk, or it is read-only. What is complete is kept.
    """
    base, folder = base_of(source, roots), folder_of(source, roots)
    # On the disk of the destination: links and mounts often lead from the one root to several.
    work = (folder if source.below == "torch" else folder.parent) / OURS / source.name
    if found := _present(source, roots):  # before anything is written: the disk may be read-only
        if found.ours:
            shutil.rmtree(work, ignore_errors=True)  # of a call that was killed at its very end
        return found
    make_folder(folder.parent, "--to")
    with _alone(source, base):
        if found := _present(source, roots):
            return found
        if source.below == "torch":
            return _fetch_plain(source, folder, work, patience, say)
        downloads = _download_all(source, work, patience, say)
        say(f"unpacking {source.name}")
        content = _unpack_all(source, work)
        if RECEIPT in content:
            raise BadData(f"an archive of {source.name!r} holds a file {RECEIPT!r}, which is for the receipt: refused")
        receipt = Receipt(source=source.name, fetched=_now(), downloads=downloads, files=content)
        write_atomically(work / "files" / RECEIPT, receipt_json(receipt))
        with no_os_errors(folder, "--to"):
            (work / "files").replace(folder)
            if keep_archives:
                _keep(source, work, base / "archives" / source.name)
            shutil.rmtree(work)
    return Fetched(folder, False, True, downloads)


@contextlib.contextmanager
def _alone(source: Source, base: Path) -> Iterator[None]:
    """Hold the lock of a source; the system lets go of it when the process ends, however that happens."""
    path = base / OURS / f"{source.name}.lock"
    make_folder(path.parent, "--to")
    with no_os_errors(path, "--to"):
        try:
            lock = filelock.FileLock(path, timeout=0).acquire()
        except filelock.Timeout as error:  # an OSError, too
            raise BadData(
                f"another fetch of {source.name!r} to {str(base)!r} is under way: wait for its end, and run again"
            ) from error
        except NotImplementedError as error:
            raise BadData(f"the file system of {str(base)!r} has no locks: choose another --to") from error
    with lock:
        yield


def _present(source: Source, roots: Roots) -> Fetched | None:
    """What is in the source's place already; raises `BadData` if that is another version, a part of it, or a file."""
    folder = folder_of(source, roots)
    with readable(folder):
        return _found(source, roots, folder)


def _found(source: Source, roots: Roots, folder: Path) -> Fetched | None:
    if source.below == "torch":
        paths = [folder / file.save for file in source.files]
        wrong = [path for path, file in zip(paths, source.files, strict=True)
                 if path.exists() and not file.fits(digest_of(path))]  # fmt: skip
        if wrong:
            raise BadData(f"{str(wrong[0])!r} is there, and is not the pinned file: move it away and fetch again")
        return Fetched(folder, True, True) if all(path.exists() for path in paths) else None
    if folder.exists() and not folder.is_dir():
        raise BadData(f"{str(folder)!r} is a file, and {source.name!r} needs a folder there: move it away")
    if not is_filled(folder):
        if folder.is_symlink() or folder.is_mount():
            raise BadData(f"{str(folder)!r} is a link or a mount, and a fetched folder cannot take its place: remove "
                          "it, or make the folder above it that link")  # fmt: skip
        return None
    receipt = read_receipt(folder)
    if receipt is None:
        if not is_here(source, roots):
            raise BadData(f"{str(folder)!r} is there without all of {source.name!r}: move it away and fetch again")
        return Fetched(folder, True, False)
    if not is_of(receipt, source):
        raise BadData(
            f"{str(folder)!r} was fetched in another version than is pinned now: move it away and fetch again"
        )
    return Fetched(folder, True, True)


def _download_all(source: Source, work: Path, patience: Patience, say: Callable[[str], None]) -> tuple[Download, ...]:
    """Every file of a source, in the folder archives of `work`; those that an earlier call completed are kept."""
    archives = work / "archives"
    make_folder(archives, "--to")
    present = sum(path.stat().st_size for path in archives.iterdir())
    check_space(archives, max(0, (source.bytes or 0) - present), source.name)
    return tuple(_download(file, archives / file.save, patience, say) for file in source.files)


def _download(file: File, path: Path, patience: Patience, say: Callable[[str], None]) -> Download:
    """One file, downloaded unless an earlier call has completed it."""
    if path.is_file() and file.fits(digest := digest_of(path)):
        return _record(file, path, None, digest)
    with no_os_errors(path, "--to"):
        path.unlink(missing_ok=True)
    say(f"downloading {file.save}")
    got = download(file, path, patience)
    return _record(file, path, got.url, got.sha256)


def _record(file: File, path: Path, url: str | None, sha256: str) -> Download:
    size = path.stat().st_size
    return Download(save=file.save, url=url, sha256=sha256, bytes=size, pinned=file.whole)


def _unpack_all(source: Source, work: Path) -> dict[str, Content]:
    """All files of a source as they will lie below its folder, in the folder files of `work`."""
    target = work / "files"
    with no_os_errors(target, "--to"):
        if target.exists():
            shutil.rmtree(target)  # of a call that was killed while it unpacked
    content: dict[str, Content] = {}
    for file in source.files:
        path = work / "archives" / file.save
        into = target / file.into
        if file.archive:
            try:
                found = unpack(path, file.archive, into, file.strip)
            except BadArchive as error:
                with no_os_errors(path, "--to"):
                    path.unlink()  # or the next call would take it for a good one
                raise BadData(f"{error} (the archive was deleted)") from error
        else:
            make_folder(into, "--to")
            if (into / file.save).exists():
                raise BadData(f"{source.name!r} has two files {file.save!r}: refused to write one over the other")
            with no_os_errors(into, "--to"):
                # A link if that can be: until the folder has its name, the download must not be lost.
                _link(path, into / file.save)
            found = {file.save: Content(bytes=path.stat().st_size, sha256=digest_of(into / file.save))}
        content |= {f"{file.into}/{name}".lstrip("/"): value for name, value in found.items()}
    return content


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(path, target)


def _keep(source: Source, work: Path, folder: Path) -> None:
    """Move the archives to a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.files:
        if file.archive:
            shutil.move(work / "archives" / file.save, folder / file.save)  # possibly on another disk


def _fetch_plain(source: Source, folder: Path, work: Path, patience: Patience, say: Callable[[str], None]) -> Fetched:
    """Files for a folder that others use, too: each on its own; those that are there are the right ones."""
    downloads = []
    make_folder(work, "--to")
    make_folder(folder, "--to")
    for file in source.files:
        if (folder / file.save).exists():
            continue
        downloads.append(_download(file, work / file.save, patience, say))
        with no_os_errors(folder, "--to"):
            (work / file.save).replace(folder / file.save)
    with no_os_errors(work, "--to"):
        shutil.rmtree(work)
    return Fetched(folder, False, True, tuple(downloads))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
