"""A metric in an ONNX file, run by onnxruntime: an optional package, imported when such a metric is built."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import Absent, BadData, BadScore
from ..files import no_file
from ..registry import register_metric
from .interface import with_interface

INSTALL = "pip install 'robustiqa[onnx]', or '.[onnx]' in a clone"


class _Session(nn.Module):
    """An ONNX graph as a function of images; its result carries no gradient.

    Args:
        session: of onnxruntime, with one input and one output.
    """

    black_box = True

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        (self.input,), (self.output,) = session.get_inputs(), session.get_outputs()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the graph returns for images (B,3,H,W), on their device."""
        # A graph that was exported with a batch of 1 takes no other.
        parts = x.detach().cpu().float().split(1 if self.input.shape[0] == 1 else len(x))
        try:
            found = [self.session.run([self.output.name], {self.input.name: part.numpy()})[0] for part in parts]
        except Exception as error:  # onnxruntime has no base class of its own errors
            raise ValueError(str(error)) from error
        if not all(isinstance(part, np.ndarray) and part.ndim for part in found):
            raise BadScore("the ONNX graph returns no array: expected one score or one row of ratings an image")
        return torch.from_numpy(np.concatenate(found)).to(x)


@register_metric("onnx", packages=("onnxruntime",))
@with_interface
def onnx(path: str) -> nn.Module:
    """A network of your own in an ONNX file, with options for its input and output; black-box only; extra `onnx`.

    onnxruntime gives no gradients: attacks that need one are left out, `square` and the others that see only scores
    run. For the full set bring the network as TorchScript or as a class with weights. Images go through in float32.

    Args:
        path: the file, weights included. See `Interface` for the other parameters.

    Raises:
        Absent: onnx or onnxruntime is not installed.
        BadData: the file is missing or corrupt, keeps its weights elsewhere, or is not a graph of one image input.
        BadParameter: an option is impossible.
    """
    runtime, reader = (_import(name) for name in ("onnxruntime", "onnx"))
    if not Path(path).is_file():
        raise BadData(f"ONNX file {path!r} {no_file(path)}")
    try:
        model = reader.load(path, load_external_data=False)
        outside = any(tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model, reader.TensorProto))
    except Exception as error:  # of protobuf, whose kind depends on its backend
        raise BadData(f"ONNX file {path!r} cannot be read ({_first(error)}): export it again") from error
    if outside:
        # They are not part of the result's id, and a path in the file could lead anywhere.
        raise BadData(f"ONNX file {path!r} keeps weights in other files: export it as a single one (torch.onnx.export "
                      "with external_data=False)")  # fmt: skip
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # its errors are raised as well
    try:
        # The very bytes that were looked at, not what may be there by now.
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadData(f"ONNX file {path!r} cannot be run ({_first(error)}): export it again, perhaps with an older "
                      "opset")  from error  # fmt: skip
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        given = f"{[(i.name, i.type, i.shape) for i in inputs]} to {[o.name for o in outputs]}"
        raise BadData(f"ONNX file {path!r} maps {given}: expected one float32 input (images,3,height,width) and one "
                      "output")  # fmt: skip
    return _Session(session)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Absent(
            f"metrics in ONNX files need the package {error.name!r}, which is not installed: {INSTALL}"
        ) from error


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Every tensor in a message of protobuf, however deep."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part, kind)


def _first(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
