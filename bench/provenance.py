"""The run record: what was asked, with which code, packages, plug-ins and data, on what.

What it leaves out on purpose: the name of the machine and of the user, and every environment variable that is not on a
short list. Paths below the home folder start with `~`. What stands inside a plug-in string is kept as it was typed,
because it is part of a result's identity.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from .files import make_folder, write_atomically, write_json
from .hardware import hardware, numerics
from .plan import Plan
from .registry import KINDS, PACKAGE, checks_digest, code_digest, identity_of, registry, resolve_target, version_of
from .store import SCHEMA_VERSION
from .suite import Suite
from .trust import TYPED, trusted

RECORD = "run.json"
BOARD = "board"
"""Key in RECORD: what the board beside it leaves out. A run into the folder writes the whole board again."""
HISTORY = "runs"
"""Folder beside `run.json` with the record of every run into it, `0001.json` being the first."""

RULES = f"{PACKAGE}.leaderboard.rules:RULES_VERSION"
"""Version of the rules of the board; named here, not imported: bench does not depend on the leaderboard."""

PACKAGES = ("attacks", "bench", "defenses", "leaderboard")
"""Folders of the code; an untracked file elsewhere may be anything, of any size."""

_ENVIRONMENT = re.compile(
    r"(OMP|MKL|KMP|OPENBLAS|NUMEXPR|VECLIB|ONEDNN|DNNL|ATEN|CUBLAS|CUDNN|NVIDIA_TF32)_[A-Z0-9_]+|CUDA_VISIBLE_DEVICES"
    r"|CUDA_LAUNCH_BLOCKING|PYTORCH_(CUDA_)?ALLOC_CONF|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|PYTHONHASHSEED"
)
"""Variables that can change a number; no others, since those may hold secrets, or say who ran it and where."""

_FILES = re.compile("TOOL|LIB|LOG|DBG|FILE|DIR|PATH")
"""In names of variables that make a numerical library load or write a file, as `OMP_TOOL_LIBRARIES` does."""


def run_record(suite: Suite, plan: Plan, device: str, out: Path) -> dict[str, Any]:
    """The record of a run that is about to begin; plain data.

    Args:
        suite: as resolved, after all overrides.
        plan: what was made of it.
        device: torch device.
        out: folder of the results; files are named as seen from it.
    """
    return {
        "schema": SCHEMA_VERSION,
        "suite": suite.model_dump(mode="json", by_alias=True),
        "started": _now(),
        "arguments": _arguments(),
        "options": _options(),
        "folder": shown_path(Path.cwd(), out),
        "left_out": [{"what": what, "why": why} for what, why in plan.skipped],
        "foreseen": [{"what": what, "why": why} for what, why in plan.foreseen],
        "cells": len(plan.cells),
        "rules": resolve_target(RULES),
        "seeds": {"base": suite.seed, "streams": "sha256(base, image content, role, ...)"},
        "code": {"digest": code_digest(), "checks": checks_digest(), "git": git_state()},
        "plugins": _plugins(plan, out),
        "plugin_files": [{"file": shown_path(path, out), "digest": digest} for path, digest in registry.files()],
        "trusted_files": [shown_path(path, out) for path in trusted() if path not in dict(registry.files())],
        "datasets": [_dataset(name, content, plan) for name, content in plan.datasets],
        "packages": _packages(),
        "device": device,
        "hardware": hardware(device),
        "numerics": numerics(),
        "environment": {
            name: _without_home(value) for name, value in sorted(os.environ.items()) if decides_numbers(name)
        },
    }


def write_record(root: Path, record: Mapping[str, Any]) -> Path:
    """Write the record as `run.json`, and keep it in `runs/` beside those of earlier runs; returns its path there."""
    history = root / HISTORY
    make_folder(history)
    taken = [int(path.stem) for path in history.glob("*.json") if path.stem.isdigit()]
    if not taken and (root / RECORD).is_file():  # of a program that kept the last one only
        write_atomically(history / "0001.json", (root / RECORD).read_bytes())
        taken = [1]
    path = history / f"{max(taken, default=0) + 1:04d}.json"
    write_json(path, dict(record))
    write_json(root / RECORD, dict(record))
    return path


def amend_record(root: Path, path: Path, computed: int, failed: int) -> None:
    """Add what is known at the end of a run to its record, in both places; `path` is what `write_record` returned."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record |= {"finished": _now(), "computed": computed, "failed": failed}
    write_json(path, record)
    write_json(root / RECORD, record)


def decides_numbers(variable: str) -> bool:
    """Whether an environment variable is among those that can change a number."""
    return bool(_ENVIRONMENT.fullmatch(variable))


def may_be_set(variable: str, value: object) -> bool:
    """Whether a variable of a record, which may be a stranger's, may be set: no name of a file to load or to write."""
    harmless = decides_numbers(variable) and not _FILES.search(variable)
    return harmless and isinstance(value, str) and not re.search(r"[/\\\0]", value)


def shown_path(path: Path, out: Path) -> str:
    """A path without the user's name: as seen from OUT, or from the home folder (`~`) where nothing holds both."""
    path, out = path.resolve(), out.resolve()
    seen = os.path.relpath(path, out) if path.anchor == out.anchor else str(path)
    ups = len(Path(seen).parts) - len([part for part in Path(seen).parts if part != ".."])
    return Path(seen).as_posix() if ups < len(out.parts) - 1 else _without_home(path.as_posix())


def found_path(shown: str, out: Path) -> Path:
    """The path that `shown_path` has written."""
    path = Path(shown).expanduser()
    return path if path.is_absolute() else Path(os.path.normpath(out.resolve() / path))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _arguments() -> list[str] | None:
    """What was typed after `robustiqa`; None for a run from Python."""
    context = click.get_current_context(silent=True)
    typed = context and context.find_root().meta.get(TYPED)
    return None if typed is None else [_without_home(str(word)) for word in typed]


def _options() -> dict[str, Any]:
    """Every option of the command with its value, the defaults filled in; none for a run from Python."""
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.params
    return {name: json.loads(_without_home(json.dumps(value, default=str))) for name, value in sorted(given.items())}


def _without_home(text: str) -> str:
    home = str(Path.home())
    return re.sub(re.escape(home) + r"(?=$|[/\\\"\],;])", "~", text) if len(home) > 1 else text


def _plugins(plan: Plan, out: Path) -> list[dict[str, Any]]:
    """Every plug-in that a cell names: where it comes from, its version, and digests of its source and of all of it."""
    named = dict.fromkeys(
        (kind, text) for cell in plan.cells for kind in KINDS if (text := getattr(cell, kind, None)) is not None
    )
    found = []
    for kind, text in sorted(named):
        plugin, spec, _ = registry.resolve(kind, text)
        origin, _, rest = plugin.origin.partition(" ")
        distribution = _distribution(plugin.origin)
        found.append(
            {
                "kind": kind,
                "plugin": text,
                "identity": plugin.identity(spec),
                "origin": f"file {shown_path(Path(rest), out)}" if origin == "file" and rest else plugin.origin,
                "distribution": distribution,
                "distribution_version": distribution and version_of(distribution),
                "packages": {name: version_of(name) for name in plugin.packages},
                "source": plugin.source_hash,
                "digest": hashlib.sha256(identity_of(kind, text).encode()).hexdigest()[:16],
            }
        )
    return found


def _distribution(origin: str) -> str | None:
    """The package that a plug-in came with; None for a file."""
    if origin == "built-in":
        return PACKAGE
    return origin.removeprefix("entry point ") if origin.startswith("entry point ") else None


def _dataset(name: str, content: str, plan: Plan) -> dict[str, Any]:
    """A data set with its content hash and all parameters: split, crop, size."""
    _, _, parameters = registry.resolve("dataset", name)
    images = max((cell.stop for cell in plan.cells if cell.dataset == name), default=0)
    return {"dataset": name, "content": content, "images": images, "parameters": parameters}


def _packages() -> dict[str, str]:
    """Versions of this package and of what it declares to need or to be able to use, where installed."""
    try:
        declared = [
            text for text in importlib.metadata.requires(PACKAGE) or [] if "'dev'" not in text.replace('"', "'")
        ]
    except importlib.metadata.PackageNotFoundError:
        declared = []
    names = {PACKAGE, "torchattacks", *(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in declared)}
    versions = {name: version_of(name) for name in sorted(names)}
    return {"python": platform.python_version()} | {name: v for name, v in versions.items() if v is not None}


def git_state(root: Path = Path(__file__).parents[1]) -> dict[str, Any] | None:
    """Revision of this source tree, whether it has changes, and a digest of them; None for an installed package."""
    if not (root / ".git").exists():  # a package installed below somebody else's repository has no revision of its own
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        revision = _asked(root, "rev-parse", "HEAD").decode().strip()
        changes = hashlib.sha256(_asked(root, "diff", "HEAD", "--binary"))
        new = _asked(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *PACKAGES)
        for name in sorted(filter(None, new.split(b"\0"))):
            changes.update(name + hashlib.sha256((root / os.fsdecode(name)).read_bytes()).digest())
        dirty = bool(_asked(root, "status", "--porcelain").strip())
        return {"revision": revision, "dirty": dirty, "changes": changes.hexdigest()[:16] if dirty else None}
    return None


def _asked(root: Path, *words: str) -> bytes:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, timeout=20, check=True).stdout


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What decides numbers and is not the same in two run records, a sentence each; nothing for the same conditions."""
    then, present = before.get("code", {}), now.get("code", {})
    if then.get("digest") != present.get("digest"):
        git = [str((code.get("git") or {}).get("revision", ""))[:12] for code in (then, present)]
        commits = f" (revision {git[0]}, now {git[1]})" if all(git) and git[0] != git[1] else ""
        yield f"the code of {PACKAGE} that decides scores has changed{commits}"
    if then.get("checks") != present.get("checks"):
        yield "the code of the reliability checks has changed"
    yield from _named("package", before.get("packages", {}), now.get("packages", {}))
    for key, what in (("source", "the source of"), ("digest", "what decides")):
        old, new = ({(p["kind"], p["plugin"]): p[key] for p in r.get("plugins", ())} for r in (before, now))
        changed = [
            f"{kind} {text!r}" for kind, text in new if old.get((kind, text), new[kind, text]) != new[kind, text]
        ]
        if changed:
            yield f"{what} {', '.join(changed)} has changed"
            break
    old, new = ({d["dataset"]: d["content"] for d in r.get("datasets", ())} for r in (before, now))
    for name in new:
        if old.get(name, new[name]) != new[name]:
            yield f"the images or scores of data set {name!r} have changed"
    for part in ("hardware", "numerics"):
        unimportant = ("memory_gb", "cores", "usable_cores", "threads", "interop_threads")
        yield from _named(part, before.get(part, {}), now.get(part, {}), skip=unimportant)
    yield from _named("number of", {"threads": threads_of(before)}, {"threads": threads_of(now)})
    # The number of threads is among the numerics, whatever it came from.
    yield from _named("environment variable", before.get("environment", {}), now.get("environment", {}),
                      skip=("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"))  # fmt: skip
    if before.get("device") != now.get("device"):
        yield f"device: {before.get('device')}, now {now.get('device')}"


def threads_of(record: Mapping[str, Any]) -> int | None:
    """Threads of what computed the cells: a worker's, or those of the process that planned them where it did it."""
    return record.get("execution", {}).get("threads") or record.get("numerics", {}).get("threads")


def _named(what: str, old: Mapping[str, Any], new: Mapping[str, Any], skip: tuple[str, ...] = ()) -> Iterator[str]:
    for name in sorted({*old, *new} - {*skip}):
        if old.get(name) != new.get(name):
            yield f"{what} {name}: {_or_none(old.get(name))}, now {_or_none(new.get(name))}"


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)
