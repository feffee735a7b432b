"""Plug-in strings: `name` or `name[k=v,k=v]`, parsed, checked against a signature and written canonically.

A value may hold plug-in strings itself, with `;` between them: `chain[steps=jpeg[quality=50];gaussian-blur]`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import BadParameter, UnknownName

Value = bool | int | float | str | None
_NAME = re.compile(r"[a-z0-9]+(?:[-.:][a-zA-Z0-9_+]+)*")
_SPEC = re.compile(r"(?P<name>[^\[\]\s]+)(?:\[(?P<params>.*)\])?", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a finite number", "bool": "true or false"}
_WORDS: dict[str, Value] = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True)
class Spec:
    """A plug-in name with the parameters that were given for it."""

    name: str
    params: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the canonical string: parameters sorted by name."""
        if not self.params:
            return self.name
        inner = ",".join(f"{k}={format_value(v)}" for k, v in sorted(self.params.items()))
        return f"{self.name}[{inner}]"


def format_value(value: Value) -> str:
    """Write a parameter value so that `parse_value` reads the same value back."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def parse_value(text: str) -> Value:
    """Read a bool, none, int, float or, failing these, a string."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_spec(text: str) -> Spec:
    """Parse `name[k=v,k=v]`; raises `BadParameter` with the expected form when it cannot be read."""
    match = _SPEC.fullmatch(text.strip())
    if match is None or not _NAME.fullmatch(match["name"]):
        raise BadParameter(f"cannot read plug-in string {text!r}: expected name or name[key=value,key=value]")
    params: dict[str, Value] = {}
    for part in filter(None, _outside_brackets(match["params"] or "", ",")):
        key, eq, value = part.partition("=")
        if not eq or not key.strip().isidentifier():
            hint = "; between the names of a list stands ';', not ','" if params else ""
            raise BadParameter(f"cannot read {part!r} in {text!r}: expected key=value{hint}")
        if key.strip() in params:
            raise BadParameter(f"parameter {key.strip()!r} is given twice in {text!r}")
        parsed = parse_value(value)
        # What would not be written back alike ("007", "1e3") stays text until `bind` knows the parameter's type.
        params[key.strip()] = parsed if format_value(parsed) == value.strip() else value.strip()
    return Spec(match["name"], params)


def parse_list(text: str) -> list[str]:
    """The parts of a value that names several things, with `;` between them; commas and `;` inside brackets stay."""
    return _outside_brackets(text, ";")


def _outside_brackets(text: str, separator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:])]


def bind(spec: Spec, factory: Callable[..., Any], skip: int = 0) -> dict[str, Value]:
    """Check a spec's parameters against a factory's signature and fill in its defaults.

    Args:
        spec: the parsed plug-in string.
        factory: class or function whose parameters, after the first `skip`, the string may set.
        skip: leading arguments that the suite supplies itself (for a defence: the metric).

    Returns:
        every parameter with its value, given or default, numbers cast to the annotated type.

    Raises:
        UnknownName: a parameter that the factory does not have.
        BadParameter: a required parameter that is missing, or a value of the wrong type.
    """
    accepted = dict(list(inspect.signature(factory).parameters.items())[skip:])
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    # A parameter called `class_`, because `class` is a word of Python, is written without the underscore.
    accepted = {k.removesuffix("_"): p for k, p in accepted.items() if p.kind in kinds}
    for key in spec.params:
        if key not in accepted:
            raise UnknownName(f"parameter of {spec.name!r}", key, accepted)
    bound: dict[str, Value] = {}
    for key, parameter in accepted.items():
        if key in spec.params:
            bound[parameter.name] = _cast(spec, key, spec.params[key], str(parameter.annotation), parameter.default)
        elif parameter.default is parameter.empty:
            raise BadParameter(f"{spec.name!r} needs the parameter {key!r}: write {spec.name}[{key}=...]")
        else:
            bound[parameter.name] = parameter.default
    return bound


def _cast(spec: Spec, key: str, value: Value, annotation: str, default: Any) -> Value:
    """Cast to the annotated type where that loses nothing; otherwise say which type was expected."""
    annotation = {"<class 'int'>": "int", "<class 'float'>": "float", "<class 'bool'>": "bool"}.get(
        annotation, annotation
    )
    if value is None and (default is None or "None" in annotation):
        return None
    if isinstance(value, str) and annotation.startswith(("int", "float", "bool")):
        value = parse_value(value)
    if annotation.startswith("float"):
        ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if ok:
            return float(value)  # type: ignore[arg-type]
    elif annotation.startswith("int"):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif annotation.startswith("bool"):
        if isinstance(value, bool):
            return value
    else:
        return value if isinstance(value, str) or "str" not in annotation else format_value(value)
    kind = _KINDS[annotation.split(" ")[0]]
    example = "" if default in (None, inspect.Parameter.empty) else f", such as the default {format_value(default)}"
    raise BadParameter(f"{spec.name}[{key}={format_value(value)}]: {key} must be {kind}{example}")
