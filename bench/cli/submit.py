"""`robustiqa submit`: how a defence, or a break of one, comes to the board."""

from __future__ import annotations

import click

from .lazy import LazyGroup

_COMMANDS = {
    "new": ("submit_new:new", "Write the folder of a new submission."),
    "verify": ("submit_verify:verify", "Run a submission on a suite and compare its claims."),
    "pack": ("submit_archive:pack", "Pack a verified submission into one archive."),
    "show": ("submit_archive:show", "Check an archive and show what is in it."),
    "unpack": ("submit_archive:unpack", "Write what was submitted into a folder, to be read and verified."),
    "accept": ("submit_archive:accept", "Add an archive to the board's folder of submissions."),
    "table": ("submit_archive:table", "Write the tables of accepted submissions again."),
}


@click.group("submit", cls=LazyGroup, table=_COMMANDS)
def submit() -> None:
    """A defence of your own on the board, or adversarial images that beat a number on it: docs/submitting.md.

    `verify` runs the program of the folder that you name; every other command only reads.
    """
