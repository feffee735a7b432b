"""Where the numbers come from: the run record in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def provenance(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts of the record as titled lists of (name, text); what an older record lacks is left out."""
    suite = _mapping(record.get("suite"))
    code = _mapping(record.get("code"))
    git = _mapping(code.get("git"))
    typed = record.get("arguments")
    revision = f"{git['revision']}{' with changes' if git.get('dirty') else ''}" if git.get("revision") else None
    parts = [
        ("The run", [
            ("suite", suite.get("name")), ("started", record.get("started")), ("finished", record.get("finished")),
            ("command", " ".join(["robustiqa", *map(str, typed)]) if isinstance(typed, list) else None),
            ("cells", record.get("cells")), ("base seed", suite.get("seed")),
            ("random streams", _mapping(record.get("seeds")).get("streams")),
            ("git revision", revision), ("digest of the code", code.get("digest")),
            ("device", record.get("device")), ("schema", record.get("schema")),
        ]),
        ("Data sets", [
            (d.get("dataset"), f"{d.get('images')} images, content {str(d.get('content'))[:16]}")
            for d in _mappings(record.get("datasets"))
        ]),
        ("Plug-ins", [
            (f"{p.get('kind')} {p.get('plugin')}",
             f"{p.get('identity')} from {p.get('origin')}, digest {p.get('digest')}")
            for p in _mappings(record.get("plugins"))
        ]),
        ("Packages", list(_mapping(record.get("packages")).items())),
        ("Hardware", list(_mapping(record.get("hardware")).items())),
        ("Numerics", list(_mapping(record.get("numerics")).items())),
        ("Environment", list(_mapping(record.get("environment")).items())),
    ]  # fmt: skip
    shown = [(title, [[str(k), _text(v)] for k, v in items if v is not None]) for title, items in parts]
    return [{"title": title, "items": items} for title, items in shown if items]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
