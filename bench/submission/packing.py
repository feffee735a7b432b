"""A verified folder as one archive, and an archive as plain data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadSubmission
from ..files import make_folder, write_atomically
from ..provenance import HISTORY, RECORD
from ..store import Store
from .archive import IMAGES, RUN, SOURCE, Archive, load_json, opened_archive, write_archive
from .belonging import check_run
from .contents import check_source
from .metadata import FILE, BreakSubmission, DefenseSubmission, Submission, file_of, parse_submission, read_submission
from .paths import members
from .scrubbed import check_names, scrubbed
from .verification import FILE as VERIFICATION
from .verification import Verification, parse_verification

VERIFIED = "verified"
"""Folder below the submission's into which `submit verify` writes."""
LEFT_OUT = (VERIFIED, "__pycache__")
"""Folders that are no part of a submission; those whose names begin with a dot are not, either."""
CELLS = "cells/"


@dataclass(frozen=True)
class Packed:
    """A packed submission that was checked as far as that can be done without the rules of the board.

    Attributes:
        submission: its metadata.
        verification: what its author found.
        digest: SHA-256 of its manifest, which names all of it.
        manifest: that manifest's bytes.
        metadata: the bytes of its `submission.yml`.
        bytes: of the archive.
        files: names of what was submitted, below its folder.
    """

    submission: Submission
    verification: Verification
    digest: str
    manifest: bytes
    metadata: bytes
    bytes: int
    files: tuple[str, ...]


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
    files: dict[str, bytes | Path] = {FILE: contents[FILE], VERIFICATION: _verified(verified, submission, contents)}
    for name, content in contents.items():
        if name != FILE:
            inside = isinstance(submission, BreakSubmission) and name.startswith(f"{submission.images}/")
            files[IMAGES + name.rsplit("/", 1)[-1] if inside else SOURCE + name] = content
    if isinstance(submission, DefenseSubmission):
        files |= _records(submission, verified, contents)
    make_folder(out.parent)
    write_archive(out, submission.name, submission.kind, files)
    return out, check_archive(out)


def sources(root: Path, submission: Submission, verified: Path | None = None) -> dict[str, bytes]:
    """The files of a submission's folder by their path below it, each of a kind that can be read without running it.

    Raises:
        BadSubmission: another kind, a link, a name that is not legal everywhere, or too much of it.
    """
    hidden = {path.name for path in root.iterdir() if path.name.startswith(".")}
    own = {verified.name} if verified is not None and verified.parent.resolve() == root.resolve() else set()
    found: dict[str, bytes] = {}
    for member in members(root, (*LEFT_OUT, *hidden, *own)):
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
        if isinstance(submission, DefenseSubmission):
            _check_layout(archive, (SOURCE, RUN))
            _write_records(archive, records)
        else:
            _check_layout(archive, (SOURCE, IMAGES))
            _check_images(archive, verification)
        named = [name.removeprefix(SOURCE) for name in archive.names() if not name.startswith(RUN)]
        return Packed(submission, verification, archive.digest, archive.manifest_bytes, metadata, path.stat().st_size,
                      tuple(name for name in named if name != VERIFICATION))  # fmt: skip


def unpack_sources(path: Path, folder: Path) -> list[str]:
    """Write what was submitted into a new folder, to be looked at and verified there; returns the names of the files.

    Raises:
        BadSubmission: the archive is not in order, or the folder is there.
    """
    packed = check_archive(path)
    if folder.exists() or folder.is_symlink():
        raise BadSubmission(f"{str(folder)!r} is there already: choose a new folder, nothing is overwritten")
    images = packed.submission.images if isinstance(packed.submission, BreakSubmission) else ""
    written = []
    with opened_archive(path) as archive:
        for name in archive.names():
            if name.startswith(RUN) or name == VERIFICATION:
                continue
            target = f"{images}/{name.removeprefix(IMAGES)}" if name.startswith(IMAGES) else name.removeprefix(SOURCE)
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
    content = path.read_bytes()
    found = parse_verification(load_json(content, repr(str(path))), repr(str(path)))
    _check_verified(found, submission, digests(contents), repr(str(verified)))
    return content


def _check_verified(found: Verification, submission: Submission, files: dict[str, str], where: str) -> None:
    again = "run `robustiqa submit verify` again"
    if (found.name, found.kind) != (submission.name, submission.kind):
        raise BadSubmission(f"{where}: the verification is of {found.name!r}, not of {submission.name!r}: {again}")
    if found.files != files:
        names = sorted(name for name in {*found.files, *files} if found.files.get(name) != files.get(name))
        raise BadSubmission(f"{where}: {names[0]!r} is not what was verified, it was changed, added or taken away "
                            f"since: {again}")  # fmt: skip
    if not found.ok:
        why = found.problems[0] if found.problems else "it does not say why"
        raise BadSubmission(f"{where}: the verification did not pass ({why}): mend it and {again}")


def _checked_sources(archive: Archive, submission: Submission, metadata: bytes) -> dict[str, str]:
    """SHA-256 of what was submitted, by the names it had in its folder; each file is of a kind that may be there."""
    found = {FILE: hashlib.sha256(metadata).hexdigest()}
    for name in archive.names(SOURCE):
        inner = name.removeprefix(SOURCE)
        content = archive.read(name)
        try:
            check_source(inner, content)
        except BadSubmission as error:
            raise BadSubmission(f"{archive.where}: {error}") from error
        found[inner] = hashlib.sha256(content).hexdigest()
    if isinstance(submission, BreakSubmission):
        for name in archive.names(IMAGES):
            content = archive.read(name)
            check_source(name, content)
            found[f"{submission.images}/{name.removeprefix(IMAGES)}"] = hashlib.sha256(content).hexdigest()
    elif submission.plugin not in found:
        raise BadSubmission(
            f"{archive.where} has no {submission.plugin!r}, which its {FILE} names as its plug-in: refused"
        )
    return found


def _check_layout(archive: Archive, folders: tuple[str, ...]) -> None:
    for name in archive.names():
        if "/" in name and not name.startswith(folders):
            raise BadSubmission(f"{archive.where} holds {name!r}, which is no part of a submission of the kind "
                                f"{archive.manifest.kind!r}: refused")  # fmt: skip


def _check_images(archive: Archive, verification: Verification) -> None:
    """An image for each that was measured, and no other."""
    there = {name.removeprefix(IMAGES) for name in archive.names(IMAGES)}
    measured = {file_of(one.image) for one in verification.images}
    if there != measured:
        wrong = sorted(there ^ measured)[0]
        how = "was not measured" if wrong in there else "is not there"
        raise BadSubmission(f"{archive.where}: image {wrong!r} {how}: refused; run `robustiqa submit verify` again")


def _write_records(archive: Archive, folder: Path | None) -> None:
    """Read every record against its digest, and write it below a folder where one is given."""
    for name in archive.names(RUN):
        content = archive.read(name)
        if name.endswith(".json"):
            load_json(content, f"{archive.where}: {name!r}")
        if folder is not None:
            make_folder((folder / name.removeprefix(RUN)).parent, "--into")
            write_atomically(folder / name.removeprefix(RUN), content, sync=False)


def _records(submission: DefenseSubmission, verified: Path, contents: dict[str, bytes]) -> dict[str, bytes | Path]:
    """The records of the run, by their names in the archive."""
    where = f"the records in {str(verified)!r}"
    _, plan = check_run(submission, verified, contents[submission.plugin], where)
    check_names(plan)
    files: dict[str, bytes | Path] = {}
    kept = sorted((verified / HISTORY).glob("[0-9]*.json"))
    for path in (verified / RECORD, verified / "plan.json", *kept):
        data = scrubbed(json.loads(path.read_text(encoding="utf-8")))
        inner = f"{HISTORY}/{path.name}" if path in kept else path.name
        files[RUN + inner] = (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
    store = Store(verified)
    for name in store.snapshot().results.values():
        files[f"{RUN}{CELLS}{name}"] = store.cells / name
    return files
