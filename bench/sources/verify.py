"""Is what lies on the disk the source, and is all of it there?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ..datasets import Dataset, load_dataset
from ..errors import Absent, BadImage, RobustIQAError
from ..registry import registry
from ..spec import Spec
from .places import RECEIPT, Receipt, Roots, digest_of, folder_of, is_filled, is_of, read_receipt, readable
from .table import Source

MOST_NAMED = 3
"""Files that are named in a sentence; the rest are counted."""


class Finding(NamedTuple):
    """One thing that was checked.

    Attributes:
        status: "ok"; "absent": nothing is there; "incomplete": something is, and files of it are missing; "wrong": a
            file is there and not the right one, or cannot be read; "unknown": there is nothing to check it against.
        text: what was checked, and what was found.
    """

    status: Literal["ok", "absent", "incomplete", "wrong", "unknown"]
    text: str

    @property
    def lacking(self) -> bool:
        """Whether the source cannot be used, or not all of it."""
        return self.status in ("absent", "incomplete", "wrong")


Progress = Callable[[Iterator[int], int], Iterator[int]]


def verify(source: Source, roots: Roots, progress: Progress) -> list[Finding]:
    """Check a source on this machine, and say what was found.

    Fetched files are compared with the digests taken when they were unpacked, those of the receipt with the pins; plain
    files with the pins; a data set is loaded by its loader, which knows its tables: how many of the images that these
    list are there and can be read, and the content hash that results carry.

    Args:
        source: what to check.
        roots: folders below which it may be.
        progress: wraps the indices of images, given their number, to show how far it is.

    Returns:
        findings; the source is in order if none is `lacking` and some are "ok".
    """
    folder = folder_of(source, roots)
    try:
        if not is_filled(folder):
            return [Finding("absent", f"nothing in {str(folder)!r}")]
        receipt = read_receipt(folder) if source.below == "data" else None
        with readable(folder):
            findings = list(_by_receipt(source, folder, receipt) if receipt else _by_pins(source, folder))
    except RobustIQAError as error:
        return [Finding("wrong", str(error))]
    if source.kind == "dataset":
        findings.append(_by_loader(source, folder, progress))
    return findings


def look(source: Source, roots: Roots) -> list[Finding]:
    """What `verify` finds of a source that was put there by hand, without decoding images: quick enough to be asked
    whenever it is needed."""
    folder = folder_of(source, roots)
    try:
        with readable(folder):
            findings = list(_by_pins(source, folder))
    except RobustIQAError as error:
        return [Finding("wrong", str(error))]
    return [*findings, _by_loader(source, folder, None)] if source.kind == "dataset" else findings


def _by_receipt(source: Source, folder: Path, receipt: Receipt) -> Iterator[Finding]:
    """Every file against the digest it had when it was unpacked, and the archives' digests against the pins."""
    if not is_of(receipt, source):
        yield Finding("wrong", "was fetched in another version than is pinned now")
    elif all(download.pinned for download in receipt.downloads):
        yield Finding("ok", "downloads had the pinned SHA-256")
    else:
        text = ", ".join(f"{d.save} {d.sha256}" for d in receipt.downloads if not d.pinned)
        yield Finding("unknown", f"no whole SHA-256 is pinned to compare with; downloaded was {text}")
    missing = [name for name in receipt.files if not (folder / name).is_file()]
    changed = [
        name
        for name, content in receipt.files.items()
        if name not in missing
        and ((folder / name).stat().st_size != content.bytes or digest_of(folder / name) != content.sha256)
    ]
    if missing:
        yield Finding("incomplete", f"{len(missing)} of {len(receipt.files)} files are missing: {_some(missing)}")
    if changed:
        yield Finding("wrong", f"{len(changed)} of {len(receipt.files)} files changed since they were unpacked: "
                               f"{_some(changed)}")  # fmt: skip
    if not (missing or changed):
        yield Finding("ok", f"{len(receipt.files)} files are as they were unpacked ({RECEIPT})")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if added := sorted(there - receipt.files.keys() - {RECEIPT}):
        yield Finding("unknown", f"{len(added)} files were added to what was unpacked: {_some(added)}")


def _by_pins(source: Source, folder: Path) -> Iterator[Finding]:
    """Plain files against their pins; nothing can be said of what was unpacked by hand."""
    plain = [file for file in source.files if file.sha256 and not file.archive]
    for file in plain:
        path = folder / file.into / file.save
        if not path.is_file():
            yield Finding("incomplete", f"{str(path)!r} is missing")
        elif file.fits(digest := digest_of(path)):
            yield Finding("ok", f"{file.save} has the pinned SHA-256")
        else:
            yield Finding("wrong", f"{file.save} has the SHA-256 {digest}, and {file.sha256} is pinned")
    if not plain:
        yield Finding("unknown", "was put there by hand: no digests of its files to compare with")


def _by_loader(source: Source, folder: Path, progress: Progress | None) -> Finding:
    """How much of a data set its own loader finds and, given `progress`, can read."""
    if source.name not in registry.names("dataset"):
        return Finding("unknown", "this version has no loader for it: its layout is not checked")
    try:
        accepted = inspect.signature(registry.get("dataset", source.name).factory).parameters
        options = {"root": str(folder), "split": "all"}
        text = str(Spec(source.name, {key: value for key, value in options.items() if key in accepted}))
        dataset = load_dataset(text)
        found = f"{len(dataset)} of {len(dataset) + dataset.n_absent} images of its table are there"
        if progress is None:
            return Finding("incomplete" if dataset.n_absent else "ok", found)
        indices = progress(iter(range(len(dataset))), len(dataset))
        unreadable = [dataset.items[index].id for index in indices if _bad(dataset, index)]
        some = f", {len(unreadable)} of them cannot be read ({_some(unreadable)})" if unreadable else ""
        read = "" if dataset.n_absent or unreadable else " and can be read"
        status = "wrong" if unreadable else "incomplete" if dataset.n_absent else "ok"
        return Finding(status, f"{found}{some}{read}; content hash {dataset.content_hash}")
    except Absent as error:  # some of it is: the folder is not empty
        return Finding("incomplete", str(error))
    except (RobustIQAError, OSError) as error:
        return Finding("wrong", str(error))


def _bad(dataset: Dataset, index: int) -> bool:
    try:
        dataset.load(index)
    except BadImage:
        return True
    return False


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + rest
