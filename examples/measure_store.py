"""How the store and the tables fare with many cells: a made-up run of any size, measured in processes of their own.

    python examples/measure_store.py --cells 100000 --out /tmp/many

makes the run (some minutes; it is kept, and used again), and prints wall and CPU seconds and the peak memory of:
reading the plan and listing what is there, as `robustiqa status` does; verifying every result, as a resumed run does;
and `robustiqa collect`. Some seconds of each are Python's imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from robustiqa.bench.plan import Cell, Plan, write_plan
from robustiqa.bench.records import SUFFIX, encode
from robustiqa.bench.store import SCHEMA_VERSION, Store
from robustiqa.bench.suite import Suite

DEFENSES, ATTACKS, CHUNK, IMAGES = 10, 6, 8, 1000
EPS = (0.05, 0.12)

ACTIONS = {
    "list": """
        store = Store(root)
        plan = read_plan(store)
        ids = [cell.id for cell in plan.cells]
        print(len(store.completed(ids, verify=False)), "of", len(ids), "cells,", len(store.failed(ids)), "failed")
    """,
    "verify": """
        store = Store(root)
        plan = read_plan(store)
        print(len(store.todo([cell.id for cell in plan.cells])), "to do")
    """,
    "collect": """
        from robustiqa.leaderboard import collect
        print(len(collect(root)), "files")
    """,
}
"""What is measured, as code: each runs in a process of its own."""

_HEAD = """
        import sys
        from robustiqa.bench.plan import read_plan
        from robustiqa.bench.store import Store
        root = sys.argv[1]
"""


def cells(count: int) -> Iterator[Cell]:
    """Cells of metrics behind ten defences on 1000 images: scores, certificates, six attacks, in chunks of 8."""
    made = 0
    for m in range(count):
        for d in range(DEFENSES):
            base = {
                "metric": f"metric-{m}",
                "defense": f"defense-{d}" if d else "none",
                "dataset": "made-up",
                "seed": 0,
            }
            jobs: list[dict[str, Any]] = [
                {"kind": "score"},
                {"kind": "certify", "norm": "l2", "eps": EPS, "alpha": 0.001},
            ]
            jobs += [
                {"kind": "attack", "attack": f"attack-{a}", "norm": "linf", "eps": (4 / 255,), "direction": "up"}
                for a in range(ATTACKS)
            ]
            for j, job in enumerate(jobs):
                for start in range(0, IMAGES, CHUNK):
                    if made == count:
                        return
                    made += 1
                    name = f"{job['kind']}-{base['metric']}-{base['defense']}-{j}-{start}-{made:016x}"
                    yield Cell(**base, **job, start=start, stop=start + CHUNK, id=name)


def rows(cell: Cell, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of a cell with all columns that its kind has."""
    shared: dict[str, Any] = {
        "cell": cell.id, "kind": cell.kind, "metric": cell.metric, "defense": cell.defense, "dataset": cell.dataset,
        "truth_name": "made-up", "lower_better": False, "randomised": True, "bounded": False, "status": "ok",
        "height": 128, "width": 128,
    }  # fmt: skip
    found = []
    for image in range(cell.start, cell.stop):
        one = shared | {"image": f"photo-{image // 5}/version-{image}", "reference": f"photo-{image // 5}"}
        one["truth"] = float(np.sin(image))
        clean = float(np.sin(image) + 0.3 * np.cos(7.3 * image))  # one score an image, whatever the cell
        if cell.kind == "score":
            found.append(one | {"clean": clean, "clean_lo": clean - 0.1, "clean_hi": clean + 0.1})
        elif cell.kind == "attack":
            gain = float(rng.exponential())
            numbers = (
                "attacked",
                "attacked_lo",
                "attacked_hi",
                "attacked_8bit",
                "attacked_8bit_lo",
                "attacked_8bit_hi",
            )
            found.append(
                one | dict.fromkeys(numbers, clean + gain)
                | {"attack": cell.attack, "norm": cell.norm, "eps": cell.eps[0], "direction": cell.direction,
                   "clean": clean, "clean_lo": clean, "clean_hi": clean, "gain": gain, "gain_8bit": gain,
                   "linf": 4 / 255, "l2": 3.0, "psnr": 36.0, "ssim": 0.95, "seconds": float(rng.exponential()),
                   "forwards": 100, "backwards": 50, "queries": 0}
            )  # fmt: skip
        else:
            for kind in ("population", "deployed"):
                slope = 1 + float(rng.exponential())
                for eps in cell.eps:
                    width = eps * slope
                    found.append(
                        one | {"certificate": kind, "certified_norm": "l2", "eps": eps, "n": 1000, "alpha": 0.001,
                               "sigma": 0.12, "score": clean, "spread": 0.1, "lo": clean - width, "hi": clean + width,
                               "family_lo": clean - 2 * width, "family_hi": clean + 2 * width, "coverage": "pointwise"}
                    )  # fmt: skip
    return found


def make(root: Path, count: int) -> None:
    """Write a run of that many cells; without a sync a file, which is all that this leaves out."""
    store, rng = Store(root), np.random.default_rng(0)
    store.create()
    plan = Plan(tuple(cells(count)), ())
    for cell in plan.cells:
        (store.cells / f"{cell.id}{SUFFIX}").write_bytes(encode(rows(cell, rng)))
    names = {key: list(dict.fromkeys(getattr(c, key) for c in plan.cells)) for key in ("metric", "defense")}
    suite = Suite(
        name="made-up", metrics=tuple(names["metric"]), defenses=tuple(names["defense"]), datasets=("made-up",)
    )
    record = {"schema": SCHEMA_VERSION, "suite": suite.model_dump(mode="json", by_alias=True)}
    (root / "run.json").write_text(json.dumps(record))
    write_plan(root, plan)


def measure(action: str, root: Path) -> dict[str, Any]:
    """Wall and CPU seconds and peak memory in MB of a process that does it."""
    code = "\n".join(line[8:] for line in (_HEAD + ACTIONS[action]).splitlines())
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code += "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *said, peak = done.stdout.split("\n")[:-1]
    return {
        "wall": time.perf_counter() - wall,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": int(peak) / 1024,
        "said": " ".join(said),
    }


def main() -> None:
    """Make the run unless it is there, measure, print a line an action."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(ACTIONS), action="append", help="measure this only; repeatable")
    arguments = parser.parse_args()
    if not (arguments.out / "run.json").exists():
        make(arguments.out, arguments.cells)
    for action in arguments.only or ACTIONS:
        found = measure(action, arguments.out)
        times = f"{found['wall']:7.1f} s wall {found['cpu']:7.1f} s CPU"
        print(f"{action:8} {times} {found['peak_mb']:7.0f} MB  {found['said']}")


if __name__ == "__main__":
    main()
