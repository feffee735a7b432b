"""A verified folder as one archive, and an archive as plain data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadSubmission
from ..files import make_folder, write_atomically
from ..provenance import HISTORY, RECORD
from ..records import unzipped_size
from ..sources.places import human
from ..store import Store
from .archive import IMAGES, RUN, SOURCE, Archive, load_json, most_bytes, opened_archive, write_archive
from .belonging import check_run
from .contents import check_source
from .metadata import (
    FILE,
    BreakSubmission,
    DefenseSubmission,
    Submission,
    parse_submission,
    placeholders,
    read_submission,
)
from .paths import inside, members
from .scrubbed import check_names, scrubbed
from .verification import FILE as VERIFICATION
from .verification import Verification, parse_verification

VERIFIED = "verified"
"""Folder below the submission's into which `submit verify` writes."""
LEFT_OUT = frozenset({VERIFIED, "__pycache__", ".git", ".pytest_cache", ".ruff_cache", ".mypy_cache"})
"""Folders that are no part of a submission."""
CELLS = "cells/"
MOST_RECORD, MOST_RECORDS = 64 * 2**20, 2**30
"""Bytes of one record unzipped, and of all: a row has about 500, and a record is of one chunk of a data set."""


@dataclass(frozen=True)
class Packed:
    """A packed submission that was checked as far as that can be done without the rules of the board.

    Attributes:
        submission: its metadata.
        verification: what its author found.
        digest: SHA-256 of its manifest, which names all of it.
        manifest: that manifest's bytes.
        bytes: of the archive.
    """

    submission: Submission
    verification: Verification
    digest: str
    manifest: bytes
    bytes: int


def pack(root: Path, verified: Path | None = None, out: Path | None = None) -> tuple[Path, Packed]:
    """Pack a folder that was verified; returns the archive's path, and what a reader finds in it.

    The same folder gives the same bytes. Paths of this machine are taken out of the run's record.

    Args:
        root: folder of the submission.
        verified: what `submit verify` wrote; ROOT/verified by default.
        out: the archive; NAME.zip by default.

    Raises:
        BadSubmission: it was not verified, did not pass, was changed since, or holds what no submission may hold.
        BadData: nothing can be written there.
    """
    submission = read_submission(root)
    verified = verified or root / VERIFIED
    out = out or Path(f"{submission.name}.zip")
    contents = sources(root, submission, verified)
    files: dict[str, bytes] = {FILE: contents[FILE], VERIFICATION: _verified(verified, submission, contents)}
    for name, content in contents.items():
        if name != FILE:
            inside = isinstance(submission, BreakSubmission) and name.startswith(f"{submission.images}/")
            files[IMAGES + name.rsplit("/", 1)[-1] if inside else SOURCE + name] = content
    files |= records_of(submission, verified, digests(contents))
    make_folder(out.parent)
    write_archive(out, submission.name, submission.kind, files)
    return out, check_archive(out)


def sources(root: Path, submission: Submission, verified: Path | None = None) -> dict[str, bytes]:
    """The files of a submission's folder by their path below it, each of a kind that can be read without running it.

    Raises:
        BadSubmission: another kind, a link, a name that is not legal everywhere, or too much of it.
    """
    own = {verified.name} if verified is not None and verified.parent.resolve() == root.resolve() else set()
    found: dict[str, bytes] = {}
    for member in members(root, (*LEFT_OUT, *own)):
        content = (root / member.name).read_bytes()
        check_source(member.name, content)
        found[member.name] = content
    plugin = submission.plugin if isinstance(submission, DefenseSubmission) else None
    if plugin is not None and plugin not in found:
        raise BadSubmission(f"{str(root)!r} has no {plugin!r}, which its {FILE} names as its plug-in: check the path")
    return found


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of every file."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}


def first_changed(before: dict[str, str], after: dict[str, str]) -> str:
    """The first name under which two sets of digests, which are not the same, differ."""
    return min(name for name in {*before, *after} if before.get(name) != after.get(name))


def check_archive(path: Path, records: Path | None = None) -> Packed:
    """Everything in an archive that can be checked without the rules of the board; nothing in it is run.

    Args:
        path: the archive.
        records: an empty folder that the records of the run are written into, for reading.

    Raises:
        BadSubmission: what does not fit together, was changed, or does not belong there.
        BadArchive: the archive is damaged or hostile.
    """
    with opened_archive(path) as archive:
        metadata = archive.read(FILE)
        submission = parse_submission(metadata, f"{archive.where}: {FILE}")
        where = archive.where
        if (submission.name, submission.kind) != (archive.manifest.name, archive.manifest.kind):
            raise BadSubmission(f"{where}: its manifest and its {FILE} do not name the same submission: refused")
        verification = parse_verification(load_json(archive.read(VERIFICATION), f"{where}: {VERIFICATION}"), where)
        _check_verified(verification, submission, _checked_sources(archive, submission, metadata), where)
        if isinstance(submission, DefenseSubmission) and (pictures := archive.names(IMAGES)):
            raise BadSubmission(f"{where} holds {pictures[0]!r}, which is no part of a defence: refused")
        _write_records(archive, records)
        return Packed(submission, verification, archive.digest, archive.manifest_bytes, path.stat().st_size)


def unpack_sources(path: Path, folder: Path) -> list[str]:
    """Write what was submitted into a new folder, to be looked at and verified there; returns the names of the files.

    Raises:
        BadSubmission: the archive is not in order, or the folder is there.
    """
    packed = check_archive(path)
    if folder.exists() or folder.is_symlink():
        raise BadSubmission(f"{str(folder)!r} is there already: choose a new folder, nothing is overwritten")
    written = []
    with opened_archive(path) as archive:
        for name in archive.names():
            if name.startswith(RUN) or name == VERIFICATION:
                continue
            target = place_of(name, packed.submission)
            make_folder((folder / target).parent, "--to")
            write_atomically(folder / target, archive.read(name))
            written.append(target)
    return written


def _verified(verified: Path, submission: Submission, contents: dict[str, bytes]) -> bytes:
    """The bytes of the verification, if it is one of these files and everything held."""
    path = verified / VERIFICATION
    if not path.is_file():
        raise BadSubmission(f"{str(verified)!r} holds no {VERIFICATION}: `robustiqa submit verify` first; what is not "
                            "verified is not packed")  # fmt: skip
    content = read_result(verified, VERIFICATION)
    found = parse_verification(load_json(content, repr(str(path))), repr(str(path)))
    _check_verified(found, submission, digests(contents), repr(str(verified)))
    return content


def _check_verified(found: Verification, submission: Submission, files: dict[str, str], where: str) -> None:
    again = "run `robustiqa submit verify` again"
    if (found.name, found.kind) != (submission.name, submission.kind):
        raise BadSubmission(f"{where}: the verification is of {found.name!r}, not of {submission.name!r}: {again}")
    if found.files != files:
        raise BadSubmission(f"{where}: {first_changed(found.files, files)!r} is not what was verified, it was "
                            f"changed, added or taken away since: {again}")  # fmt: skip
    if left := placeholders(submission):
        raise BadSubmission(f"{where}: the key {left[0]!r} of {FILE} is still that of the template (CHANGE THIS): "
                            f"write your own and {again}, which computes nothing again")  # fmt: skip
    if not found.ok:
        why = found.problems[0] if found.problems else "it does not say why"
        raise BadSubmission(f"{where}: the verification did not pass ({why}): mend it and {again}")


def _checked_sources(archive: Archive, submission: Submission, metadata: bytes) -> dict[str, str]:
    """SHA-256 of what was submitted, by the names it had in its folder; each file is of a kind that may be there."""
    found = {FILE: hashlib.sha256(metadata).hexdigest()}
    taken = {FILE.casefold()}
    for name in (*archive.names(SOURCE), *archive.names(IMAGES)):
        inner, content = place_of(name, submission), archive.read(name)
        if inner.casefold() in taken or not set(LEFT_OUT).isdisjoint(inner.split("/")):
            raise BadSubmission(
                f"{archive.where}: {name!r} would take the place of another file, or of results: refused"
            )
        try:
            check_source(inner, content)
        except BadSubmission as error:
            raise BadSubmission(f"{archive.where}: {error}") from error
        taken.add(inner.casefold())
        found[inner] = hashlib.sha256(content).hexdigest()
    if isinstance(submission, DefenseSubmission) and submission.plugin not in found:
        raise BadSubmission(f"{archive.where} has no {submission.plugin!r}, which its {FILE} names as its plug-in: "
                            "refused")  # fmt: skip
    return found


def place_of(name: str, submission: Submission) -> str:
    """Where a file below `source/` or `images/` of an archive belongs in the folder of the submission."""
    if name.startswith(IMAGES) and isinstance(submission, BreakSubmission):
        return f"{submission.images}/{name.removeprefix(IMAGES)}"
    return name.removeprefix(SOURCE)


def _write_records(archive: Archive, folder: Path | None) -> None:
    """Read every record against its digest, and write it below a folder where one is given."""
    room = MOST_RECORDS
    for name in archive.names(RUN):
        content = archive.read(name)
        if name.endswith(".json"):
            load_json(content, f"{archive.where}: {name!r}")
        else:
            size = unzipped_size(content, min(room, MOST_RECORD), name)
            room -= size
            if size > MOST_RECORD or room < 0:
                raise BadSubmission(
                    f"{archive.where}: the records unzip to more than {human(MOST_RECORDS)}, or {name!r} to more than "
                    f"{human(MOST_RECORD)}: refused as a decompression bomb"
                )
        if folder is not None:
            make_folder((folder / name.removeprefix(RUN)).parent, "--into")
            write_atomically(folder / name.removeprefix(RUN), content, sync=False)


def records_of(submission: Submission, verified: Path, files: dict[str, str]) -> dict[str, bytes]:
    """The records of a run of a submission, checked and without paths of this machine, by their names in an archive.

    Args:
        submission: what was submitted.
        verified: folder of the run.
        files: SHA-256 of what was submitted, by path.
    """
    history = sorted(f"{HISTORY}/{path.name}" for path in (verified / HISTORY).glob("[0-9]*.json"))
    records = {name: read_result(verified, name) for name in (RECORD, "plan.json", *history)}
    cells = [CELLS + name for name in sorted(Store(verified).snapshot().results.values())]
    found = {RUN + name: read_result(verified, name) for name in cells}
    _, plan = check_run(submission, verified, files, f"the records in {str(verified)!r}")
    check_names(plan)
    for name, content in records.items():
        data = scrubbed(load_json(content, repr(str(verified / name))))
        found[RUN + name] = (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
    return found


def read_result(verified: Path, name: str) -> bytes:
    """A file that `submit verify` has left: never through a link, since the program that it ran could have made one.

    Raises:
        BadSubmission: it is a link, not there, no part of a submission, or too large.
    """
    path = inside(verified, name)
    most = most_bytes(name if name == VERIFICATION else RUN + name)
    size = path.stat().st_size
    if most is None or not path.is_file() or size > most:
        raise BadSubmission(f"{str(path)!r} ({human(size)}) is none of the files that `robustiqa submit verify` "
                            "leaves, or too large: run it again into a new folder")  # fmt: skip
    return path.read_bytes()
