"""Options of a metric's constructor that a plug-in string may set: numbers, switches, and pyiqa's words for weights."""

from __future__ import annotations

from typing import Any

from ...errors import BadParameter, UnknownName
from ...spec import Value, parse_list, parse_value
from .package import Declared, module_of, parameters

_CHOOSES_WEIGHTS = ("pretrained", "train_dataset", "regressor_dataset")
"""Options whose value is a key of pyiqa's table of weights, such as the data set that they were trained on."""


def parse_options(about: Declared, text: str) -> dict[str, Value]:
    """`test_sample=5;scale=0.8` to options of the network's class.

    Strings are left out on purpose, since they name files, repositories and code to load; only the word for one of
    pyiqa's own weights is taken: `pretrained=livec` of dbcnn.

    Raises:
        UnknownName: the network has no such option.
        BadParameter: it cannot be set from here, or not to this value.
    """
    known = parameters(about) if text else {}
    found: dict[str, Value] = {}
    for part in filter(None, parse_list(text)):
        key, equals, value = part.partition("=")
        if not equals:
            raise BadParameter(f"pyiqa:{about.name}[options={text}]: cannot read {part!r}, expected option=value with "
                               "; between several")  # fmt: skip
        key = key.strip()
        if key not in known:
            raise UnknownName(f"option of pyiqa:{about.name}", key, known)
        found[key] = _checked(about, key, parse_value(value), known[key])
    return found


def _checked(about: Declared, key: str, value: Value, default: Any) -> Value:
    given = f"pyiqa:{about.name}[options={key}={value}]"
    if key in _CHOOSES_WEIGHTS:
        words = sorted(module_of(about).default_model_urls)
        if value not in words:
            raise BadParameter(f"{given}: expected one of pyiqa's weights, {', '.join(words)}")
        return value
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int | float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits &= not (isinstance(default, int) and isinstance(value, float))
    else:
        raise BadParameter(f"{given}: {key} cannot be set here: numbers and switches can, what names files or code not")
    if not fits:
        raise BadParameter(f"{given}: expected a {type(default).__name__}, as its default {default}")
    return value
