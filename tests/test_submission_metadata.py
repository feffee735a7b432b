"""`submission.yml`: what a stranger may write there, and the sentence for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from robustiqa.bench.errors import RobustIQAError
from robustiqa.bench.submission.metadata import (
    MEASURES,
    MOST_BYTES,
    BreakSubmission,
    Claim,
    DefenseSubmission,
    file_of,
    parse_submission,
    placeholders,
)
from robustiqa.leaderboard.certified import COLUMNS as CERTIFIED
from robustiqa.leaderboard.empirical import COLUMNS as EMPIRICAL

ABOUT: dict[str, Any] = {
    "schema": 1, "name": "my-one", "title": "A title", "description": "Two\nlines.", "authors": [{"name": "Ada L."}],
    "code": "https://example.org/code", "licence": "MIT",
}  # fmt: skip
CLAIM: dict[str, Any] = {
    "table": "summary", "measure": "worst_gain_mean", "metric": "tiny-iqa", "dataset": "photos", "value": 0.5,
}  # fmt: skip
DEFENSE: dict[str, Any] = ABOUT | {
    "kind": "defense", "plugin": "src/defense.py", "defense": "my-one[b=2,a=1]", "metrics": ["tiny-iqa"],
    "threat_model": {"norms": ["linf"], "adaptive": "Gradients through it."}, "training_data": "none",
    "cost": {"forwards": 1}, "claims": [CLAIM],
}  # fmt: skip
TARGET = {"metric": "tiny-iqa", "defense": "jpeg", "dataset": "photos", "norm": "linf", "eps": "4/255"}
BREAK: dict[str, Any] = ABOUT | {"kind": "break", "target": TARGET, "images": "images", "gain": 0.5, "method": "PGD."}


def parse(data: dict[str, Any]) -> DefenseSubmission | BreakSubmission:
    return parse_submission(yaml.safe_dump(data).encode())


def refused(data: dict[str, Any] | bytes) -> str:
    """The message, which is one that a terminal shows as it is."""
    with pytest.raises(RobustIQAError) as found:
        parse_submission(data if isinstance(data, bytes) else yaml.safe_dump(data).encode())
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 1000
    return str(found.value)


def claimed(**changes: Any) -> dict[str, Any]:
    return DEFENSE | {"claims": [CLAIM | changes]}


def test_what_is_sound_is_taken() -> None:
    defense = parse(DEFENSE)
    assert isinstance(defense, DefenseSubmission)
    assert defense.defense == "my-one[a=1,b=2]", "canonical, as tables have it"
    assert defense.description == "Two\nlines."
    found = parse(BREAK)
    assert isinstance(found, BreakSubmission)
    assert found.target.threat.eps == 4 / 255
    assert placeholders(found) == []
    assert placeholders(parse(BREAK | {"title": "CHANGE THIS"})) == ["title"]


@pytest.mark.parametrize("key", ["title", "description", "licence", "code", "name", "contact", "training_data"])
@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\u202e", "\u200b", "\0", "\u2028"])
def test_texts_without_what_nobody_sees(key: str, letter: str) -> None:
    assert f"key {key!r}" in refused(DEFENSE | {key: f"ab{letter}cd"})


@pytest.mark.parametrize("text", ["", " ", "x" * 201, "two\nlines", 3, None, True, ["a"], {"a": 1}])
def test_a_title_is_a_line(text: object) -> None:
    assert "key 'title'" in refused(DEFENSE | {"title": text})


def test_markup_and_formulas_are_texts() -> None:
    """They are escaped where they are shown; that the program keeps them as they are makes sure of one place for it."""
    for text in ("<script>alert(1)</script>", "=cmd|' /C calc'!A0", "| a | b |", "[x](javascript:alert(1))", "日本語"):
        assert parse(DEFENSE | {"title": text}).title == text


@pytest.mark.parametrize("name", [
    "My-one", "a_b", "../a", "a/b", "a b", "-a", "a-", "a--b", "con", "nul", "com1", "x" * 61, "", "ａ", 7,
])  # fmt: skip
def test_names_are_folders_everywhere(name: object) -> None:
    assert "key 'name'" in refused(DEFENSE | {"name": name})


@pytest.mark.parametrize("path", [
    "../defense.py", "/etc/defense.py", "a/../../b.py", "C:\\defense.py", "C:defense.py", "a\\b.py", "~/a.py", ".a.py",
    "a//b.py", "./a.py", "a.py/", "aux.py", "a\0.py", "x" * 300 + ".py", "defense.pyc", "defense", "", "a b.py",
])  # fmt: skip
def test_a_plugin_lies_in_the_folder(path: str) -> None:
    assert "key 'plugin'" in refused(DEFENSE | {"plugin": path})


@pytest.mark.parametrize("url", [
    "javascript:alert(1)", "file:///etc/passwd", "ftp://example.org", "https://", "https://user:pw@example.org/",
    "//a.b",    "https://exa mple.org", "https://localhost", "https://example.org/<script>", 'https://example.org/"onclick=',
    "https://ехample.org", "https://example.org:99999/", "https://example.org/" + "a" * 300, "HTTP//example.org", 5,
])  # fmt: skip
def test_addresses(url: object) -> None:
    assert "key 'code'" in refused(DEFENSE | {"code": url})


@pytest.mark.parametrize(
    "url", ["https://arxiv.org/abs/2411.12575", "http://a.b/c?d=e&f=(g)#h", "https://xn--bcher.de"]
)
def test_sound_addresses(url: str) -> None:
    assert parse(DEFENSE | {"code": url}).code == url


def test_orcid_has_a_checksum() -> None:
    """0000-0002-1825-0097 is orcid.org's own example."""
    for sound in ("0000-0002-1825-0097", "0000-0002-1694-233X"):
        assert parse(DEFENSE | {"authors": [{"name": "A", "orcid": sound}]}).authors[0].orcid == sound
    for wrong in ("0000-0002-1825-0098", "0000-0002-1694-2330", "0000000218250097", "0000-0002-1825-009x"):
        assert "authors.0.orcid" in refused(DEFENSE | {"authors": [{"name": "A", "orcid": wrong}]})


@pytest.mark.parametrize("licence", ["MIT License", "GPL v3", "a\nb", "", "MIT OR", "(MIT)", 3])
def test_licences_are_identifiers(licence: object) -> None:
    assert "key 'licence'" in refused(DEFENSE | {"licence": licence})
    assert parse(DEFENSE | {"licence": "MIT OR Apache-2.0"}).licence == "MIT OR Apache-2.0"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), True, "0.5", None, 1e7, 10**400, [1], "1e-3"]
)
def test_claims_are_numbers(value: object) -> None:
    assert "claims.0.value" in refused(claimed(value=value))
    assert "key 'gain'" in refused(BREAK | {"gain": value})


@pytest.mark.parametrize(("changes", "word"), [
    ({"measure": "worst_gain_men"}, "did you mean 'worst_gain_mean'?"),
    ({"measure": "flags"}, "can be claimed: known are"),
    ({"table": "tracks"}, "claims.0.table"),
    ({"tolerance": 0.2}, "tolerance"),
    ({"tolerance": -0.1}, "tolerance"),
    ({"eps": 0.05}, "'eps' is no part"),
    ({"table": "empirical", "measure": "gain_mean"}, "needs 'attack'"),
    ({"table": "certified", "measure": "width_mean", "norm": "l2", "eps": 0.05}, "needs 'kind'"),
    ({"metric": "lip-iqa"}, "not among metrics"),
    ({"metric": "tiny-iqa[", "dataset": "photos"}, "cannot read plug-in string"),
    ({"dataset": "photos\u202e"}, "printable ASCII"),
])  # fmt: skip
def test_claims_speak_of_rows(changes: dict[str, Any], word: str) -> None:
    assert word in refused(claimed(**changes))


def test_no_claim_twice() -> None:
    assert "claimed twice" in refused(DEFENSE | {"claims": [CLAIM, CLAIM | {"value": 0.1}]})


def test_what_can_be_claimed_is_in_the_tables() -> None:
    """Those of summary.csv are compared with a run's in test_submission_verify.py."""
    assert set(MEASURES["empirical"]) <= set(EMPIRICAL)
    assert set(MEASURES["certified"]) <= set(CERTIFIED)


def test_a_gain_downwards_is_better_near_zero() -> None:
    row = CLAIM | {"table": "empirical", "measure": "gain_mean", "attack": "pgd", "norm": "l2", "eps": 0.1}
    assert Claim.model_validate(row).better == "smaller"
    assert Claim.model_validate(row | {"direction": "down"}).better == "larger"
    assert Claim.model_validate(row | {"direction": "down", "measure": "success_share"}).better == "smaller"


@pytest.mark.parametrize(("changes", "word"), [
    ({"gain": -0.5}, "expected a positive number for up"),
    ({"target": TARGET | {"direction": "down"}}, "a negative one for down"),
    ({"target": TARGET | {"eps": 4}}, "did you mean 4/255?"),
    ({"target": TARGET | {"eps": float("nan")}}, "target.eps"),
    ({"images": "../images"}, "key 'images'"),
    ({"plugin": "a.py"}, "unknown key"),
])  # fmt: skip
def test_breaks(changes: dict[str, Any], word: str) -> None:
    assert word in refused(BREAK | changes)


@pytest.mark.parametrize(("content", "word"), [
    (b"a: &a [x]\nb: [*a, *a]", "anchor or alias 'a'"),
    (b"kind: defense\nkind: break", "the key 'kind' twice"),
    (b"kind: defense\nauthors:\n  - {name: a, name: b}", "the key 'name' twice"),
    (b"a: [[[[[[[[[1]]]]]]]]]", "nests more than"),
    (b"[" * 60_000, "nests more than"),
    (b"kind: !!python/object/apply:os.system [ls]", "uses the tag"),
    (b"kind: !!binary aGk=", "uses the tag"),
    (b"--- {kind: break}\n--- {kind: break}", "several documents"),
    (b"? [a]\n: b", "no text"),
    (b"\xff\xfe", "no YAML in UTF-8"),
    (b'kind: "\\UFFFFFFFF"', "no YAML in UTF-8"),
    (b"kind: defense\nx\x1b[2J: 3", "no YAML in UTF-8"),
    (b"kind: [", "no YAML in UTF-8"),
    (b"", "key 'kind'"),
    (b"- kind: defense", "key 'kind'"),
    (b"kind: [defense]", "key 'kind'"),
    (b"kind: weapon", "expected one of defense, break, got 'weapon'"),
    (b"x: " + b"a" * MOST_BYTES, "at most"),
    (yaml.safe_dump(DEFENSE).encode() + b"value: " + b"9" * 5000, "looks like one"),
])  # fmt: skip
def test_files_that_are_not_plain(content: bytes, word: str) -> None:
    assert word in refused(content)


@pytest.mark.parametrize("schema", [2, 0, True, "1", 1.0, None])
def test_the_schema_has_a_number(schema: object) -> None:
    assert "key 'schema'" in refused(DEFENSE | {"schema": schema})


def test_an_unknown_key_is_met_with_the_nearest() -> None:
    assert "did you mean 'licence'?" in refused(DEFENSE | {"license": "MIT"})
    without = {key: value for key, value in DEFENSE.items() if key != "licence"}
    assert "did you mean 'licence'?" in refused(without | {"license": "MIT"}), "the right one is missing, too"
    threats = {"norm": ["linf"], "adaptive": "Gradients through it."}
    assert "did you mean 'norms'?" in refused(DEFENSE | {"threat_model": threats})
    claim = {key: value for key, value in CLAIM.items() if key != "measure"}
    assert "did you mean 'measure'?" in refused(DEFENSE | {"claims": [claim | {"mesure": "srocc_clean"}]})
    assert "did you mean 'affiliation'?" in refused(DEFENSE | {"authors": [{"name": "A", "afiliation": "B"}]})


def test_a_missing_key_is_named() -> None:
    for key in set(DEFENSE) - {"kind", "claims"}:
        assert f"has no key {key!r}" in refused({name: value for name, value in DEFENSE.items() if name != key})


def test_messages_are_ours() -> None:
    for wrong in (claimed(eps=0.05), BREAK | {"gain": -0.5}, DEFENSE | {"licence": "MIT License"}):
        assert "Value error" not in refused(wrong)


def test_files_of_images() -> None:
    assert file_of("astronaut/jpeg-3") == "astronaut-jpeg-3.png"
    assert file_of("../../etc/passwd") == "etc-passwd.png"
