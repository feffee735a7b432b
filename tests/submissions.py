"""A small submission for the tests: its folder, a run of it, and archives of it that somebody has changed."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from robustiqa.bench import run_suite
from robustiqa.bench.registry import registry
from robustiqa.bench.submission.claims import judge_claims
from robustiqa.bench.submission.metadata import DefenseSubmission, read_submission
from robustiqa.bench.submission.packing import digests, sources
from robustiqa.bench.submission.verification import Found, Verification
from robustiqa.bench.suite import Suite
from small_runs import FAULTS

NAME = "half-way"
PLUGIN = '''"""Half of the image's contrast."""

import torch
from robustiqa.bench import register_defense
from robustiqa.defenses.base import Purification


@register_defense("half-way")
class HalfWay(Purification):
    """Half of the contrast."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to the same."""
        return 0.5 * x + 0.25
'''
METADATA: dict[str, Any] = {
    "schema": 1,
    "kind": "defense",
    "name": NAME,
    "title": "Half of the contrast",
    "description": "Moves every pixel half-way to grey.",
    "authors": [{"name": "Ada Example", "affiliation": "Somewhere"}],
    "code": "https://example.org/half-way",
    "licence": "MIT",
    "plugin": "defense.py",
    "defense": NAME,
    "metrics": ["cheap"],
    "threat_model": {"norms": ["linf"], "adaptive": "PGD through the defence."},
    "training_data": "none",
    "cost": {"forwards": 1},
    "claims": [
        {"table": "summary", "measure": "worst_gain_mean", "metric": "cheap", "dataset": "specks", "value": 0.5}
    ],
}
SUITE = {
    "name": "small",
    "metrics": ["cheap"],
    "datasets": ["specks"],
    "defenses": ["none", NAME],
    "attacks": [{"attack": "pgd[steps=2]", "linf": ["4/255"]}],
    "chunk": 3,
}


def folder_of(parent: Path, **changes: Any) -> Path:
    """A submission's folder that was not verified; `changes` are of its metadata."""
    root = parent / NAME
    root.mkdir(parents=True)
    (root / "defense.py").write_text(PLUGIN)
    (root / "submission.yml").write_text(yaml.safe_dump(METADATA | changes, sort_keys=False))
    return root


def verified(root: Path) -> Path:
    """The folder, verified: with the records of a run, and what `verify` says of it."""
    registry.load_file(FAULTS)
    registry.load_file(root / "defense.py")
    assert run_suite(Suite.model_validate(SUITE), root / "verified", progress=False).ok
    submission = read_submission(root)
    assert isinstance(submission, DefenseSubmission)
    claims = []
    for one in judge_claims(submission.claims, NAME, root / "verified"):
        claims.append(Found(what=one.claim.what, claimed=one.claim.value, measured=one.measured, verdict=one.verdict))
    found = Verification(
        name=submission.name, kind="defense", robustiqa="0.1.0", suite="small",
        files=digests(sources(root, submission)), ok=True, problems=(), claims=tuple(claims), images=(),
    )  # fmt: skip
    (root / "verified" / "verification.json").write_text(found.model_dump_json(by_alias=True))
    return root


def contents(path: Path) -> dict[str, bytes]:
    """What an archive holds, the manifest left out."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "MANIFEST.json"}


def manifest_of(files: Mapping[str, bytes], **changes: Any) -> bytes:
    """A manifest that goes with the files."""
    listed = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    about = {"schema": 1, "name": NAME, "kind": "defense", "robustiqa": "0.1.0", "files": listed}
    return json.dumps(about | changes).encode()


def archive_of(path: Path, files: Mapping[str, bytes], manifest: bytes | None = None) -> Path:
    """An archive of these files, as somebody makes it by hand; with a manifest that fits, where none is given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, "MANIFEST.json": manifest_of(files) if manifest is None else manifest}.items():
            archive.writestr(name, content)
    return path


def changed_json(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """JSON after a change in place."""
    data = json.loads(content)
    change(data)
    return json.dumps(data).encode()


def pickled() -> bytes:
    """Weights as torch.save wrote them of old."""
    import pickle

    return pickle.dumps({"weight": [1.0]}, protocol=2)


def zipped(content: bytes) -> bytes:
    """An archive within an archive."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", content)
    return sink.getvalue()
