"""Taking a packed submission into the registry: nothing of it is run, everything that can be contradicted is."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bench.errors import BadSubmission, BrokenInvariant, RobustIQAError, first_line
from ...bench.files import make_folder, no_os_errors, write_atomically
from ...bench.store import Store
from ...bench.submission.archive import MANIFEST, RUN, load_json, manifest_of, opened_archive
from ...bench.submission.belonging import check_run
from ...bench.submission.metadata import FILE, DefenseSubmission
from ...bench.submission.packing import Packed, check_archive, first_changed, read_result, records_of
from ...bench.submission.verification import FILE as VERIFICATION
from ...bench.submission.verification import Verification, parse_verification
from ..collect import listed, make_board, write_board
from .entry import VERIFIED, Entry, read_entries, read_entry
from .rows import Row, rows_of
from .tables import submission_tables, write_frames

ROUNDING = 1e-6
"""By how much a figure of `verification.json` may differ from the one of the records, relative to 1 and to itself."""


class Look(NamedTuple):
    """What is in an archive.

    Attributes:
        packed: it, checked.
        rows: its figures, computed from its records.
        notes: what a reader should know of them.
    """

    packed: Packed
    rows: list[Row]
    notes: list[str]


def look(path: Path) -> Look:
    """What is in a packed submission, after every check that accepting it makes; nothing is kept.

    Raises:
        BadSubmission: it is not in order.
        BrokenInvariant: its records cannot be right.
    """
    with tempfile.TemporaryDirectory(prefix="robustiqa-") as folder:
        entry, packed = _staged(path, Path(folder))
        return Look(packed, rows_of([entry], []), _notes(entry))


def accept(
    path: Path, into: Path, verified: Path | None = None, boards: Sequence[Path] = ()
) -> tuple[Entry, dict[str, Path]]:
    """Take a packed submission into a registry, or add the maintainers' run to one that is there; write its tables.

    Only data are kept: metadata, manifest, verification and records. Sources and images stay in the archive, which the
    manifest's digests name.

    Args:
        path: the archive.
        into: folder of the registry.
        verified: folder that `submit verify` has written on the maintainers' machine, from the unpacked archive.
        boards: folders of runs whose rows accepted breaks may speak of.

    Raises:
        BadSubmission: the archive is not in order, is there already, or claims the name of another one.
        BrokenInvariant: its records cannot be right.
        BadData: another `accept` is at work in the folder.
    """
    make_folder(into, "--into")
    with Store(into).locked("accept", "--into"):
        return _accept(path, into, verified, boards)


def _accept(path: Path, into: Path, verified: Path | None, boards: Sequence[Path]) -> tuple[Entry, dict[str, Path]]:
    """As `accept`, alone in the folder: who came second would not see the first one's entry in the tables."""
    entries = read_entries(into)
    with _staging(into) as folder:
        entry, packed = _staged(path, folder)
        known = next((other for other in entries if other.digest == entry.digest), None)
        if known is not None and verified is None:
            raise BadSubmission(f"submission {packed.submission.name!r} is accepted already, the same to the last "
                                "byte: add the maintainers' run of it with --verified")  # fmt: skip
        if known is None:
            _check_new(entry, entries)
        if verified is not None:
            _stage_verified(entry, packed, verified)
        entries = sorted([*(e for e in entries if e is not known), entry], key=lambda e: e.submission.name)
        frames = submission_tables(entries, boards)  # raises before anything is changed
        target = into / entry.submission.name
        with no_os_errors(into, "--into"):
            if known is not None:  # moved, not removed: two renames are all that an interruption can fall between
                target.rename(folder / "before")
            entry.folder.rename(target)
    return replace(entry, folder=target), write_frames(into, entries, frames)


@contextlib.contextmanager
def _staging(into: Path) -> Iterator[Path]:
    """A hidden folder beside the accepted ones, on their file system, that is gone afterwards."""
    with no_os_errors(into, "--into"):
        folder = Path(tempfile.mkdtemp(prefix=".accept-", dir=into))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _staged(path: Path, folder: Path) -> tuple[Entry, Packed]:
    """The archive's data in a folder of its name below another one, after all checks."""
    packed = check_archive(path, folder / "run")
    submission, where = packed.submission, f"the records of {path.name!r}"
    home = folder / submission.name
    with no_os_errors(home, "--into"):
        home.mkdir()
        (folder / "run").rename(home / "run")
    with opened_archive(path) as archive:
        if archive.digest != packed.digest:
            raise BadSubmission(f"{str(path)!r} was exchanged while it was read: refused")
        for name in (FILE, VERIFICATION):
            write_atomically(home / name, archive.read(name))
    write_atomically(home / MANIFEST, packed.manifest)
    entry = read_entry(home)
    _check_records(entry, packed.verification, where)
    return entry, packed


def _check_records(entry: Entry, verification: Verification, where: str) -> None:
    """Records that belong to the submission, and contradict neither themselves nor what `verify` said of them."""
    run = entry.run
    check_run(entry.submission, run, verification.files, where)
    _check_board(run, where)
    _check_claims(entry, verification, where)


def _check_board(run: Path, where: str) -> None:
    """Write the tables of a run of somebody else's, if its records contradict neither each other nor the plan."""
    try:
        board = make_board(run)
    except RobustIQAError:
        raise
    except Exception as error:  # of records that were made to look right, anything may follow
        raise BadSubmission(f"{where} give no board ({type(error).__name__}: {first_line(error)}): refused") from error
    if board.broken:
        raise BrokenInvariant(
            f"{where} cannot be right, the submission is refused (docs/rules.md):{listed(board.broken)}"
        )
    write_board(board, run)


def _check_claims(entry: Entry, verification: Verification, where: str) -> None:
    """What `verification.json` says of the claims is what the records say."""
    submission = entry.submission
    claims = len(submission.claims) if isinstance(submission, DefenseSubmission) else 1
    again = entry.figures[:claims]
    if len(again) != len(verification.claims):
        raise BadSubmission(f"{where}: {VERIFICATION} speaks of {len(verification.claims)} claims, {FILE} makes "
                            f"{len(again)}: refused; run `robustiqa submit verify` again")  # fmt: skip
    for mine, theirs in zip(again, verification.claims, strict=True):
        measured = np.nan if theirs.measured is None else theirs.measured
        same = np.isclose(mine.measured, measured, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)
        if not same or theirs.claimed != mine.claimed or theirs.verdict != mine.verdict:
            raise BadSubmission(
                f"{where} give {mine.measured:.6g} ({mine.verdict}) for {theirs.what!r}, {VERIFICATION} says "
                f"{measured:.6g} ({theirs.verdict}): one was edited; refused"
            )
        if mine.verdict == "not confirmed":
            raise BadSubmission(f"{where} do not confirm the claim {theirs.what!r}: {mine.claimed:g} was claimed, "
                                f"{mine.measured:.4g} measured; correct the claim and verify again")  # fmt: skip


def _check_new(entry: Entry, entries: Sequence[Entry]) -> None:
    mine = entry.submission
    for other in entries:
        if other.submission.name.casefold() == mine.name.casefold():
            raise BadSubmission(f"a submission of the name {mine.name!r} is accepted already, with other contents: "
                                f"choose another name, or a version in it, such as {mine.name}-2")  # fmt: skip
        theirs = other.submission
        if not isinstance(mine, DefenseSubmission) or not isinstance(theirs, DefenseSubmission):
            continue
        if mine.defense == theirs.defense:
            raise BadSubmission(f"the defence {mine.defense!r} is that of the accepted submission {theirs.name!r}: "
                                "give yours another name, so that tables can tell them apart")  # fmt: skip


def _stage_verified(entry: Entry, packed: Packed, verified: Path) -> None:
    """Put the records of the maintainers' run beside those of the author's; the same files have to be behind both."""
    path = verified / VERIFICATION
    where = f"the maintainers' run in {str(verified)!r}"
    if not path.is_file():
        raise BadSubmission(f"{where} has no {VERIFICATION}: `robustiqa submit unpack` and `submit verify` the archive")
    outcome = read_result(verified, VERIFICATION)
    found = parse_verification(load_json(outcome, repr(str(path))), where)
    if found.files != packed.verification.files:
        wrong = first_changed(found.files, packed.verification.files)
        raise BadSubmission(f"{where} is of other files than the archive's ({wrong!r}): unpack the archive and "
                            "verify that")  # fmt: skip
    home = entry.folder / VERIFIED
    records = records_of(packed.submission, verified, packed.verification.files)
    files = {VERIFICATION: outcome} | {name.removeprefix(RUN): content for name, content in records.items()}
    files[MANIFEST] = manifest_of(packed.submission.name, packed.submission.kind, files)
    for name, content in files.items():
        make_folder((home / name).parent, "--into")
        write_atomically(home / name, content, sync=False)
    _check_board(home, where)


def _notes(entry: Entry) -> list[str]:
    """What the record of the author's run says that a reader would not expect."""
    record = entry.record
    notes = []
    for plugin in record.get("plugins", ()):
        kind, name, origin = (str(_of(plugin, key)) for key in ("kind", "plugin", "origin"))
        if kind != "defense" and origin.startswith("file"):
            notes.append(f"the {kind} {name!r} is not one that comes with robustiqa, but of a "
                         "file of the author's")  # fmt: skip
    if _of(_of(record.get("code"), "git"), "dirty"):
        notes.append("the author's copy of robustiqa had changes")
    return notes


def _of(value: object, key: str) -> Any:
    """A part of a record, which may be anything."""
    return value.get(key) if isinstance(value, dict) else None
