"""Is what lies on the disk the source, and is all of it there?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ..datasets import Dataset, load_dataset
from ..errors import BadImage, RobustIQAError
from ..registry import registry
from ..spec import Spec
from .places import RECEIPT, Receipt, Roots, digest_of, folder_of, is_filled, is_of, read_receipt, readable
from .table import Source

MOST_NAMED = 3
"""Files that are named in a sentence; the rest are counted."""


class Finding(NamedTuple):
    """One thing that was checked: "ok", "wrong", or "unknown" where there is nothing to check against."""

    status: Literal["ok", "wrong", "unknown"]
    text: str


def verify(source: Source, roots: Roots, progress: Callable[[Iterator[int], int], Iterator[int]]) -> list[Finding]:
    """Check a source on this machine, and say what was found.

    Fetched files are compared with the digests taken when they were unpacked, those of the receipt with the pins; plain
    files with the pins; a data set is loaded by its loader, which knows its tables: how many of the images that these
    list are there and can be read, and the content hash that results carry.

    Args:
        source: what to check.
        roots: folders below which it may be.
        progress: wraps the indices of images, given their number, to show how far it is.

    Returns:
        findings; the source is in order if none is "wrong" and some are "ok".
    """
    folder = folder_of(source, roots)
    try:
        if not is_filled(folder):
            return [Finding("wrong", f"not in {str(folder)!r}")]
        receipt = read_receipt(folder) if source.below == "data" else None
        with readable(folder):
            findings = list(_by_receipt(source, folder, receipt) if receipt else _by_pins(source, folder))
    except RobustIQAError as error:
        return [Finding("wrong", str(error))]
    if source.kind == "dataset":
        findings.append(_by_loader(source, folder, progress))
    return findings


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
    for names, what in ((missing, "missing"), (changed, "changed since they were unpacked")):
        if names:
            yield Finding("wrong", f"{len(names)} of {len(receipt.files)} files {what}: {_some(names)}")
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
            yield Finding("wrong", f"{str(path)!r} is missing")
        elif file.fits(digest := digest_of(path)):
            yield Finding("ok", f"{file.save} has the pinned SHA-256")
        else:
            yield Finding("wrong", f"{file.save} has the SHA-256 {digest}, and {file.sha256} is pinned")
    if not plain:
        yield Finding("unknown", "was put there by hand: no digests of its files to compare with")


def _by_loader(source: Source, folder: Path, progress: Callable[[Iterator[int], int], Iterator[int]]) -> Finding:
    """How much of a data set its own loader finds and can read."""
    if source.name not in registry.names("dataset"):
        return Finding("unknown", "this version has no loader for it: its layout is not checked")
    try:
        accepted = inspect.signature(registry.get("dataset", source.name).factory).parameters
        options = {"root": str(folder), "split": "all"}
        text = str(Spec(source.name, {key: value for key, value in options.items() if key in accepted}))
        dataset = load_dataset(text)
        indices = progress(iter(range(len(dataset))), len(dataset))
        unreadable = [dataset.items[index].id for index in indices if _bad(dataset, index)]
        absent = int(getattr(dataset, "n_absent", 0))
        total = len(dataset) + absent
        found = f"{len(dataset)} of {total} images of its table are there"
        if absent or unreadable:
            some = f", {len(unreadable)} of them cannot be read ({_some(unreadable)})" if unreadable else ""
            return Finding("wrong", f"{found}{some}; content hash {dataset.content_hash}")
        return Finding("ok", f"{found} and can be read; content hash {dataset.content_hash}")
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
