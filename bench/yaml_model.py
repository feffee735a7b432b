"""What a user writes as YAML or as a dict, checked against a pydantic model: one sentence for the first thing wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import RobustIQAError, UnknownName

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that knows all its keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_model(
    content: bytes,
    model: type[Model],
    what: str,
    error: type[RobustIQAError],
    parts: Mapping[str, type[BaseModel]],
    example: str,
) -> Model:
    """The model that YAML text describes.

    Args:
        content: the file as it is.
        model: what it must hold.
        what: the file in words, for messages: "suite 'my.yml'".
        error: class of what is raised for a value that does not fit.
        parts: models of the values below a key, so that an unknown key is met with the nearest one of its own model.
        example: keys that a file has, in words.

    Raises:
        UnknownName: a key that the model does not have.
        RobustIQAError: of the class `error`, for all else.
    """
    try:
        data = yaml.safe_load(content.decode())
    except UnicodeDecodeError as problem:
        raise error(f"{what} is not UTF-8 text ({problem.reason}): save it as UTF-8") from problem
    except yaml.YAMLError as problem:
        raise error(f"{what} is not valid YAML: {' '.join(str(problem).split())}") from problem
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        # PyYAML makes dates and numbers of what looks like them, and lets their errors through.
        raise error(f"{what} has a value that is no date or number but looks like one, or is nested too deeply "
                    f"({type(problem).__name__}: {problem}): put texts in quotes") from problem  # fmt: skip
    return check_model(data, model, what, error, parts, example)


def check_model(
    data: object,
    model: type[Model],
    what: str,
    error: type[RobustIQAError],
    parts: Mapping[str, type[BaseModel]],
    example: str,
) -> Model:
    """The model that plain data describe; arguments and errors as for `read_model`."""
    if not isinstance(data, Mapping):
        raise error(f"{what} holds a {type(data).__name__}: expected keys such as {example}")
    try:
        return model.model_validate(dict(data))
    except ValidationError as problem:
        raise _explain(problem, model, what, error, parts) from problem


def _explain(
    problem: ValidationError,
    model: type[BaseModel],
    what: str,
    error: type[RobustIQAError],
    parts: Mapping[str, type[BaseModel]],
) -> RobustIQAError:
    """The first problem that pydantic found, in our words; of a missing key, what was written in its place."""
    found = problem.errors()
    first = found[0]
    if first["type"] == "missing":  # pydantic names keys that there are not before those that there should not be
        first = next((one for one in found if one["type"] == "extra_forbidden"), first)
    if first["type"] == "extra_forbidden":
        *outer, key = first["loc"]
        names = [part for part in outer if isinstance(part, str)]
        of = parts.get(names[-1], model) if names else model
        known = [field.alias or name for name, field in of.model_fields.items()]
        return UnknownName(f"key in {what}", str(key), known)
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return error(f"{what} has no key {place!r}, which is needed")
    said = first["msg"].removeprefix("Value error, ")  # of a check of ours
    return error(f"{what}, key {place!r}: {said}; given was {reprlib.repr(first['input'])}")
