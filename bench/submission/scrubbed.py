"""Run records without the paths of the machine that wrote them."""

from __future__ import annotations

import re
from typing import Any

from ..errors import BadSubmission
from ..plan import Plan

_PATH = re.compile(
    r"(?P<before>^|[=,;:\s\[\"'(])(?:~|\.\.|[A-Za-z]:(?=[\\/])|\\\\|/(?=[^\s/]))[^\s,;\]\"')]*[\\/](?=[^\\/\s])"
)
"""What leads to a file from the root, the home folder, a drive or a folder above; its last part is left."""


def scrubbed(value: Any) -> Any:
    """JSON data of a run record in which absolute paths, and those that lead upwards, are only the name of the file."""
    if isinstance(value, dict):
        return {key: scrubbed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if not isinstance(value, str) or value.startswith(("http://", "https://")):
        return value
    return _PATH.sub(lambda match: match["before"], value)


def check_names(plan: Plan) -> None:
    """Raise `BadSubmission` where a plug-in string holds a path of this machine: it is part of what the records are."""
    for name in {text for c in plan.cells for text in (c.metric, c.defense, c.dataset, c.attack or "")}:
        if _PATH.search(name):
            raise BadSubmission(f"{name!r} names a path of this machine, which nobody else has: verify on a data set "
                                "and with files that are named by relative paths")  # fmt: skip
