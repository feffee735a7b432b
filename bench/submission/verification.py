"""`verification.json`: what `submit verify` has found, in a form that others read without running anything.

The figures are in the records of the run beside it, also those of a break, which is an attack there; whoever reads this
file computes them again from the records. What is here says which files they belong to, and what the author was told.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from ..errors import BadSubmission
from ..yaml_model import Strict

FILE = "verification.json"
SCHEMA = 1


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _shown(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected a text without control characters")
    return text


Finite = Annotated[float, Field(strict=True), AfterValidator(_finite)]
Short = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_shown)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Found(Strict):
    """A figure of the submission: what was claimed, what was measured with its 95 % interval, and what follows."""

    what: Short
    claimed: Finite
    measured: Finite | None = None
    lo: Finite | None = None
    hi: Finite | None = None
    verdict: Literal["confirmed", "better", "not confirmed", "not measured"]


class Verification(Strict):
    """What was verified, with what, and whether all of it held.

    Attributes:
        name: of the submission.
        robustiqa: version of the program.
        suite: name of the suite.
        files: SHA-256 of every file of the submission as it was then, by its path.
        ok: whether the contract held, no image failed and no claim was refuted.
        problems: what did not hold, in sentences.
        claims: one by one; not believed by readers, who have the records.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Short
    kind: Literal["defense", "break"]
    robustiqa: Short
    suite: Short
    files: dict[Short, Digest]
    ok: bool
    problems: tuple[Annotated[str, Field(max_length=2000), AfterValidator(_shown)], ...] = Field((), max_length=1000)
    claims: tuple[Found, ...] = Field((), max_length=200)


def parse_verification(data: dict[str, Any], where: str) -> Verification:
    """The verification in JSON data; raises `BadSubmission` for anything else."""
    try:
        return Verification.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise BadSubmission(f"{where}: {FILE}, key {place!r}: {first['msg']}: refused; run `robustiqa submit verify` "
                            "again") from error  # fmt: skip
