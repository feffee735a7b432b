"""Errors that a user can act on: one sentence each, saying what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """What another package's error says, short enough for a sentence of ours; its type's name if it says nothing."""
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:200]


def counted(number: int, noun: str) -> str:
    """A number of things as people write it: "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The question after the known name that is nearest to the given one, in any case; empty if none is near."""
    folded = {name.casefold(): name for name in sorted(known)}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


class RobustIQAError(Exception):
    """Base of every error that is the input's fault, not the program's; the CLI prints it without a traceback."""


class UnknownName(RobustIQAError):
    """A plug-in, option or key that does not exist; the message names the nearest one that does.

    Args:
        what: what kind of name it is.
        given: the name.
        known: those that exist.
        hint: what to do where the name is the user's own; it comes first where no known one is near.
    """

    def __init__(self, what: str, given: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        question = did_you_mean(given, known)
        there = f"known are {', '.join(known) or 'none'}"
        said = [f"{question} {there}", hint] if question else [hint, there]
        super().__init__(f"unknown {what} {given!r}: {'; '.join(filter(None, said))}")


class BadParameter(RobustIQAError):
    """A parameter outside what the plug-in or command accepts."""


class BadImage(RobustIQAError):
    """An image that cannot be scored as it is (missing, corrupt, grey, 16-bit, with alpha, too small)."""


class BadScore(RobustIQAError):
    """A metric that returned a wrong shape, NaN or infinity: an error, never a score."""


class BadPlugin(RobustIQAError):
    """A plug-in file or entry point that could not be loaded."""


class BadData(RobustIQAError):
    """A data set or weights file that is missing, incomplete or corrupt."""


class Absent(BadData):
    """Something optional that is not on this machine: files of a data set, a package, its weights.

    A suite with `absent: skip` leaves out what needs it. What is there but broken is plain `BadData`.
    """


class AbsentPath(Absent):
    """What the user has given by its path is not there: an error also where a suite says `absent: skip`."""


class BadSuite(RobustIQAError):
    """A suite file with an unknown key or an impossible value."""


class BadSubmission(RobustIQAError):
    """A submission to the board that cannot be taken: its folder, metadata, archive or claims."""


class Incompatible(RobustIQAError):
    """Two plug-ins that cannot be combined, for example a white-box attack on a metric without gradient."""


class BrokenInvariant(RobustIQAError):
    """Records or tables of a run that contradict themselves, the plan or a certificate: no board is written of them."""


class RunStopped(RobustIQAError):
    """A run that cannot go on: nothing can be written, a cluster is lost, a worker differs; all results stay."""
