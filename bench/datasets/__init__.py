"""Data sets: the embedded photographs, a folder of one's own, and the field's."""

from __future__ import annotations

from ..errors import BadData, BadPlugin
from ..registry import registry
from .base import Dataset, Item

__all__ = ["Dataset", "Item", "load_dataset"]


def load_dataset(text: str) -> Dataset:
    """Build the data set of a plug-in string.

    Raises:
        UnknownName, BadParameter: no such data set or parameter.
        Absent: its files are not on this machine.
        BadData: its files are damaged.
        BadPlugin: its factory does not return a `Dataset`.
    """
    plugin, spec, parameters = registry.resolve("dataset", text)
    dataset = plugin.factory(**parameters)
    if not isinstance(dataset, Dataset):
        raise BadPlugin(f"data set {spec.name!r} gives a {type(dataset).__name__}: expected a robustiqa Dataset")
    ids = [item.id for item in dataset.items]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise BadData(f"data set {spec.name!r} has two images with the id {twice!r}: ids must differ")
    return dataset
