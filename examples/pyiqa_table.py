"""Which metrics of pyiqa pass which contract check: writes docs/pyiqa.md.

    python examples/pyiqa_table.py measure pyiqa.json    examine each architecture with random weights; resumes
    python examples/pyiqa_table.py page pyiqa.json       write the page

Nothing is downloaded: what would be is drawn at random (`pyiqa_random`), or stands in a file that this script makes. So
the checks are of the architecture and its code in pyiqa, not of trained weights, and of scores in the declared range
nothing can be said.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from robustiqa.bench import Metric, load_dataset, load_metric
from robustiqa.bench.checks.metric import metric_contract, sameness
from robustiqa.bench.checks.reliability import RULES, Finding
from robustiqa.bench.errors import RobustIQAError
from robustiqa.bench.files import write_json
from robustiqa.bench.metrics.pyiqa.listing import rows
from robustiqa.bench.metrics.pyiqa.package import MANY_IMAGES, declared, names
from robustiqa.bench.registry import registry, version_of
from tabulate import tabulate

SIDE = 64
"""Side of the photographs that an architecture is examined on, or its smallest one."""
CROPS = {"hyperiqa": "num_crop=1", "tres": "test_sample=1", "maniqa": "test_sample=1"}
"""One crop instead of 25, 50 and 20: the checks take some forty forward passes."""
CHECKS = ("irreproducible", "batch-dependent", "size-misdeclared", "input-changed", "metric-drifts", "score-slope")
PAGE = Path(__file__).parents[1] / "docs" / "pyiqa.md"


def measure(path: Path, only: list[str]) -> None:
    """Examine the first metric of each architecture, and keep what came of it."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in only or representatives():
        if name not in found:
            found[name] = examined(name)
            write_json(path, found)
            print(name, found[name], flush=True)


def representatives() -> list[str]:
    """One name for each architecture of one image."""
    first: dict[object, str] = {}
    for name in names():
        if name not in MANY_IMAGES and not why_not(name):
            first.setdefault(declared(name).traits, name)
    return list(first.values())


def examined(name: str) -> dict[str, Any]:
    """The checks of one metric by name: value, verdict; or why it could not be built."""
    began = time.perf_counter()
    options = f"[options={CROPS[name]}]" if name in CROPS else ""
    try:
        metric = load_metric(f"pyiqa-random:{name}{options}")
        side = max(SIDE, 2 * metric.min_size if name == "niqe" else metric.min_size)
        data = load_dataset("photos[size=256,subset=references]")
        x = torch.stack([data.load(i)[:, :side, :side] for i in (0, 1)])
        checks = {f.name: verdict(f) for f in sameness(metric, x) + metric_contract(metric, x[:1])}
        share = zero_share(metric, x[:1])
    except RobustIQAError as error:
        return {"why": str(error)}
    return {"checks": checks, "zero": share, "side": side, "seconds": round(time.perf_counter() - began, 1)}


def verdict(finding: Finding) -> str:
    """`pass`, the value that raised it, or why it was not checked."""
    if finding.skipped:
        return "-"
    return f"**{finding.value:.2g}**" if finding.raised else "pass"


def zero_share(metric: Metric, x: torch.Tensor) -> float:
    """Share of the gradient's entries that are exactly zero; 1 without a gradient."""
    leaf = x.clone().requires_grad_(True)
    score = metric(leaf)
    if not score.requires_grad:
        return 1.0
    return float((torch.autograd.grad(score.sum(), leaf)[0] == 0).double().mean())


def page(found: dict[str, Any]) -> str:
    """The page in Markdown."""
    table = [
        [f"`{name}`", *(r["checks"][c] for c in CHECKS), f"{100 * r['zero']:.0f} %", f"{r['side']}"]
        for name, r in sorted(found.items())
        if "checks" in r
    ]
    headers = ["architecture", *CHECKS, "zero gradient", "side"]
    meanings = [f"- `{name}`: raised if {RULES[name].raised_if}." for name in CHECKS]
    return "\n".join([
        HEAD.format(version=version_of("pyiqa"), torch=version_of("torch")),
        tabulate(table, headers=headers, tablefmt="github"),
        "\nA number is the value that raised a check; `-` was not checked, because there is no gradient. The column\n"
        "\"zero gradient\" is the share of values without one; \"side\" that of the photographs, in pixels.\n",
        *meanings,
        "\n## Every no-reference metric that pyiqa lists\n",
        tabulate([listed(row, found) for row in rows()], headers=LISTED, tablefmt="github"),
        "",
    ])  # fmt: skip


def listed(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line of the list of all."""
    name = row["name"]
    if name in MANY_IMAGES:
        return [f"`{name}`", "", "", "", "", row["why"]]
    traits = declared(name).traits
    same, reason = same_as(name, found), why_not(name)
    state = f"as `{same}`" if same and not reason else f"not examined: {reason or 'not measured yet'}"
    ends = "{:g} to {:g}".format(*row["range"]) if row["range"] else "measured"
    return [
        f"`{name}`", "lower" if row["lower_better"] else "higher", ends,
        f"{row['min_size'] or '?'}" + (f", multiples of {row['multiple']}" if (row["multiple"] or 1) > 1 else ""),
        "yes" if traits.gradient else "none", "; ".join(filter(None, (state, row["note"]))),
    ]  # fmt: skip


def same_as(name: str, found: dict[str, Any]) -> str:
    """The examined metric of the same architecture, or ""."""
    return next((other for other in found if declared(other).traits == declared(name).traits), "")


def why_not(name: str) -> str:
    """Why the architecture was not built for this page, or ""."""
    about = declared(name)
    if about.type == "CFANet" and about.traits.alone:
        return "it takes facexlib's files and photographs of faces"
    if "swin" in str(about.options.get("semantic_model_name", "")):
        return "its Swin backbone was left out"
    if about.options.get("version") == "matlab":
        return "its features are computed in another way"
    if str(about.options.get("backbone", "")).startswith("ViT-L"):
        return NOT_EXAMINED["LAIONAes"]
    return NOT_EXAMINED.get(about.type, "")


NOT_EXAMINED = {
    "AFINE": "its file holds six networks",
    "QAlign": "it needs the package icecream and several gigabytes",
    "QReAlign": "several gigabytes",
    "Compare2Score": "several gigabytes",
    "NRQM": "its file holds random forests",
    "PI": "the file of NRQM holds random forests",
    "ILNIQE": "minutes an image",
    "FGResQ": "its backbone is a repository of the Hugging Face hub",
    "LAIONAes": "CLIP's ViT-L/14 takes 1.7 GB",
    "MACLIP": "pyiqa's code of it needs a CUDA device",
    "PAQ2PIQ": "RoIPool needs torchvision's compiled code, which the machine of this page lacks",
}
"""By class, why it was not built for this page."""
LISTED = ["metric", "better", "range", "smallest side", "gradient", "examined; remarks"]
HEAD = """# Metrics of pyiqa

`pyiqa:NAME` is a metric of [pyiqa](https://github.com/chaofengc/IQA-PyTorch) behind the face of this package: gradients
on and unreduced, evaluation mode whatever an attack does, direction and range as pyiqa declares them, a fixed smallest
size, the image untouched. pyiqa is optional (`pip install 'robustiqa[pyiqa]'`) and under a noncommercial licence.

    robustiqa list metrics --pyiqa            which work here, and why the others do not (seconds; --json, --build)
    robustiqa score photo.png --metric pyiqa:topiq_nr
    robustiqa score photo.png --metric "pyiqa:dbcnn[weights=mine.safetensors]"
    robustiqa score photo.png --metric "pyiqa:tres[options=test_sample=5]"

- **Files.** pyiqa downloads its weights and those of backbones when a metric is first built. Without a network the
  error names each file, its address and its place at once (`HF_HUB_OFFLINE=1`, or the host does not answer within 5 s);
  `robustiqa.bench.metrics.pyiqa.needs.files_of(NAME)` tells them beforehand. pyiqa reads its own files as pickles.
- **Your weights.** `weights=FILE` takes a state dict, read without running code, that has to fit to the last key;
  backbones that it overwrites are not fetched. NIQE, IL-NIQE and NRQM take a `.mat`, BRISQUE its two tensors.
- **Range.** Where pyiqa declares an open end (`pi`), or with `score_range=empirical`, the range is the 1st to 99th
  percentile on `photos[size=256,subset=quick]`, 25 images of the embedded data set, and is said to be measured.
- **No gradient.** Metrics without one, or with one that is zero everywhere, are marked: attacks that need a gradient
  skip them and say so; `square`, `nes` and others that ask for scores work, and `auto-iqa` falls back on them.
- **Randomness.** A network that this package does not know is called twice when it is built, and refused where the
  scores differ: a result that cannot be repeated is none. None of those examined below does so.
- **Command line.** `make test-pyiqa` scores, attacks and certifies a photograph with 16 of the architectures below and
  random weights: 11 from a file given by `weights=FILE`, 3 from `examples/pyiqa_random.py` as a plug-in file, 2 without
  any file (by their scores only). nima, tres and maniqa take longer and are run by `pytest -m "pyiqa and slow"`.

## Contract checks of the architectures

pyiqa {version}, torch {torch}, random weights, nothing downloaded: the checks are of the code, not of trained weights.
`hyperiqa`, `tres` and `maniqa` with one crop. Made by `examples/pyiqa_table.py`.
"""


if __name__ == "__main__":
    command, file, *rest = sys.argv[1:]
    if command == "measure":
        registry.load_file(Path(__file__).with_name("pyiqa_random.py"))
        measure(Path(file), rest)
    else:
        PAGE.write_text(page(json.loads(Path(file).read_text())))
