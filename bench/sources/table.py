"""The table of sources: what can be fetched or has to be got by hand, with licence, citation and pins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from ..errors import BadData, UnknownName
from ..yaml_model import Strict, read_model
from .names import safe_parts

BUILT_IN = resources.files(__name__.rpartition(".")[0]).joinpath("sources.yml")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _below(path: str) -> str:
    try:
        return "/".join(safe_parts(path, "it"))
    except BadData as error:
        raise ValueError(str(error)) from error


def _web(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an address that starts with https:// or http://")
    if parts.username is not None:
        raise ValueError("a login in an address would be printed and kept in receipts: put it into ~/.netrc")
    return url


Below = Annotated[str, AfterValidator(_below)]
Url = Annotated[str, AfterValidator(_web)]
Text = Annotated[str, Field(min_length=1)]


def secure(url: str) -> bool:
    """Whether nobody on the way can change what the address gives: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


class File(Strict):
    """One file of a source.

    Attributes:
        save: its name on this machine.
        urls: mirrors, tried in turn.
        sha256: digest of the file, 64 hex digits, or its first 8 or more where only these are known (as in the names of
            torch's weights: they find damage, not an attacker); None where nobody has verified one ("not pinned").
        bytes: its size; None if not known.
        archive: how it is packed: zip, or tar (also .tar.gz, .tar.bz2, .tar.xz); None for a plain file.
        strip: leading folder of the archive's members that is left out; all must lie below it.
        into: folder below the source's own where its content goes.
    """

    save: Annotated[Below, Field(min_length=1)]
    urls: Annotated[tuple[Url, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    bytes: int | None = Field(default=None, gt=0)
    archive: Literal["zip", "tar"] | None = None
    strip: Below = ""
    into: Below = ""

    @model_validator(mode="after")
    def _consistent(self) -> File:
        if "/" in self.save:
            raise ValueError(f"save {self.save!r} has a folder: give the file's name, and the folder as `into`")
        if self.strip and not self.archive:
            raise ValueError("strip is for archives")
        if not self.whole and not all(map(secure, self.urls)):
            raise ValueError("without a whole sha256 every address must be https: anybody on the way could change it")
        return self

    @property
    def whole(self) -> bool:
        """Whether the whole digest is known."""
        return self.sha256 is not None and len(self.sha256) == 64

    def fits(self, digest: str) -> bool:
        """Whether a digest of 64 digits is the one that is known of it."""
        return digest.startswith(self.sha256 or "")


class Source(Strict):
    """A data set or file of weights, with all that is to be said before it is fetched.

    Attributes:
        name: for a data set its registered name.
        kind: "dataset" or "weights".
        title, licence, citation: in words.
        page: where it is described, and got by hand.
        by_hand: what is to be done by hand, and where what has to be put; "" where nothing is.
        verified: when and how addresses, sizes and digests were verified.
        needed_by: plug-in names that need it, such as "pyiqa:musiq"; a data set's own need not be listed.
        below: "data": below $ROBUSTIQA_DATA. "torch": below torch's cache ($TORCH_HOME), where packages look.
            "hub": below the cache of the Hugging Face hub, which only its own program fills.
        folder: the folder there; by default NAME for a data set, weights/NAME for weights.
        files: what is fetched; none if it can only be got by hand.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
    kind: Literal["dataset", "weights"]
    title: Text
    licence: Text
    citation: Text
    page: Url
    by_hand: str = ""
    verified: Text
    needed_by: tuple[str, ...] = ()
    below: Literal["data", "torch", "hub"] = "data"
    folder: Below = ""
    files: tuple[File, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        if not (self.files or self.by_hand):
            raise ValueError("it has neither files nor by_hand: say how it is got")
        if self.kind == "weights" and not all(file.sha256 for file in self.files):
            raise ValueError("weights can run code when they are read, so every file needs a sha256")
        if self.below == "hub" and self.files:
            raise ValueError("the Hugging Face hub's own program has to fill its cache: give by_hand, and no files")
        if self.below == "torch" and any(file.archive or file.into for file in self.files):
            raise ValueError("torch's cache is shared with others: only plain files go there, no archives or `into`")
        if len({file.save.casefold() for file in self.files}) < len(self.files):
            raise ValueError("two of its files have the same `save`")
        return self

    @property
    def bytes(self) -> int | None:
        """What is downloaded, in bytes; None if not known."""
        sizes = [file.bytes for file in self.files]
        return sum(size for size in sizes if size) if self.files and all(sizes) else None

    @property
    def how(self) -> str:
        """How it is got: "pinned", "pinned by first digits", "not pinned" or "by hand"."""
        if not self.files:
            return "by hand"
        if all(file.whole for file in self.files):
            return "pinned"
        return "pinned by first digits" if all(file.sha256 for file in self.files) else "not pinned"


class Table(Strict):
    """Sources by name, in a file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    sources: tuple[Source, ...]


def load_table(own: Iterable[str | Path] = ()) -> dict[str, Source]:
    """Sources by name: those that come with the package, replaced and extended by the files in `own`, in turn.

    Raises:
        UnknownName, BadData: a file is missing, has an unknown key or an impossible value, or names a source twice.
    """
    found = _read(BUILT_IN.read_bytes(), "built-in table of sources")
    for path in map(Path, own):
        what = f"table of sources {str(path)!r}"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadData(f"{what} cannot be read ({error.strerror}): check the path") from error
        found |= _read(content, what)
    return found


def _read(content: bytes, what: str) -> dict[str, Source]:
    parts = {"sources": Source, "files": File}
    table = read_model(content, Table, what, BadData, parts, "schema and sources")
    found = {source.name: source for source in table.sources}
    if len(found) < len(table.sources):
        names = [source.name for source in table.sources]
        raise BadData(f"{what} has two sources {next(n for n in names if names.count(n) > 1)!r}: keep one")
    return found


def choose(table: Mapping[str, Source], names: Iterable[str]) -> list[Source]:
    """The sources of these names, each once; raises `UnknownName` with the nearest one."""
    for name in names:
        if name not in table:
            raise UnknownName("source", name, table, "for one of your own add --sources FILE.yml")
    return [table[name] for name in dict.fromkeys(names)]
