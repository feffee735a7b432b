"""`submission.yml`: who submits what, and what they claim; the one truth about its keys.

The file comes from a stranger. It is small, has no aliases, anchors or repeated keys, its texts are capped and hold
nothing that is invisible or moves a terminal's cursor, its numbers are numbers, its paths stay below the folder. What
is left in a text (`<`, `=`, `|`) is escaped where it is shown: `leaderboard.board.escaped` in Markdown,
`leaderboard.exports.spreadsheet.neutralised` in CSV, the template in HTML.
"""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from ..errors import BadParameter, BadSubmission, did_you_mean
from ..spec import parse_spec
from ..suite import Eps
from ..terminal import printable
from ..threats import Direction, Norm, Threat
from ..yaml_model import Strict, read_model
from .paths import device_name, inside, relative_path

FILE = "submission.yml"
MOST_BYTES = 64_000
DEEPEST = 5
"""Nested collections in the YAML; the model needs three."""
LARGEST = 1e6
"""Of a claim: gains, deltas, correlations and scores of the tables are in units of a metric's range or have no unit."""
MOST_TOLERANCE = 0.1

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]*[A-Za-z0-9]")
_URL_REST = re.compile(r"[A-Za-z0-9._~:/?#@!$&()*+,;=%-]*")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*(?: (?:AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*){0,4}")
_PLACEHOLDER = re.compile("CHANGE.THIS")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

MEASURES: dict[str, dict[str, Literal["smaller", "larger"]]] = {
    "summary": {
        "srocc_clean": "larger",
        "plcc_clean": "larger",
        "krocc_clean": "larger",
        "srocc_attacked": "larger",
        "plcc_attacked": "larger",
        "worst_gain_mean": "smaller",
        "worst_gain_own": "smaller",
        "rscore_mean": "larger",
        "certified_delta_mean": "smaller",
    },
    "empirical": {"gain_mean": "smaller", "gain_8bit_mean": "smaller", "gain_max": "smaller",
                  "success_share": "smaller"},
    "certified": {
        "certified_delta_mean": "smaller",
        "gaming_delta_mean": "smaller",
        "width_mean": "smaller",
        "vacuous_share": "smaller",
        "certified_pairs": "larger",
        "krocc_lower": "larger",
        "srocc_lower": "larger",
    },
}  # fmt: skip
"""Table -> column that can be claimed -> which way is better for a defence (gains against the attacker's direction)."""


def _text(most: int, lines: bool = False) -> AfterValidator:
    """A text of 1 to `most` characters, none of them invisible; line ends only where `lines` says so."""

    def check(text: str) -> str:
        text = text.strip()
        if not 1 <= len(text) <= most:
            raise ValueError(f"expected a text of 1 to {most} characters, got {len(text)}")
        for letter in text:
            if unicodedata.category(letter) in _INVISIBLE and not (lines and letter == "\n"):
                raise ValueError(f"the character U+{ord(letter):04X} is invisible or controls a terminal: take it out")
        return text

    return AfterValidator(check)


def _number(value: object) -> object:
    """A number as YAML has it: no text, no boolean, neither NaN nor infinite, none that no table could hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number (no quotes; 0.001 or 1.0e-3, since YAML takes 1e-3 for a text)")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    if abs(value) > LARGEST:
        raise ValueError(f"expected a number of at most {LARGEST:g} in size")
    return value


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected a whole number")
    return value


def valid_name(text: str) -> str:
    """The name, if it is a kebab-case one that can be a folder everywhere; raises `ValueError`."""
    if not _NAME.fullmatch(text) or len(text) > 60 or device_name(text):
        raise ValueError("expected a kebab-case name of at most 60 characters: a-z and 0-9, single hyphens between")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        sound = (
            len(text) <= 300
            and parts.scheme in ("http", "https")
            and text.startswith(f"{parts.scheme}://")
            and bool(_HOST.fullmatch(parts.hostname or ""))
            and "@" not in parts.netloc
            and (parts.port is None or parts.port > 0)
            and bool(_URL_REST.fullmatch(text))
        )
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("expected an http or https address of at most 300 ASCII characters, without user or password")
    return text


def _orcid(text: str) -> str:
    """ISO 7064 mod 11-2, as orcid.org computes it."""
    if re.fullmatch(r"(\d{4}-){3}\d{3}[\dX]", text, re.ASCII):
        *digits, last = text.replace("-", "")
        total = 0
        for digit in digits:
            total = (total + int(digit)) * 2
        if "0123456789X"[(12 - total % 11) % 11] == last:
            return text
    raise ValueError("expected an ORCID such as 0000-0002-1825-0097 (its last digit is a checksum)")


def _licence(text: str) -> str:
    if not _LICENCE.fullmatch(text) or len(text) > 100:
        raise ValueError("expected an SPDX identifier such as MIT, Apache-2.0, CC0-1.0 or LicenseRef-Ours "
                         "(https://spdx.org/licenses)")  # fmt: skip
    return text


def _plugin_string(text: str) -> str:
    """Canonical, so that what is claimed of a plug-in is found under the name that a table gives it."""
    if len(text) > 200 or not text.isascii() or not text.isprintable():
        raise ValueError("expected a plug-in string of at most 200 printable ASCII characters")
    try:
        return str(parse_spec(text))
    except BadParameter as error:
        raise ValueError(str(error)) from error


def _python_file(text: str) -> str:
    if not text.endswith(".py"):
        raise ValueError("expected the path of a Python file in the folder of the submission, such as defense.py")
    return text


Line = Annotated[str, _text(200)]
Text = Annotated[str, _text(5000, lines=True)]
Url = Annotated[str, AfterValidator(_url)]
Number = Annotated[float, BeforeValidator(_number)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**6)]
RelativePath = Annotated[str, AfterValidator(relative_path)]
PluginString = Annotated[str, AfterValidator(_plugin_string)]
Budget = Annotated[Eps, Field(le=1000)]


class Author(Strict):
    """One author."""

    name: Line
    affiliation: Line | None = None
    orcid: Annotated[str, AfterValidator(_orcid)] | None = None
    url: Url | None = None


class Paper(Strict):
    """Where the method is described."""

    title: Line | None = None
    url: Url


class ThreatModel(Strict):
    """Against what the defence is meant to hold, and what an attacker who knows it would do."""

    norms: tuple[Norm, ...] = Field(min_length=1, max_length=2)
    adaptive: Text


class Cost(Strict):
    """Forwards of the metric for one score; seconds for one image of the suite, and on what."""

    forwards: Count
    seconds: Annotated[Number, Field(gt=0)] | None = None
    hardware: Line | None = None


class Claim(Strict):
    """A figure of a board's table, as the authors measured it.

    Attributes:
        table, measure: CSV file without its suffix, and the column (`MEASURES`).
        metric, dataset: plug-in strings of the row; the defence is the submission's.
        attack, direction, norm, eps: the rest of the row's key in `empirical.csv`; norm and eps also in
            `certified.csv`.
        certificate: `population` or `deployed`, in `certified.csv` (its column `kind`).
        value: finite.
        tolerance: how far off a measured value may be, beside its interval; 0.1 at most.
    """

    table: Literal["summary", "empirical", "certified"]
    measure: str
    metric: PluginString
    dataset: PluginString
    attack: PluginString | None = None
    direction: Direction | None = None
    norm: Norm | None = None
    eps: Budget | None = None
    certificate: Literal["population", "deployed"] | None = Field(default=None, alias="kind")
    value: Number
    tolerance: Annotated[Number, Field(ge=0, le=MOST_TOLERANCE)] = 0.0

    @model_validator(mode="after")
    def _is_of_its_table(self) -> Claim:
        known = MEASURES[self.table]
        if self.measure not in known:
            near = " ".join(filter(None, [did_you_mean(self.measure, known), "known are"]))
            raise ValueError(
                f"{self.measure[:60]!r} is no column of {self.table}.csv that can be claimed: {near} {', '.join(known)}"
            )
        needed = {"summary": (), "empirical": ("attack", "norm", "eps"), "certified": ("norm", "eps", "certificate")}
        optional = {"summary": (), "empirical": ("direction",), "certified": ()}
        for key in ("attack", "direction", "norm", "eps", "certificate"):
            shown = "kind" if key == "certificate" else key
            if getattr(self, key) is None and key in needed[self.table]:
                raise ValueError(f"a claim about {self.table}.csv needs {shown!r}, which is part of the row's key")
            if getattr(self, key) is not None and key not in (*needed[self.table], *optional[self.table]):
                raise ValueError(f"{shown!r} is no part of the key of a row of {self.table}.csv: leave it out")
        return self

    @property
    def what(self) -> str:
        """The figure in words: column, row, data set."""
        threat = f" at {self.norm} {self.eps:.6g}" if self.eps is not None else ""
        words = [f"{self.measure} of {self.table}.csv{threat}", self.direction, self.attack, self.certificate]
        return ", ".join([*filter(None, words), self.metric, self.dataset])

    @property
    def better(self) -> Literal["smaller", "larger"]:
        """Which way the measure is better for the defence."""
        if self.table == "empirical" and self.direction == "down" and self.measure != "success_share":
            return "larger"  # gains downwards are negative
        return MEASURES[self.table][self.measure]


class Target(Strict):
    """What a break is a break of: a row of a board, as `empirical.csv` names it."""

    metric: PluginString
    defense: PluginString
    dataset: PluginString
    norm: Norm
    eps: Budget
    direction: Direction = "up"

    @model_validator(mode="after")
    def _is_a_threat(self) -> Target:
        try:
            Threat(self.norm, self.eps)
        except BadParameter as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def threat(self) -> Threat:
        """Norm and budget."""
        return Threat(self.norm, self.eps)


class _About(Strict):
    """What both kinds say."""

    schema_version: Annotated[Literal[1], BeforeValidator(_whole)] = Field(alias="schema")
    name: Annotated[str, AfterValidator(valid_name)]
    title: Line
    description: Text
    authors: tuple[Author, ...] = Field(min_length=1, max_length=50)
    paper: Paper | None = None
    code: Url
    licence: Annotated[str, AfterValidator(_licence)]
    contact: Line | None = None


class DefenseSubmission(_About):
    """A defence: a plug-in file in the folder, and the plug-in string that names the defence in it.

    Attributes:
        plugin: path of the Python file below the folder.
        defense: plug-in string.
        metrics: those it is made for, and on which it is verified.
        training_data: what it was trained on; "none" if nothing was.
    """

    kind: Literal["defense"]
    plugin: Annotated[RelativePath, AfterValidator(_python_file)]
    defense: PluginString
    metrics: tuple[PluginString, ...] = Field(min_length=1, max_length=20)
    threat_model: ThreatModel
    training_data: Text
    cost: Cost
    claims: tuple[Claim, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _claims_once(self) -> DefenseSubmission:
        seen = set[str]()
        for claim in self.claims:
            if claim.metric not in self.metrics:
                raise ValueError(f"a claim speaks of the metric {claim.metric!r}, which is not among metrics")
            key = repr(claim.model_copy(update={"value": 0.0, "tolerance": 0.0}))
            if key in seen:
                raise ValueError(f"{claim.table}.{claim.measure} is claimed twice for the same row")
            seen.add(key)
        return self


class BreakSubmission(_About):
    """Adversarial images that beat a number of the board.

    Attributes:
        target: the row that they beat.
        images: folder of 8-bit PNG files, each named by the image's id (`file_of`).
        gain: mean gain over all images of the data set, in units of R and with the sign of the board: positive
            upwards, negative downwards.
        method: how they were made.
    """

    kind: Literal["break"]
    target: Target
    images: RelativePath
    gain: Number
    method: Text

    @model_validator(mode="after")
    def _has_its_sign(self) -> BreakSubmission:
        if not self.gain * (1 if self.target.direction == "up" else -1) > 0:
            raise ValueError(f"gain {self.gain:g}: expected a positive number for up, a negative one for down")
        return self


Submission = DefenseSubmission | BreakSubmission

_KINDS: dict[str, type[DefenseSubmission | BreakSubmission]] = {
    "defense": DefenseSubmission,
    "break": BreakSubmission,
}
_PARTS: dict[str, type[BaseModel]] = {
    "authors": Author,
    "paper": Paper,
    "threat_model": ThreatModel,
    "cost": Cost,
    "claims": Claim,
    "target": Target,
}


def parse_submission(content: bytes, what: str = FILE) -> Submission:
    """The metadata in the bytes of a `submission.yml`.

    Args:
        content: the file.
        what: the file in words, for messages.

    Raises:
        BadSubmission: too large, no plain YAML, or a value that does not fit; the message names the key.
        UnknownName: a key that there is not, with the nearest one.
    """
    if len(content) > MOST_BYTES:
        raise BadSubmission(f"{what} has {len(content)} bytes: expected at most {MOST_BYTES}")
    kind = _kind(content, what)
    if kind not in _KINDS:
        raise BadSubmission(f"{what}, key 'kind': expected one of {', '.join(_KINDS)}, got {(kind or '')[:40]!r}")
    return read_model(content, _KINDS[kind], what, BadSubmission, _PARTS, "schema, kind and name")


def read_submission(root: str | Path) -> Submission:
    """The metadata of a submission's folder; raises as `parse_submission`, and `BadSubmission` if it is none."""
    root = Path(root)
    if not root.is_dir():
        raise BadSubmission(f"{str(root)!r} is no folder: give that of a submission (`robustiqa submit new` makes one)")
    path = root / FILE
    if not path.exists():
        raise BadSubmission(f"{str(root)!r} has no {FILE}: `robustiqa submit new` writes one")
    path = inside(root, FILE)
    if not path.is_file():
        raise BadSubmission(f"{str(path)!r} is no file")
    with path.open("rb") as file:
        return parse_submission(file.read(MOST_BYTES + 1), repr(str(path)))


def placeholders(submission: Submission) -> list[str]:
    """Keys whose texts are still those of the template."""
    data = submission.model_dump(mode="json", by_alias=True)
    return [key for key, value in data.items() if _PLACEHOLDER.search(str(value))]


def file_of(image: str) -> str:
    """Name of the PNG file of an image id in a break: what is no letter, digit, `.`, `_` or `-` becomes `-`."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', image).lstrip('-.')}.png"


def _kind(content: bytes, what: str) -> str | None:
    """Value of the key `kind`, from the events of the parser: before anything is built, what could swell is refused.

    Raises:
        BadSubmission: an alias or anchor, a repeated key, a tag, several documents, or too many levels.
    """
    kind = None
    keys: list[set[str] | None] = []  # of the open collections; None for a list
    key: str | None = None  # that waits for its value, in the innermost mapping
    documents = 0
    try:
        for event in yaml.parse(content.decode(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise BadSubmission(f"{what} holds several documents: expected one")
            if (anchor := getattr(event, "anchor", None)) is not None:
                raise BadSubmission(f"{what} uses the anchor or alias {anchor[:40]!r}: write the value out")
            if (tag := getattr(event, "tag", None)) is not None:
                raise BadSubmission(f"{what} uses the tag {tag[:40]!r}: expected plain values")
            if isinstance(event, yaml.CollectionEndEvent):
                keys.pop()
                key = None
            elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
                mapping = keys[-1] if keys else None
                if mapping is not None and key is None:
                    key = _new_key(event, mapping, what)
                    continue
                if len(keys) == 1 and key == "kind" and isinstance(event, yaml.ScalarEvent):
                    kind = event.value
                key = None
                if isinstance(event, yaml.CollectionStartEvent):
                    if len(keys) == DEEPEST:
                        raise BadSubmission(f"{what} nests more than {DEEPEST} levels: expected three at most")
                    keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # the first two of escapes that are no character
        reason = printable(" ".join(str(error).split())[:300], lines=False)
        raise BadSubmission(f"{what} is no YAML in UTF-8: {reason}") from error
    return kind


def _new_key(event: yaml.Event, mapping: set[str], what: str) -> str:
    """The text of an event that stands where a key is expected; it is added to those of its mapping."""
    if not isinstance(event, yaml.ScalarEvent):
        raise BadSubmission(f"{what} has a key that is no text")
    if event.value in mapping:
        raise BadSubmission(f"{what} has the key {event.value[:40]!r} twice: leave one out")
    mapping.add(event.value)
    return event.value
