"""What does loading an image cost beside decoding it, and does memory stay flat? Tables in Markdown; Linux.

    python examples/measure_loading.py time FOLDER      CPU time an image: Pillow alone, loading, loading from the cache
    python examples/measure_loading.py memory FOLDER    resident memory over 10,000 loads of the folder's images
    python examples/measure_loading.py run 10000        the same through a whole run over that many small images

Times are of the thread, taken in turns image by image, so that other work on the machine disturbs all alike.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from robustiqa.bench.cache import FOLDER
from robustiqa.bench.images import load_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MOST_TIMED, ROUNDS, LOADS, EVERY = 100, 7, 10_000, 1000


def image_files(folder: Path) -> list[Path]:
    """The folder's images, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def by_pillow(path: Path) -> None:
    """Decode and forget."""
    with Image.open(path) as image:
        image.load()


def uncached(path: Path) -> torch.Tensor:
    """The image as the suite loads it."""
    os.environ.pop(FOLDER, None)
    return load_image(path)


def from_cache(cache: Path) -> Callable[[Path], torch.Tensor]:
    """The same with a cache in that folder."""

    def load(path: Path) -> torch.Tensor:
        os.environ[FOLDER] = str(cache)
        return load_image(path)

    return load


def times(files: list[Path], cache: Path, rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    """CPU milliseconds (rounds * images,) of each way; the cache is full before the clock starts."""
    ways = {"Pillow": by_pillow, "loading": uncached, "loading, cached": from_cache(cache)}
    for path in files:
        if not torch.equal(ways["loading, cached"](path), uncached(path)):
            raise AssertionError(f"{path}: the cache gives other pixels")
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for path in files:
            for name, load in ways.items():
                began = time.thread_time()
                load(path)
                found[name].append(1e3 * (time.thread_time() - began))
    return {name: np.array(values) for name, values in found.items()}


def time_rows(files: list[Path], cache: Path) -> Iterator[list[str]]:
    """The table of times, the header first."""
    found = times(files, cache)
    yield ["", "median, ms", "to Pillow, median of pairs", "images a second"]
    for name, values in found.items():
        ratio = np.median(values / found["Pillow"])
        yield [name, f"{np.median(values):.2f}", f"{ratio:.2f}", f"{1e3 / np.mean(values):.0f}"]


def resident(process: int | str = "self") -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_rows(files: list[Path], cache: Path, loads: int = LOADS, every: int = EVERY) -> Iterator[list[str]]:
    """Resident memory after every so many loads, without and with the cache, the header first."""
    columns = {}
    for name, load in (("loading", uncached), ("loading, cached", from_cache(cache))):
        columns[name] = []
        for count, path in enumerate(islice(cycle(files), loads), start=1):
            load(path)
            if count % every == 0:
                columns[name].append(f"{resident():.0f}")
    yield ["images", *(f"{name}, MB" for name in columns)]
    for k, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield [str(k * every), *values]


def write_images(folder: Path, count: int) -> None:
    """Small images of noise, JPEG and PNG in turns."""
    rng = np.random.default_rng(0)
    for number in range(count):
        array = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{number:06}.{'jpg' if number % 2 else 'png'}")


def run_rows(count: int, folder: Path, parts: int = 10) -> Iterator[list[str]]:
    """Resident memory of `robustiqa run` as it scores and attacks so many images, the header first.

    Raises:
        RuntimeError: the run failed.
    """
    (folder / "images").mkdir()
    write_images(folder / "images", count)
    suite = {
        "name": "loading",
        "metrics": ["tiny-iqa"],
        "datasets": [f"folder[root={folder / 'images'}]"],
        "defenses": ["none", "jpeg"],
        "attacks": [{"attack": "random-noise", "linf": ["4/255"]}],
    }
    (folder / "suite.yml").write_text(json.dumps(suite))  # JSON is YAML
    command = [sys.executable, "-m", "robustiqa.bench.cli", "run", "--suite", str(folder / "suite.yml")]
    command += ["--out", str(folder / "run")]
    yield ["cells", "resident, MB"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = ""
        for line in process.stderr:
            if told := re.match(r"\[(\d+)/(\d+)\]", line):  # a cell is complete
                done, planned = int(told[1]), int(told[2])
                if done == 1 or done % max(1, planned // parts) == 0:
                    yield [f"{done}/{planned}", f"{resident(process.pid):.0f}"]
    if process.returncode:
        raise RuntimeError(f"the run failed: {line.strip()}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    yield ["peak, with the tables", f"{peak:.0f}"]


def main() -> None:
    """Print the table that is asked for."""
    torch.set_num_threads(1)
    if len(sys.argv) != 3 or sys.argv[1] not in ("time", "memory", "run"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sys.argv[1] == "run":
            rows = run_rows(int(sys.argv[2]), folder)
        else:
            files = image_files(Path(sys.argv[2]))
            rows = time_rows(files[:MOST_TIMED], folder) if sys.argv[1] == "time" else memory_rows(files, folder)
        for number, row in enumerate(rows):
            print("| " + " | ".join(row) + " |", flush=True)
            if number == 0:
                print("|" + "---|" * len(row), flush=True)


if __name__ == "__main__":
    main()
