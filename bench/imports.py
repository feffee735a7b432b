"""What a user's Python file imports: the files of theirs that it leans on, and advice where one is not found."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

_OURS = __name__.split(".")[0]
_FOLDERS = 4
"""Folders that are looked through: that of the file and those above it, up to the root of a usual repository."""


def imported_files(path: Path) -> list[Path]:
    """Files of the user's that a Python file imports, directly or through others, at its top or in a function.

    Told from the text, before anything runs. What is installed is not the user's, and neither is this package.
    """
    path = path.resolve()
    on_path = [Path(entry or ".").resolve() for entry in sys.path]
    folders = [folder for folder in on_path if folder.is_dir() and not _installed(folder)]
    found: set[Path] = set()
    todo = [path]
    while todo:
        file = todo.pop()
        imported = {
            module
            for level, name in _imports(file.read_bytes())
            for module in _modules([file.parents[min(level, len(file.parents)) - 1]] if level else folders, name)
        }
        todo += imported - found - {path}
        found |= imported - {path}
    return sorted(found)


def file_digest(path: Path) -> str:
    """Start of the digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def program_digest(path: Path) -> str:
    """`file_digest`, and of a Python file that of the user's files that it imports, in no order of paths."""
    others = imported_files(path) if path.suffix == ".py" else []
    return file_digest(path) + "".join(sorted(map(file_digest, others)))


def users_file(module: str, file: Path | None) -> Path | None:
    """The file of a module if it is the user's, so neither installed nor of this package."""
    return None if file is None or module.split(".")[0] == _OURS or _installed(file.parent) else file


def _installed(folder: Path) -> bool:
    """Whether packages are installed into a folder, or it is part of Python itself."""
    library = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return bool({"site-packages", "dist-packages"}.intersection(folder.parts)) or not library.isdisjoint(
        (folder, *folder.parents)
    )


@functools.lru_cache(maxsize=1024)
def _imports(source: bytes) -> tuple[tuple[int, str], ...]:
    """What a Python file imports: the number of dots before a relative name, and the name, perhaps of no module."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # whoever runs it says what is wrong
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # of a name in the module, or of a module of its own
            found += [(node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
    return tuple(found)


def _modules(folders: Sequence[Path], name: str) -> Iterator[Path]:
    """The files of a dotted name and of the packages that it is in."""
    parts = name.split(".")
    if parts[0] == _OURS:
        return
    for folder in folders:
        places = [folder.joinpath(*parts[: k + 1]) for k in range(len(parts))]
        files = [f for place in places for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()]
        if files or places[0].is_dir():
            yield from files
            return


def import_advice(path: Path, error: BaseException) -> str:
    """Advice, with a colon before it, where an error of a user's file is a failed import; otherwise empty.

    Args:
        path: the file.
        error: what running it raised.
    """
    path = path.resolve()
    if isinstance(error, ImportError) and "relative import" in str(error):
        root, parts = path.parent.parent, (path.parent.name, path.stem)
        while (root / "__init__.py").is_file() and root != root.parent:
            root, parts = root.parent, (root.name, *parts)
        return (
            ": a file that belongs to a package is not run by itself; give one of your own that says `from "
            f"{'.'.join(parts)} import NAME`, and put {_variable(root)} before the command"
        )
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.split(".")[0]
    for folder in path.parents[:_FOLDERS]:
        if folder != folder.parent and ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            return f": it lies in {_short(folder)!r}, so put {_variable(folder)} before the command"
    return ": install it, or put PYTHONPATH=FOLDER before the command if it is a file of yours in that folder"


def _variable(folder: Path) -> str:
    return f"PYTHONPATH={shlex.quote(_short(folder))}"


def _short(folder: Path) -> str:
    """The folder as seen from the present one where that is shorter."""
    try:
        return min(os.path.relpath(folder), str(folder), key=len)
    except ValueError:  # another drive of Windows
        return str(folder)
