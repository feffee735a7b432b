"""Whether results are judged on images that something was fitted or chosen on, whatever these are called there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from .api import DefendedMetric
from .datasets import Dataset, load_dataset
from .errors import Absent, BadImage
from .seeds import image_key
from .spec import parse_spec

FLAG = "calibration-seen"
"""Flag of a row of the board that is judged on images which its scale was fitted on."""


class Seen(NamedTuple):
    """Images that were used, by photograph and by content.

    Attributes:
        photographs: data set, as plug-in string -> the references of its images.
        images: digests of all of them (`seeds.image_key`).
    """

    photographs: Mapping[str, Collection[str]]
    images: Collection[str]

    def among(self, name: str, data: Dataset) -> str:
        """How many of the images of a data set these are, in words; empty where there are none.

        Names of photographs are compared within one kind of data set: a crop is another image of the same photograph.

        Args:
            name: plug-in string of the data set.
            data: the data set.
        """
        plugin = parse_spec(name).name
        same = [refs for known, refs in self.photographs.items() if parse_spec(known).name == plugin]
        # Names in folders are anybody's: "1.png" in two of them need not be the same photograph.
        shared = len(references(data) & {r for refs in same for r in refs}) if plugin != "folder" else 0
        if shared:
            return f"{shared} photographs"
        shared = len(set(self.images).intersection(_keys(data)))
        return f"{shared} images" if shared else ""


def seen_of(names: Iterable[str]) -> Seen:
    """All images of some data sets, given as plug-in strings; those that cannot be read are left out."""
    datasets = {name: load_dataset(name) for name in names}
    photographs = {name: sorted(references(data)) for name, data in datasets.items()}
    return Seen(photographs, sorted({key for data in datasets.values() for key in _keys(data)}))


def references(data: Dataset) -> set[str]:
    """Photographs that the images of a data set are made from."""
    return {item.reference for item in data.items}


def _keys(data: Dataset) -> Iterator[str]:
    """Digests of the images that can be read."""
    for index in range(len(data)):
        try:
            yield image_key(data.load(index))
        except BadImage:
            continue


def fitted_on(module: nn.Module) -> list[str]:
    """The data sets that a metric or a defence was fitted on: what any part of it has as `fitted_on`.

    Any module may have this attribute, a tuple of plug-in strings. Weights that were trained elsewhere have none.
    """
    declared = [getattr(part, "fitted_on", None) for part in module.modules()]
    return list(dict.fromkeys(text for texts in declared if isinstance(texts, tuple) for text in texts))


@dataclass(frozen=True)
class Overlap:
    """A line of the board that is judged on images which its scale was fitted on.

    Attributes:
        metric, defense, dataset: canonical plug-in strings, the line.
        calibration: plug-in string of what was fitted on.
        by_defense: whether it is the defence's, not the metric's.
        shared: how many images, in words.
    """

    metric: str
    defense: str
    dataset: str
    calibration: str
    by_defense: bool
    shared: str

    @property
    def sentence(self) -> str:
        """What a user should know of it, and do."""
        what = f"{self.defense} behind {self.metric}" if self.by_defense else self.metric
        return (
            f"{what} is judged on {self.shared} of {self.dataset} that its scale was fitted on ({self.calibration}), "
            "which flatters it: calibrate, or judge, on others, such as those of another split"
        )


class Judge:
    """Finds overlaps; what was fitted on is read once."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._shared: dict[tuple[str, str], str] = {}

    def overlaps(self, g: DefendedMetric, name: str, data: Dataset) -> list[Overlap]:
        """Overlaps of a defended metric with a data set, `name` as plug-in string, that it is judged on.

        Of what was fitted on images that are not on this machine nothing can be said.
        """
        of_metric = fitted_on(g.metric)
        return [
            Overlap(g.metric.spec, g.spec, name, calibration, calibration not in of_metric, shared)
            for calibration in fitted_on(g)
            if (shared := self._between(calibration, name, data))
        ]

    def _between(self, calibration: str, name: str, data: Dataset) -> str:
        if calibration not in self._seen:
            try:
                self._seen[calibration] = seen_of([calibration])
            except Absent:
                self._seen[calibration] = Seen({}, ())
        if (calibration, name) not in self._shared:
            self._shared[calibration, name] = self._seen[calibration].among(name, data)
        return self._shared[calibration, name]
