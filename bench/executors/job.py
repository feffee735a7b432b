"""What a worker must know beside the plan, in OUT/job.json; and whether it stands on the same ground as the planner."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..datasets import Dataset
from ..errors import BadData, BadParameter, BadPlugin, RunStopped
from ..files import write_json
from ..plan import Cell, Identities, job_ids
from ..registry import KINDS, code_digest, leaned_on, package_versions, registry
from ..session import SESSION
from ..trust import trust, trusted

NAME = "job.json"
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A name of a run: names of files begin with it."""


@dataclass(frozen=True)
class Job:
    """How the cells of a run are computed; the same for all of its workers.

    Attributes:
        run: name of this start of the run; the names of its logs begin with it.
        device: torch device inside a worker.
        threads: threads of a worker's torch, or None for what torch takes.
        retries: further tries of a cell after a failure that may pass.
        cell_timeout: seconds after which a try is given up, or None.
        batch: most images at once, or None for all of a cell that have one size.
        save_images: whether attacked images are kept.
        redo: whether cells that have a result are computed again.
        chunk: images of a cell, as planned.
        plugins: plug-in files and their digests.
        trusted: other files that are programs and may run.
        code, packages: what the planner runs on.
        folder: the planner's working directory, which relative paths start from.
        environment: the planner's settings of this program in the environment.
        precision: of float32 products.
        host: the planner's.
    """

    run: str
    device: str
    threads: int | None
    retries: int
    cell_timeout: float | None
    batch: int | None
    save_images: bool
    redo: bool
    chunk: int
    plugins: tuple[tuple[str, str], ...]
    trusted: tuple[str, ...]
    code: str
    packages: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]
    precision: str
    host: str

    @classmethod
    def here(cls, **given: Any) -> Job:
        """A job of this process: its plug-ins, its trust, its code."""
        plugins = dict(registry.files())
        return cls(
            plugins=tuple((str(path), digest) for path, digest in plugins.items()),
            trusted=tuple(str(path) for path in trusted() if path not in plugins),
            code=code_digest(),
            packages=tuple(package_versions()),
            folder=str(Path.cwd()),
            environment={name: value for name, value in os.environ.items() if name.startswith("ROBUSTIQA_")},
            precision=torch.get_float32_matmul_precision(),
            host=socket.gethostname(),
            **given,
        )

    def write(self, out: Path) -> None:
        """Write OUT/job.json."""
        write_json(out / NAME, asdict(self))

    @classmethod
    def read(cls, out: Path) -> Job:
        """The job of a folder; raises `BadData` where there is none, or one of another version."""
        try:
            data = json.loads((out / NAME).read_text(encoding="utf-8"))
            data["plugins"] = tuple((path, digest) for path, digest in data["plugins"])
            data["trusted"], data["packages"] = tuple(data["trusted"]), tuple(data["packages"])
            if not _RUN.fullmatch(data["run"]):
                raise ValueError(f"run {data['run']!r}")
            return cls(**{f.name: data[f.name] for f in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadData(f"{str(out / NAME)!r} cannot be read ({error}): start the run again with `robustiqa run`"
                          ) from error  # fmt: skip

    def enter(self) -> None:
        """Make this process a worker's: folder, settings, plug-ins; raises `RunStopped` where it differs."""
        here = socket.gethostname()
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        for path in self.trusted:
            trust(path)
        for path, _ in self.plugins:
            if not Path(path).is_file():
                raise RunStopped(f"worker on {here!r} has no plug-in file {path!r}: put it on the shared file system")
            if Path(path) not in dict(registry.files()):
                registry.load_file(path)
        found = {str(path): digest for path, digest in registry.files()}
        for what, mine, planned in (
            ("code of robustiqa", code_digest(), self.code),
            ("packages", ", ".join(package_versions()), ", ".join(self.packages)),
            *((f"plug-in file {path!r}", found[path], digest) for path, digest in self.plugins),
        ):
            if mine != planned:
                raise RunStopped(
                    f"worker on {here!r} has another {what} than the planner ({mine}, not {planned}), and would mix "
                    "results: install the same version there, or start the run again if it has changed since"
                )


def check_job(*, cell_timeout: float | None = None, retries: int = 2, batch: int | None = None,
              save_images: bool = False) -> dict[str, Any]:  # fmt: skip
    """The arguments as they are; raises `BadParameter` for a number that is out of range."""
    for what, value, least in (("--batch", batch, 1), ("--retries", retries, 0)):
        if value is not None and value < least:
            raise BadParameter(f"{what} {value}: expected at least {least}")
    if cell_timeout is not None and not 0 < cell_timeout < float("inf"):
        raise BadParameter(f"--cell-timeout {cell_timeout:g}: expected seconds > 0")
    return {"cell_timeout": cell_timeout, "retries": retries, "batch": batch, "save_images": save_images}


def check_reachable(cells: Sequence[Cell]) -> None:
    """Raise `BadPlugin` where a cell names a plug-in that only this process knows, and no worker of another would."""
    known = {f"file {path}" for path, _ in registry.files()}
    named = dict.fromkeys((kind, text) for cell in cells for kind in KINDS if (text := getattr(cell, kind, None)))
    for plugin in (plugin for kind, text in named for plugin in leaned_on(kind, text)):
        if plugin.origin not in known and plugin.origin.startswith(("file ", SESSION)):
            raise BadPlugin(
                f"{plugin.kind} {plugin.name!r} was registered by {plugin.origin}, which other processes do not load: "
                "run it with the executor 'inline', or put it into a file of its own and call `load_plugin(FILE)`"
            )


class SameCells:
    """Refuses cells that this process would give another id: another data set, other weights, another plug-in.

    To digest a data set is to read all of it, which the planner has just done on its own host, and the first worker of
    another host does for the others there.

    Args:
        out: folder of the run.
        job: its job.
        contents: digests of the data sets as planned, by name; one that is not there is read each time.
    """

    def __init__(self, out: Path, job: Job, contents: Mapping[str, str]) -> None:
        self._chunk, self._contents, self._identities = job.chunk, contents, Identities()
        here = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
        self._planned_here, self._seen = socket.gethostname() == job.host, out / "log" / f"{job.run}-{here}.seen"
        self._ids: dict[Any, frozenset[str]] = {}

    def check(self, cell: Cell, dataset: Dataset) -> None:
        """Raise `RunStopped` unless the cell's id is the one that it would get here."""
        job = {k: v for k, v in vars(cell).items() if k not in ("start", "stop", "id")}
        key = tuple(job.values())
        if key not in self._ids:
            if cell.dataset in self._contents and (self._planned_here or self._was_read(cell.dataset)):
                dataset.content_hash = self._contents[cell.dataset]
            self._ids[key] = frozenset(job_ids(job, self._chunk, dataset, self._identities))
        if cell.id not in self._ids[key]:
            raise RunStopped(
                f"worker on {socket.gethostname()!r} has other data, weights or plug-ins behind {cell.label!r} than "
                "the planner: make them the same (`robustiqa data verify`), or start the run again if they have changed"
            )
        if not self._planned_here and not self._was_read(cell.dataset):
            with contextlib.suppress(OSError), self._seen.open("a", encoding="utf-8") as file:
                file.write(f"{cell.dataset}\n")

    def _was_read(self, dataset: str) -> bool:
        """Whether a worker of this host has found the data set to be the planner's."""
        with contextlib.suppress(OSError):
            return dataset in self._seen.read_text(encoding="utf-8").splitlines()
        return False
