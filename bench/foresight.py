"""What a plan can see coming: images that are missing, or too small for a metric or behind a defence.

Only headers of files and declared sizes are looked at, which costs little; what only decoding or scoring shows, the run
finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .api import DefendedMetric, Metric
from .datasets import Dataset
from .errors import BadImage

Line = tuple[str, str]
"""What will fail, and why."""


class Foresight:
    """The images of a data set that will be errors.

    Args:
        name: the data set's canonical string, for the sentences.
        dataset: one whose `image_size` knows them; of others nothing is foreseen.
    """

    def __init__(self, name: str, dataset: Dataset) -> None:
        self._name, self._total = name, len(dataset)
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._bad: list[str] = []
        for index in range(len(dataset)):
            try:
                size = dataset.image_size(index)
            except BadImage as error:
                self._bad.append(str(error))
            else:
                self._sizes.update([size] if size else [])

    def files(self) -> Iterator[Line]:
        """What no metric can use."""
        if self._bad:
            yield self._line(len(self._bad), "", self._bad[0])

    def sizes(self, g: DefendedMetric) -> Iterator[Line]:
        """What is too small for a defended metric; what the metric itself refuses is told once, as that.

        Args:
            g: the defended metric.
        """
        metric = g.metric.spec
        alone = {size: reason for size in self._sizes if (reason := _refused(g.metric, size))}
        behind = {size: reason for size in self._sizes if size not in alone and (reason := _refused(g, size))}
        for refused, what in ((alone, f" for {metric}"), (behind, f" for {g.spec} on {metric}")):
            if refused:
                count = sum(self._sizes[size] for size in refused)
                yield self._line(count, what, refused[min(refused, key=min)])

    def _line(self, count: int, for_what: str, reason: str) -> Line:
        more = f" (the first of {count})" if count > 1 else ""
        return f"{count} of {self._total} images of {self._name}{for_what}", reason + more


def _refused(g: Metric | DefendedMetric, size: tuple[int, int]) -> str:
    """Why a metric refuses a size, or empty."""
    try:
        g.check_takes(*size)
    except BadImage as error:
        return str(error)
    except Exception:  # a plug-in's own fault: its cells will say so, and the others go on
        return ""
    return ""
