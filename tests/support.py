"""What several tests need: the optimum of the linear metric, and bad images of every kind."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from copies import copied
from PIL import Image
from robustiqa.bench import Metric, Threat


def example(name: str) -> ModuleType:
    """A script of the folder examples, as a module of its own."""
    return script(Path(__file__).parents[1] / "examples" / f"{name}.py")


def script(path: Path) -> ModuleType:
    """A Python file that is no part of the package, as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png16(path: Path) -> Path:
    """A 16-bit RGB PNG, written by hand: Pillow cannot write one, and reads it as 8-bit without a word."""
    width = height = 32
    rows = b"".join(b"\x00" + np.full((width, 3), 30000, ">u2").tobytes() for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def bad_images(folder: Path) -> dict[str, tuple[Path, str]]:
    """Every kind of bad image, with a word that its message must hold."""
    array = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    rgb = Image.fromarray(array, "RGB")
    files = {
        "grey": (rgb.convert("L"), "grey"),
        "rgba": (rgb.convert("RGBA"), "alpha"),
        "palette": (rgb.convert("P"), "palette"),
        "grey16": (Image.fromarray(np.full((32, 32), 30000, np.uint16)), "16-bit"),
        "tiny": (rgb.resize((8, 8)), "8x8"),
    }
    found = {}
    for name, (image, word) in files.items():
        image.save(folder / f"{name}.png")
        found[name] = (folder / f"{name}.png", word)
    found["rgb16"] = (png16(folder / "rgb16.png"), "16-bit")
    rgb.save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    found["cut"] = (folder / "cut.png", "corrupt")
    (folder / "text.png").write_text("not an image")
    found["text"] = (folder / "text.png", "corrupt")
    (folder / "empty.png").touch()
    found["empty"] = (folder / "empty.png", "corrupt")
    found["missing"] = (folder / "missing.png", "does not exist")
    found["folder"] = (folder, "not a file")
    return found


KINDS = ["grey", "rgba", "palette", "grey16", "tiny", "rgb16", "cut", "text", "empty", "missing", "folder"]


def killed_and_whole(command: Callable[[str], list[str]], folder: Path, stage: str) -> set[bytes]:
    """Weights of a training that was killed after its first checkpoint and called again, and of one in one go.

    Args:
        command: words after `robustiqa` that train into a folder of that name.
        folder: where the folders "parts" and "whole" are.
        stage: name of checkpoint and weights.
    """
    with copied(command("parts")) as process:
        until = time.monotonic() + 120
        while not (folder / "parts" / f"{stage}.pt").exists() and time.monotonic() < until:
            time.sleep(0.005)
        process.send(signal.SIGKILL)
        process.wait()
    assert not (folder / "parts" / f"{stage}.safetensors").exists(), "killed before the end"
    for out in ("parts", "whole"):
        with copied(command(out)) as process:
            assert process.wait() == 0, process.said
            assert ("continuing after step" in process.said) == (out == "parts")
    return {(folder / out / f"{stage}.safetensors").read_bytes() for out in ("parts", "whole")}


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch in the block; tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def small_file_system(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A tmpfs at a new folder; skips the test where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        why = made.stderr.strip() if made.returncode else ""
    except OSError as error:
        why = str(error)
    if why:
        pytest.skip(f"no tmpfs can be mounted here: {why}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def optimum(metric: Metric, x: torch.Tensor, threat: Threat) -> float:
    """Largest change of a linear metric's score, if the box does not bind."""
    w = metric.module.weights(x).double()  # type: ignore[operator]
    return threat.eps * float(w.norm() if threat.norm == "l2" else w.abs().sum())
