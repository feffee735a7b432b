"""Model cards: what weights are, what they were trained on, the exact command, results and limits."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from ..files import write_atomically
from ..registry import registry
from ..spec import parse_spec
from .evaluate import MetricReport

try:
    import resource
except ImportError:  # Windows
    resource = None

PROCEDURAL = "procedural images (dead leaves, coloured noise, gradients), made by the training itself"


def clive_material(content_hash: str) -> str:
    """The line of a card's data section that says where CLIVE's training images come from."""
    return (
        "CLIVE (LIVE In the Wild, Ghadiyaram & Bovik 2016), training split by image; licence: use, copy, modify and "
        "distribute for any purpose with notice and citation; split recorded in `bench/datasets/splits/clive.csv`; "
        f"content hash `{content_hash}`"
    )


@dataclasses.dataclass(frozen=True)
class Card:
    """The sections of a model card.

    Attributes:
        title: name of the weights.
        purpose: what the network is and is for.
        command: the exact command that trains it.
        data: what it was trained on, with licences and hashes; one entry a line.
        results: tables by heading: column names, then rows.
        limits: what it cannot do; one entry a line.
        notes: further facts about the run.
        licence: of the weights.
    """

    title: str
    purpose: str
    command: str
    data: Sequence[str]
    results: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
    limits: Sequence[str]
    notes: Sequence[str] = ()
    licence: str = "Apache-2.0, as the project"

    def text(self, weights: Path) -> str:
        """The card as Markdown, with digest and size of the weights file."""
        blob = weights.read_bytes()
        facts = [
            f"file: `{weights.name}`, {len(blob):,} bytes, SHA-256 `{hashlib.sha256(blob).hexdigest()}`",
            f"licence: {self.licence}",
            f"trained with torch {torch.__version__}, robustiqa {importlib.metadata.version('robustiqa')}, "
            f"Python {platform.python_version()}",
            *self.notes,
        ]
        parts = [f"# {self.title}", self.purpose, _list(facts), "## Training", f"```\n{self.command}\n```"]
        parts += ["## Data", _list(self.data), "## Results"]
        for heading, (columns, rows) in self.results.items():
            parts += [f"### {heading}", tabulate(rows, headers=list(columns), tablefmt="github", floatfmt=".3f")]
        parts += [] if self.results else ["None measured: no validation set and no photographs were given."]
        parts += ["## Limits", _list(self.limits)]
        return "\n\n".join(parts) + "\n"

    def write(self, weights: Path) -> Path:
        """Write the card beside the weights, with the ending .md; returns its path."""
        card = weights.with_suffix(".md")
        write_atomically(card, self.text(weights).encode())
        return card


def command_line(name: str, config: Any, places: Sequence[str]) -> str:
    """The `robustiqa train` command of a config: every option that is not the default, places as placeholders."""
    words = [f"robustiqa train {name}"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if field.name in ("data_root", "photographs") or (
            field.name in ("data", "validation", "start") and Path(value).exists()
        ):
            words += [f"{flag} {field.name.upper()}"] if value else []
        elif isinstance(value, bool):
            words += [flag if value else f"--no-{flag[2:]}"] if value != field.default else []
        elif field.name not in places and value != field.default:
            words.append(f"{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(words)


def plugin_option(metric: str) -> str:
    """The option that names the file of a metric of one's own, without the path to it."""
    origin = registry.get("metric", parse_spec(metric).name).origin
    return f" --plugin {Path(origin.removeprefix('file ')).name}" if origin.startswith("file ") else ""


def report_tables(report: MetricReport) -> dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    """The tables of a card that hold the figures of `evaluate_metric`."""
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {
        "Human scores (CLIVE, whole images; 95 % bootstrap intervals over images)": (
            ("split", "images", "SROCC", "PLCC", "KROCC", "PLCC after 4-parameter logistic"),
            [[k, v["n"], *(str(v[m]) for m in ("srocc", "plcc", "krocc")),
              v.get("plcc_logistic_reason", v["plcc_logistic"])]
             for k, v in report.human.items()],
        )
    }  # fmt: skip
    if report.n_photographs:
        tables[f"SROCC to level 0-5 on {report.n_photographs} held-out photographs at half size"] = (
            ("distortion", "mean over photographs", "pooled"),
            [[k, str(v), report.level_pooled[k]] for k, v in report.level_per_photo.items()],
        )
        tables["Score change by PGD l_inf 4/255, 20 steps, in units of the range of clean scores"] = (
            list(report.attack),
            [list(report.attack.values())],
        )
    return tables


def training_times(out: str, threads: int) -> str:
    """The note on how long the two stages of a metric's training took, from their logs in the folder `out`."""
    logs = {stage: Path(out) / f"{stage}.csv" for stage in ("synthetic", "mos")}
    times = ", ".join(f"{n} {training_seconds(p) / 60:.1f} min" for n, p in logs.items() if p.exists())
    return f"training time on {threads} CPU thread(s): {times}"


def training_seconds(log: Path) -> float:
    """Seconds of all steps in a training log, also of those before an interruption."""
    total, before = 0.0, 0
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            total += (int(row["step"]) - before) * float(row["seconds_per_step"])
            before = int(row["step"])
    return total


def machine(device: str) -> str:
    """The processor, or the GPU of a torch device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> str:
    """The largest memory that this process has used so far, in words; of the GPU where there is one."""
    if device.type == "cuda":
        return f"peak GPU memory {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB"
    if resource is None:
        return "peak memory not known on this system"
    unit = 1 if platform.system() == "Darwin" else 1024
    return (
        f"peak memory of the last process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB"
    )


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
