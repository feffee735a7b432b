"""`report.html`: the data of a run, the template and the plotting library in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from ...bench.checks.reliability import RULES
from ...bench.errors import counted
from ...bench.files import write_atomically
from ...bench.store import Store
from ..collect import collect
from ..left_out import LeftOut, recorded
from ..results import FailedImages, read_groups, read_plan
from .blocks import Tables, blocks
from .extracts import extract
from .flags import explained
from .frames import read_table, records
from .pictures import Show, album
from .provenance import provenance
from .submitted import FOLDER, submitted
from .transfer import matrices

NAME = "report.html"
_HERE = resources.files(__name__.rpartition(".")[0])
LIBRARIES = ("d3-7.9.0.min.js", "plot-0.6.17.min.js")
"""The plotting library, Observable Plot, and D3, on which it stands; `vendor/README.md` says where they come from."""
SCRIPTS = ("core.js", "board.js", "draw.js", "plots.js", "gallery.js", "main.js")
PLOT_STYLE = """:where(.rq-plot) {
  --plot-background: white;
  display: block;
  height: auto;
  height: intrinsic;
  max-width: 100%;
}
:where(.rq-plot text),
:where(.rq-plot tspan) {
  white-space: pre;
}"""
"""The style sheet that Observable Plot puts into every drawing: the one thing besides our own that the page allows."""


def report(root: str | Path, images: Show = "licensed", submissions: str | Path | None = None) -> Path:
    """Write the tables of a run again, and ROOT/report.html, which shows them; the same records give the same bytes.

    Args:
        root: folder of the run.
        images: which pictures are embedded: those "licensed" to be shown by their data set, "all", or "none".
        submissions: folder of accepted submissions; ROOT/submissions by default, which need not exist.

    Returns:
        the path of the page.

    Raises:
        BadData: the folder is no run, or a record in it is corrupt.
        BadSubmission: an accepted submission was changed.
    """
    root = Path(root)
    left = recorded(Store(root).read_json("run.json"))
    paths = collect(root, without=left.without, because=left.because)
    names = Tables._fields
    tables = Tables(*(records(read_table(paths.get(name, root / "leaderboard" / f"{name}.csv"))) for name in names))
    data = page_data(root, tables, images, left)
    data["submissions"] = submitted(root / FOLDER if submissions is None else Path(submissions), [root])
    path = root / NAME
    write_atomically(path, render(data).encode())
    return path


def page_data(root: Path, tables: Tables, images: Show, left: LeftOut) -> dict[str, Any]:
    """All that the page shows, as plain data."""
    store = Store(root)
    suite, planned = read_plan(root)
    plan = planned.but(left.without)
    record, failed = store.read_json("run.json"), FailedImages(plan)
    asked = {"interval": not any("srocc_clean_lo" in row for row in tables.summary),
             "pictures": images != "none" and bool(store.snapshot().images)}  # fmt: skip
    # One group after the other: together they are a gigabyte for a full board.
    extracts = [extract(group, suite.headline, **asked) for group in read_groups(root, suite, plan, failed)]
    errors = len(failed.table())
    options = record.get("options")
    # What was typed for one of several runs that were united is not where they are now.
    named = isinstance(options, Mapping) and not record.get("merged") and options.get("out")
    out = str(named or "OUT")
    found = blocks(extracts, suite.headline, tables, record, out)
    raised = [flag for block in found for row in block["rows"] for flag in row["flags"]]
    attacks = sum(one.attacks for one in extracts)
    facts = [
        ("metric", "metrics", len({b["metric"] for b in found})),
        ("defence", "defences", len({row["defense"] for b in found for row in b["rows"]} - {"none"})),
        ("data set", "data sets", len({b["dataset"] for b in found})),
        ("attacked image", "attacked images", attacks),
    ]
    return {
        "schema": 1,
        "title": suite.name,
        "description": suite.description.strip(),
        "facts": [[f"{count:,}", one if count == 1 else many] for one, many, count in facts],
        "started": str(record.get("started") or "")[:10],
        "blocks": found,
        "flags": explained([*raised, *RULES]),
        "raised": sorted({flag.split(":")[0] for flag in raised}),
        "left_out": [*([defense, left.why] for defense in left.without), *map(list, plan.skipped)],
        "failed": f"{counted(errors, 'result')} of images that failed" if errors else "",
        "transfer": matrices(root),
        "provenance": provenance(record),
        "pictures": album(extracts, plan, suite.headline, root, images).to_json(),
        "submissions": None,
    }


def render(data: Mapping[str, Any]) -> str:
    """The page as HTML text.

    All text of suites, plug-ins and submissions is escaped; scripts and styles run only if their digest is in the
    page's policy, and nothing can be fetched.
    """
    style = _file("templates", "style.css")
    scripts = [_file("templates", "theme.js"), *(_file("vendor", name) for name in LIBRARIES)]
    scripts.append("\n".join(_file("templates", name) for name in SCRIPTS))
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(map(_digest, scripts)),
            "style-src " + " ".join(map(_digest, (style, PLOT_STYLE))),
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    environment = Environment(
        autoescape=True, loader=FunctionLoader(lambda name: _file("templates", name)), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"figure": _figure, "coded": _coded}
    return environment.get_template("page.html").render(
        data=data,
        json=Markup(embedded(data)),
        policy=Markup(policy),
        style=Markup(style),
        theme=Markup(scripts[0]),
        libraries=[Markup(text) for text in scripts[1:-1]],
        script=Markup(scripts[-1]),
    )


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a `script` element: no character that HTML or JavaScript could take for its own."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(*parts: str) -> str:
    return _HERE.joinpath(*parts).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _coded(text: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _figure(value: Any) -> str:
    """A number in the tables for readers without scripts."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value.replace("-inf", "−∞").replace("inf", "∞")
    return f"{value:.3f}".replace("-", "−") if isinstance(value, float) else str(value)
