"""`verification.json`: what `submit verify` has found, in a form that others read without running anything.

The figures are in the records of the run beside it, also those of a break, whose images are an attack there; whoever
reads this file computes them again from the records. What is here says which files they belong to.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ..errors import BadSubmission
from ..yaml_model import Strict

FILE = "verification.json"
SCHEMA = 1
MOST_IMAGES = 20_000


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


class BrokenImage(Strict):
    """One image of a break, scored by the evaluation stream as the board scores.

    Attributes:
        image, reference: ids in the data set.
        clean, attacked: scores of the defended metric, in its own scale.
        gain: of `attacked` over `clean`, oriented so that better quality is larger; in units of R.
        linf, l2: of the difference to the clean image, in [0,1] pixel units, measured on the 8-bit file.
    """

    image: Short
    reference: Short
    clean: Finite
    attacked: Finite
    gain: Finite
    linf: Annotated[Finite, Field(ge=0)]
    l2: Annotated[Finite, Field(ge=0)]


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
        unit: R, in the scale of the metric; of a break.
        images: of a break, all of them.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Short
    kind: Literal["defense", "break"]
    robustiqa: Short
    suite: Short
    files: dict[Short, Digest]
    ok: bool
    problems: tuple[Annotated[str, Field(max_length=2000), AfterValidator(_shown)], ...] = Field(
        default=(), max_length=1000
    )
    claims: tuple[Found, ...] = Field(default=(), max_length=200)
    unit: Annotated[Finite, Field(gt=0)] | None = None
    images: tuple[BrokenImage, ...] = Field(default=(), max_length=MOST_IMAGES)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Verification:
        if (self.kind == "break") != bool(self.images and self.unit):
            raise ValueError("a break has images and their unit, a defence has none")
        names = [one.image for one in self.images]
        if len(set(names)) != len(names):
            raise ValueError("an image is there twice")
        for one in self.images:
            if abs(abs(one.attacked - one.clean) / (self.unit or 1.0) - abs(one.gain)) > 1e-6 * max(1.0, abs(one.gain)):
                raise ValueError(f"the gain of image {one.image!r} is not the difference of its scores over the unit")
        return self

    @property
    def gain(self) -> float:
        """Mean gain of a break over its images, in units of R."""
        return math.fsum(one.gain for one in self.images) / len(self.images)


def parse_verification(data: dict[str, Any], where: str) -> Verification:
    """The verification in JSON data; raises `BadSubmission` for anything else."""
    try:
        return Verification.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise BadSubmission(f"{where}: {FILE}, key {place!r}: {first['msg']}: refused; run `robustiqa submit verify` "
                            "again") from error  # fmt: skip
