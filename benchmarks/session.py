"""A run of the benchmarks: which there are, and the JSON file that they write."""

from __future__ import annotations

import importlib.metadata
import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustiqa.bench.errors import BadData
from robustiqa.bench.files import write_json
from robustiqa.bench.hardware import hardware, numerics
from robustiqa.bench.provenance import git_state

from . import around, attacking, certification, scaling
from .interleave import told
from .tables import SCHEMA, Benchmark, Settings, Table
from .text import plain

BENCHMARKS: Mapping[str, Benchmark] = {
    "certify": certification.certify,
    "compiled": certification.compiled,
    "attack": attacking.attack,
    "directions": attacking.directions,
    "peers": attacking.peers,
    "naive": certification.naive,
    "scaling": scaling.scaling,
    "memory": scaling.memory,
    "runner": around.runner,
    "loading": around.loading,
    "report": around.reports,
}
"""Name -> what makes its tables."""

_PACKAGES = ("torch", "numpy", "scipy", "pillow", "pandas", "torchattacks", "foolbox")


@dataclass
class Session:
    """The content of a JSON file.

    Attributes:
        about: settings, machine, versions, revision.
        tables: what was measured.
        errors: benchmarks that failed as a whole, and why.
        seconds: what each benchmark took.
    """

    about: dict[str, Any]
    tables: list[Table]
    errors: dict[str, str]
    seconds: dict[str, float]

    @property
    def failed(self) -> bool:
        """Whether a benchmark failed, or a row of a table."""
        return bool(self.errors) or any(table.errors for table in self.tables)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        tables = [table.to_json() for table in self.tables]
        write_json(path, {"schema": SCHEMA, "about": self.about, "tables": tables, "errors": self.errors,
                          "seconds": self.seconds})  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Session:
        """The inverse of `write`; raises `BadData` for another file."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise BadData(f"{str(path)!r} has schema {data['schema']}, expected {SCHEMA}: measure again")
            tables = [Table.from_json(table) for table in data["tables"]]
            return cls(data["about"], tables, data["errors"], data["seconds"])
        except OSError as error:
            raise BadData(f"cannot read {str(path)!r}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(f"{str(path)!r} is no file of `python -m benchmarks --out`: {told(error)}") from error


def run(names: Sequence[str], settings: Settings, out: Path | None = None) -> Session:
    """Run benchmarks, show each table as it is there, and write the file after each benchmark.

    One that raises is an error of its own name; the others go on.
    """
    session = Session(about(settings), [], {}, {})
    for name in names:
        began = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            for table in BENCHMARKS[name](settings):
                session.tables.append(table)
                print(plain(table), flush=True)
        except Exception as error:
            session.errors[name] = told(error)
            traceback.print_exc()
        session.seconds[name] = time.perf_counter() - began
        if out is not None:
            session.write(out)
    return session


def about(settings: Settings) -> dict[str, Any]:
    """What the figures depend on, for the file and the page; without the names of machine and folders."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "settings": asdict(settings),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(settings.device),
        "numerics": numerics(),
        "packages": versions,
        "git": git_state(),
    }
