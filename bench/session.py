"""Plug-ins of a session: a notebook, a console, text that was executed. No file holds them.

Cells of a notebook are run again, in any order, after changes. So what decides the results of such a plug-in is told
from what it is when it is asked for: the compiled code of its methods, and everything of the session that this code
names, functions and classes, constants, arrays, networks. What is installed counts by its name, a module of the user's
by the digest of its files, as for a plug-in file.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from .errors import BadPlugin, first_line
from .imports import program_digest, users_file

SESSION = "this session"
"""Where a plug-in comes from that stands in no file."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range, slice)
_SHARED = (tuple, frozenset, CodeType)
"""Kinds of which the compiler makes one object or two as it pleases."""
_HEAP_TYPE = 1 << 9
"""Flag of classes that are made while a program runs."""
_KIND_OF_CODE = 0xFFFF
"""Flags that say how code runs; the others say with which `from __future__` it was compiled."""
_LOOKS_UP = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_UNIMPORTANT = {
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__",
    "__static_attributes__", "__annotate_func__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "_abc_impl",
}  # fmt: skip
"""Entries of a class that decide no result, or say again what its methods say."""


def file_of(names: Mapping[str, Any]) -> Path | None:
    """The file of the module with these globals; None for a session."""
    file = names.get("__file__")
    return Path(file).resolve() if isinstance(file, str) and Path(file).is_file() else None


def name_of(factory: Callable[..., Any]) -> str:
    """What a class or factory is called where it is written."""
    return getattr(factory, "__qualname__", type(factory).__qualname__)


def session_digest(factory: Callable[..., Any], what: str) -> str:
    """Digest of a class or factory and of all that it leans on in the session.

    It is the same in another process of the same Python version.

    Args:
        factory: what builds the plug-in.
        what: the plug-in in words, for the message.

    Raises:
        BadPlugin: it names something whose content cannot be told.
    """
    return _Digest(what).of(factory)


class _Digest:
    """Takes in values of any kind, each once."""

    def __init__(self, what: str) -> None:
        self._what, self._sha = what, hashlib.sha256()
        self._places: dict[int, int] = {}
        self._held: list[object] = []  # an id is an object's only as long as that lives

    def of(self, value: Any) -> str:
        """Start of the digest of a value."""
        self._take(value, "")
        return self._sha.hexdigest()[:16]

    def _say(self, *words: object) -> None:
        self._sha.update(repr(words).encode("utf-8", "surrogatepass"))

    def _take(self, value: Any, path: str) -> None:
        """Take in a value; `path` is how it was reached, as the user would write it."""
        if type(value) in _PLAIN:
            return self._say(type(value).__name__, value)
        if id(value) in self._places:
            return self._say("again", self._places[id(value)])
        if not isinstance(value, _SHARED):
            self._places[id(value)] = len(self._places)
        self._held.append(value)
        exact = _EXACT.get(type(value))
        if exact is not None:
            return exact(self, value, path)
        for kinds, take in _TAKERS.items():
            if isinstance(value, kinds):
                return take(self, value, path)
        return self._take_other(value, path)

    def _take_parts(self, value: Any, path: str, **parts: Any) -> None:
        self._say(type(value).__name__, *parts)
        for part in parts.values():
            self._take(part, path)

    def _take_named(self, found: Mapping[str, Any], path: str) -> None:
        for name, value in sorted(found.items()):
            self._say(name)
            self._take(value, f"{path}.{name}" if path else name)

    def _take_list(self, found: Iterable[Any], path: str) -> None:
        values = list(found)
        self._say(type(found).__name__, len(values))
        for k, value in enumerate(values):
            self._take(value, f"{path}[{k}]")

    def _take_dict(self, found: Mapping[Any, Any], path: str) -> None:
        self._say("dict", len(found))
        for key, value in found.items():
            self._take(key, path)
            self._take(value, f"{path}[{key!r:.40}]")

    def _take_set(self, found: set[Any] | frozenset[Any], path: str) -> None:
        if any(type(one) not in _PLAIN for one in found):
            raise self._unknown(found, path)
        self._say("set", sorted(map(repr, found)))

    def _take_code(self, code: CodeType, path: str) -> None:
        self._say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars,
                  code.co_flags & _KIND_OF_CODE,
                  code.co_argcount, code.co_kwonlyargcount, code.co_exceptiontable)  # fmt: skip
        for constant in code.co_consts:
            self._take(constant, path)

    def _take_function(self, function: FunctionType, path: str) -> None:
        names = function.__globals__
        if self._is_mine(names, function):
            self._take_parts(function, path, code=function.__code__, defaults=function.__defaults__,
                             keywords=function.__kwdefaults__)  # fmt: skip
            self._take_named({name: names[name] for name in _global_names(function.__code__) if name in names}, "")
        # A decorator of a library keeps in its closure what it was put on.
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._take(cell, name)

    def _take_cell(self, cell: CellType, path: str) -> None:
        try:
            self._take(cell.cell_contents, path)
        except ValueError:
            self._say("empty")

    def _take_class(self, found: type, path: str) -> None:
        if not found.__flags__ & _HEAP_TYPE:
            self._say("built-in", found.__module__, found.__qualname__)
        elif self._is_mine(vars(sys.modules.get(found.__module__, ModuleType(found.__module__))), found):
            self._take_parts(found, path, metaclass=type(found), bases=found.__bases__)
            self._take_named({k: v for k, v in vars(found).items() if k not in _UNIMPORTANT}, path or found.__name__)

    def _take_module(self, module: ModuleType, path: str) -> None:
        if self._is_mine(vars(module), module):
            raise self._unknown(module, path)

    def _is_mine(self, names: Mapping[str, Any], value: Any) -> bool:
        """Whether a value of the module with these globals is of the session; if not, it is taken in by its name."""
        module, file = str(names.get("__name__", "")), file_of(names)
        if file is None and (module == "builtins" or module not in sys.builtin_module_names):
            return True
        place = users_file(module, file)
        self._say(module, getattr(value, "__qualname__", ""), program_digest(place) if place else "")
        return False

    def _take_array(self, array: np.ndarray | np.generic, path: str) -> None:
        if array.dtype.hasobject:
            return self._take_parts(array, path, shape=array.shape, values=array.tolist())
        return self._say("array", array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())

    def _take_tensor(self, tensor: torch.Tensor, path: str) -> None:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise self._unknown(tensor, path)
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        self._say("tensor", str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(content).digest())

    def _take_other(self, value: Any, path: str) -> None:
        """Any other object, by what pickle would need to make it again, which is all of it."""
        try:
            made_of = value.__reduce_ex__(4)
        except Exception as error:
            raise self._unknown(value, path, error) from error
        if not isinstance(made_of, str):
            items = [None if part is None else list(part) for part in made_of[3:5]]
            return self._take_list([type(value), *made_of[:3], *items], path)
        inside = getattr(value, "__wrapped__", None)  # of functools.cache, say
        if inside is None and type(value).__module__ not in sys.builtin_module_names:
            raise self._unknown(value, path)
        self._say(made_of)
        return self._take(inside, path)

    def _unknown(self, value: Any, path: str, error: Exception | None = None) -> BadPlugin:
        why = f" ({first_line(error)})" if error else ""
        return BadPlugin(
            f"{self._what} was written in this session and uses {path or 'itself'!r}, a {type(value).__name__} whose "
            f"content cannot be told{why}, so its results could not be told from those of another one: make it a "
            "parameter, or put the plug-in into a file and call `load_plugin(FILE)`"
        )


def _global_names(code: CodeType) -> set[str]:
    """Names that code looks up outside of itself, also in functions and classes within it."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in _LOOKS_UP}
    return found.union(*(_global_names(c) for c in code.co_consts if isinstance(c, CodeType)))


_Taker = Callable[[_Digest, Any, str], None]
_EXACT: dict[type, _Taker] = {
    tuple: _Digest._take_list,
    list: _Digest._take_list,
    dict: _Digest._take_dict,
    MappingProxyType: _Digest._take_dict,
    set: _Digest._take_set,
    frozenset: _Digest._take_set,
}
"""What is done with values of these very kinds; classes derived from them may hold more."""

_TAKERS: dict[Any, _Taker] = {
    CodeType: _Digest._take_code,
    FunctionType: _Digest._take_function,
    CellType: _Digest._take_cell,
    type: _Digest._take_class,
    ModuleType: _Digest._take_module,
    # Methods and slots of built-in classes.
    (BuiltinFunctionType, type(str.join), type(object.__init__), type(FunctionType.__code__),
     type(FunctionType.__globals__)): lambda digest, value, path: digest._say("built-in", value.__qualname__),
    (staticmethod, classmethod): lambda digest, value, path: digest._take_parts(value, path, of=value.__func__),
    MethodType: lambda digest, value, path: digest._take_parts(value, path, of=value.__func__, to=value.__self__),
    property: lambda digest, value, path: digest._take_parts(
        value, path, get=value.fget, set=value.fset, delete=value.fdel
    ),
    functools.partial: lambda digest, value, path: digest._take_parts(
        value, path, of=value.func, values=value.args, named=value.keywords
    ),
    (np.ndarray, np.generic): _Digest._take_array,
    torch.Tensor: _Digest._take_tensor,
}  # fmt: skip
"""What is done with values of these kinds and derived ones; the first that fits."""
