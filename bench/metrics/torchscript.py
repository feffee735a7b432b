"""A metric in a TorchScript file: the network with its code, without the Python that it was written in."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BadData, BadParameter, first_line
from ..files import no_file
from ..registry import register_metric
from ..trust import check_trusted
from .interface import with_interface

_EXPORTED = {".pt2": "torch.export", ".onnx": "ONNX: use onnx[path=FILE]", ".safetensors": "weights without a network"}

_TRAINS = {
    **dict.fromkeys(("dropout", "dropout_", "feature_dropout", "alpha_dropout"), ("", "", "train")),
    "batch_norm": ("", "", "", "running", "", "train"),
}
"""Operators that do something else in training, and what their inputs are."""


class _Plain(nn.Module):
    """A script module run as it is written: nothing is fused or rewritten after some calls."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network returns."""
        # Otherwise the first calls are watched and later ones optimised for what was seen: scores may then change in
        # the last bits from one call to the next.
        with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            return self.script(x)


@register_metric("torchscript")
@with_interface
def torchscript(path: str) -> nn.Module:
    """A network of your own in a TorchScript file, with options for its input and output.

    A TorchScript file is a program, though not Python: it can read and write files. Run only what you trust. So a suite
    alone cannot make one run, see `--trust`. What `torch.export` writes (.pt2) is not read: to load it, torch evaluates
    text in it and falls back on unrestricted pickles, so it could run anything before anyone sees what.

    Args:
        path: what `torch.jit.script` or `torch.jit.trace` saved. See `Interface` for the other parameters.

    Raises:
        BadData: the file is missing or is no TorchScript.
        BadPlugin: nobody but a suite names the file.
        BadParameter: an option is impossible, or the file is of another kind.
    """
    file = Path(path)
    if other := _EXPORTED.get(file.suffix):
        raise BadParameter(f"torchscript[path={path}]: expected TorchScript, as torch.jit.save writes; this is {other}")
    if not file.is_file():
        raise BadData(f"TorchScript file {path!r} {no_file(path)}")
    check_trusted(file, "a TorchScript file")
    if not _is_archive(file):
        raise BadData(f"TorchScript file {path!r} is cut off or something else: expected what torch.jit.save writes")
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated for new work; this is about networks that exist.
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise BadData(
            f"TorchScript file {path!r} cannot be read ({first_line(error)}): expected what torch.jit.save writes; for "
            "weights of a Python class use module[file=FILE.py,class=NAME,weights=FILE]"
        ) from error
    if step := _trained(script):
        raise BadData(f"TorchScript file {path!r} was traced in training mode ({step}), which cannot be undone: scores "
                      "would be random, or those of the batch; call net.eval(), trace and save it again")  # fmt: skip
    return _Plain(script)


def _is_archive(file: Path) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _trained(script: torch.jit.ScriptModule) -> str:
    """The first step that tracing froze in training mode, or "": a script asks the module's mode each time instead."""
    graph: Any = script.inlined_graph  # its nodes live as long as it does
    for kind in _TRAINS:
        for node in graph.findAllNodes(f"aten::{kind}", recurse=True):
            inputs = {name: value for name, value in zip(_TRAINS[kind], node.inputs(), strict=False) if name}
            # A batch norm that keeps no statistics takes those of the batch in either mode: that is its design.
            kept = "running" not in inputs or inputs["running"].node().kind() != "prim::Constant"
            if inputs["train"].toIValue() is True and kept:
                return kind
    return ""
