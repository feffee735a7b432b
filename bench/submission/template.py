"""The folder of a new submission: a template that works, with the name put in."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..errors import BadSubmission
from ..files import make_folder, write_atomically
from .metadata import FILE, valid_name

FILES = {
    "defense": {
        FILE: "defense-submission.yml",
        "defense.py": "defense.py",
        "test_defense.py": "test_defense.py",
        "README.md": "defense-README.md",
    },
    "break": {FILE: "break-submission.yml", "make_images.py": "make_images.py", "README.md": "break-README.md"},
}
"""Kind -> file of a submission -> file of the template."""

_FOLDER = resources.files(__name__.rpartition(".")[0]).joinpath("templates")


def write_template(name: str, kind: str, into: Path) -> Path:
    """Write the folder INTO/NAME, and return it.

    Args:
        name: of the submission and, for a defence, of the plug-in; kebab-case.
        kind: "defense" or "break".
        into: an existing folder, or one that is made.

    Raises:
        BadSubmission: no possible name, or the folder is there.
        BadData: it cannot be written.
    """
    try:
        valid_name(name)
    except ValueError as error:
        raise BadSubmission(f"name {name!r}: {error}") from error
    folder = into / name
    if folder.exists() or folder.is_symlink():
        raise BadSubmission(f"{str(folder)!r} is there already: choose another name or --into, nothing is overwritten")
    make_folder(folder, "--into")
    for target, source in FILES[kind].items():
        text = _FOLDER.joinpath(source).read_text(encoding="utf-8").replace(f"my-{kind}", name)
        write_atomically(folder / target, text.encode())
    return folder
