"""An accepted submission as it lies in the folder of the registry: data only, held against its manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...bench.errors import BadSubmission
from ...bench.store import Store
from ...bench.submission.archive import IMAGES, MANIFEST, RUN, SOURCE, Manifest, load_json, parse_manifest
from ...bench.submission.metadata import FILE, Submission, parse_submission
from ...bench.submission.packing import place_of
from ...bench.submission.paths import members
from ...bench.submission.verification import FILE as VERIFICATION
from ...bench.submission.verification import parse_verification
from ..results import Results, read_results
from .figures import Figure, figures

VERIFIED = "verified"
"""Folder with the records of the maintainers' run, beside `run` of the author's."""
TABLES = "leaderboard"


@dataclass(frozen=True)
class Entry:
    """One accepted submission.

    Attributes:
        folder: where it lies.
        submission: its metadata.
        digest: SHA-256 of its manifest.
        files: SHA-256 of every file of the archive, by its name there.
    """

    folder: Path
    submission: Submission
    digest: str
    files: dict[str, str]

    @property
    def run(self) -> Path:
        """Records of the author's run."""
        return self.folder / "run"

    @property
    def verified(self) -> Path | None:
        """Records of the maintainers' run; None before there is one."""
        path = self.folder / VERIFIED
        return path if path.is_dir() else None

    @property
    def submitted(self) -> dict[str, str]:
        """SHA-256 of what was submitted, by path below its folder."""
        places = {place_of(name, self.submission): digest for name, digest in self.files.items()
                  if name.startswith((SOURCE, IMAGES))}  # fmt: skip
        return places | {FILE: self.files[FILE]}

    @property
    def problems(self) -> str:
        """What did not hold in the maintainers' run, in sentences."""
        if self.verified is None:
            return ""
        where = f"accepted submission {self.submission.name!r}"
        found = load_json((self.verified / VERIFICATION).read_bytes(), where)
        return "; ".join(parse_verification(found, where).problems)

    @property
    def authors(self) -> str:
        """Their names."""
        return ", ".join(author.name for author in self.submission.authors)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Record of the author's run."""
        return Store(self.run).read_json("run.json")

    @cached_property
    def results(self) -> Results:
        """What the author's run has measured."""
        return read_results(self.run)

    @cached_property
    def verified_results(self) -> Results | None:
        """What the maintainers' run has measured."""
        return None if self.verified is None else read_results(self.verified)

    @cached_property
    def figures(self) -> list[Figure]:
        """What the author's run gives."""
        return figures(self.submission, self.run, self.submitted)

    @cached_property
    def verified_figures(self) -> list[Figure] | None:
        """What the maintainers' run gives."""
        return None if self.verified is None else figures(self.submission, self.verified, self.submitted)


def read_entries(into: Path) -> list[Entry]:
    """All accepted submissions below a folder, by name.

    Raises:
        BadSubmission: a file is not the one that was accepted, is missing, or does not belong there.
    """
    found = []
    for folder in sorted(path for path in into.iterdir() if not path.name.startswith(".")) if into.is_dir() else ():
        if folder.is_symlink():
            raise BadSubmission(f"{str(folder)!r} is a link: the folder of submissions holds plain folders; remove it")
        if folder.is_dir():
            found.append(read_entry(folder))
    return found


def read_entry(folder: Path) -> Entry:
    """The accepted submission in a folder; raises as `read_entries`."""
    where = f"accepted submission {folder.name!r}"
    content, manifest = _checked(folder, where, kept=(FILE, VERIFICATION, RUN))
    if (folder / VERIFIED).exists():
        _checked(folder / VERIFIED, f"{where}, {VERIFIED}", kept=("",))
    submission = parse_submission((folder / FILE).read_bytes(), f"{where}: {FILE}")
    if submission.name != folder.name:
        raise BadSubmission(f"{where} is called {submission.name!r}: the folder has to have that name")
    digests = {name: entry.sha256 for name, entry in manifest.files.items()}
    return Entry(folder, submission, hashlib.sha256(content).hexdigest(), digests)


def _checked(folder: Path, where: str, kept: tuple[str, ...]) -> tuple[bytes, Manifest]:
    """The manifest of a folder, if its other files are those in it whose names begin as in `kept`, unchanged."""
    there = {member.name: folder / member.name for member in members(folder, {TABLES, VERIFIED})}
    if MANIFEST not in there:
        raise BadSubmission(f"{where} has no {MANIFEST}: remove its folder, and accept its archive again")
    content = there.pop(MANIFEST).read_bytes()
    manifest = parse_manifest(content, where)
    if wrong := sorted({name for name in manifest.files if name.startswith(kept)} ^ set(there)):
        raise BadSubmission(f"{where}: {wrong[0]!r} is missing, or was not in its archive: accept the archive again")
    for name, path in there.items():
        if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.files[name].sha256:
            raise BadSubmission(f"{where}: {name!r} was changed since it was accepted: take the change back, or accept "
                                "the archive again")  # fmt: skip
    return content, manifest
