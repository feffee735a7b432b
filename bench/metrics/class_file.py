"""A metric as many repositories publish one: a Python file with the network's class, and its weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..errors import BadParameter, BadPlugin, RobustIQAError, UnknownName
from ..foreign_weights import load_foreign
from ..imports import import_advice
from ..registry import register_metric, registry
from .interface import with_interface


@register_metric("module")
@with_interface
def module(file: str, class_: str, weights: str = "", key: str = "", prefix: str | None = None) -> nn.Module:
    """A class of your own in a Python file with weights in another, with options for its input and output.

    The Python file is run. So a suite alone cannot name one, see `--trust`. Of the weights only tensors are read.

    Args:
        file: the Python file; what it imports has to be installed, or on PYTHONPATH.
        class_: name of an `nn.Module` class in it, or of a function that returns one; called without arguments.
        weights: .safetensors, or what `torch.save(net.state_dict(), FILE)` writes; empty for a network without any.
        key: where in the file of weights the table of tensors is, such as state_dict or params; empty finds the only
            one.
        prefix: what stands before all names in it, such as "module."; none finds it. See `Interface` for the other
            parameters.

    Raises:
        BadPlugin: nobody but a suite names the file, it fails, or the class is not what is expected.
        BadData: the weights are missing, corrupt, or of another network.
        BadParameter: weights are missing or too many, or an option is impossible.
    """
    held = registry.module_of(file)
    made = getattr(held, class_, None)
    if not callable(made):
        known = [name for name, value in vars(held).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise UnknownName(f"class of {file!r}", class_, known)
    try:
        net = made()
    except RobustIQAError:
        raise
    except Exception as error:
        advice = import_advice(Path(file), error) or (
            ": write a function in the file that returns it, and give its name as class"
        )
        raise BadPlugin(
            f"{class_} of {file!r} cannot be built without arguments ({type(error).__name__}: {error}){advice}"
        ) from error
    if not isinstance(net, nn.Module):
        raise BadPlugin(f"{class_} of {file!r} gives a {type(net).__name__}: expected a torch.nn.Module")
    if weights:
        return load_foreign(net, weights, key, prefix)
    if net.state_dict():
        raise BadParameter(f"module[class={class_}] has parameters: give their values with weights=FILE; a network "
                           "that reads its own is a plug-in of the ordinary kind (register_metric)")  # fmt: skip
    return net
