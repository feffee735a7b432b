"""The script that measures what the runner costs: equal work each way, and a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import example

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times of a child need /proc")


@pytest.mark.slow
def test_every_way_is_timed(tmp_path: Path) -> None:
    script = example("measure_runner")
    found = script.measure(0.2, 2, tmp_path / "out")
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("bare loop", "inline", "local"), (2, 2)
    )
    header, _, *lines = script.table(found)
    assert header.count("|") == 6
    assert lines[0].endswith("| 1.0000 | 1.0000 |")
