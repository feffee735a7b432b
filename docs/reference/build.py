"""Write the API reference into a folder: `python docs/reference/build.py build/docs`, or `make docs`.

It is made of the docstrings by pdoc. Anything that pdoc warns of is an error, and so is a public name (`__all__` of the
four packages) that has no docstring or no place in the pages.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import typing
import warnings
from pathlib import Path

PACKAGES = ("robustiqa.bench", "robustiqa.attacks", "robustiqa.defenses", "robustiqa.leaderboard")
MODULES = (
    "robustiqa.bench.errors", "robustiqa.bench.objective", "robustiqa.bench.seeds", "robustiqa.bench.images",
    "robustiqa.bench.measures", "robustiqa.bench.suite", "robustiqa.bench.trust", "robustiqa.bench.store",
    "robustiqa.attacks.base", "robustiqa.defenses.base", "robustiqa.defenses.certified.smoothed",
    "robustiqa.leaderboard.compare", "robustiqa.leaderboard.exports.export", "robustiqa.leaderboard.report",
)  # fmt: skip
"""What plug-ins and scripts use besides the names of the packages."""


def undocumented() -> list[str]:
    """Public names, and public methods of public classes, that have no docstring."""
    found = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.getdoc(value):
                found.append(f"{package}.{name}")
            if inspect.isclass(value) and value.__module__.startswith("robustiqa."):
                own = {n: m for n, m in vars(value).items() if not n.startswith("_") and callable(m)}
                found += [f"{package}.{name}.{n}" for n in own if not inspect.getdoc(getattr(value, n))]
    return found


def resolve_named_tuples() -> None:
    """Replace the annotations of named tuples, which are text, by types.

    Their `__new__` is made in a module that does not exist, where pdoc looks the names up in vain.
    """
    ours = [module for name, module in sys.modules.items() if name.startswith("robustiqa.")]
    for value in [value for module in ours for value in vars(module).values()]:
        if inspect.isclass(value) and issubclass(value, tuple) and value.__module__.startswith("robustiqa."):
            value.__new__.__annotations__ = typing.get_type_hints(value)


def build(folder: Path) -> list[str]:
    """Write the pages; returns the public names that they lack."""
    import pdoc.render  # of the extra `docs`; the check of docstrings needs none

    for module in (*PACKAGES, *MODULES):
        importlib.import_module(module)
    resolve_named_tuples()
    pdoc.render.configure(docformat="google", show_source=False, footer_text="RobustIQA",
                          template_directory=Path(__file__).parent / "templates")  # fmt: skip
    own = [pattern for package in PACKAGES for pattern in (package, f"!{re.escape(package)}\\..*")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*own, *MODULES, output_directory=folder)
    missing = []
    for package in PACKAGES:
        page = (folder / f"{package.replace('.', '/')}.html").read_text(encoding="utf-8")
        names = importlib.import_module(package).__all__
        missing += [f"{package}.{name}" for name in names if f'id="{name}"' not in page]
    return missing


def main() -> None:
    """Build, or say what is wrong and fail."""
    folder = Path(sys.argv[1])
    if found := undocumented():
        sys.exit(f"public names without a docstring: {', '.join(found)}")
    if missing := build(folder):
        sys.exit(f"public names that are not in the pages: {', '.join(missing)}")
    print(f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()
