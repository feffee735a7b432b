"""What a run shows while it goes on: a bar on a terminal and in a notebook, a line a cell otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from .executors.bundles import weight
from .plan import Cell
from .terminal import printable

_COLUMNS = 110
"""Width of the bar in a notebook, which does not say its own."""

_PATIENCE = 0.5
"""Seconds between two states of the bar in a notebook."""


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h, 2.1 days."""
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.{1 if name == 'h' else 0}f} {name}"
    return f"{seconds / 86_400:.1f} days"


class Display:
    """Shows the events of workers; it may be called from one thread at a time.

    Args:
        planned: all cells of the plan.
        todo: those of them that are to be computed.
        progress: show anything but failures.
        cost: expected cost of a cell in any unit, for the time left.
    """

    def __init__(
        self, planned: int, todo: Sequence[Cell], progress: bool, cost: Callable[[Cell], float] = weight
    ) -> None:
        # What a notebook shows is no terminal, but goes back to the beginning of a line as one does.
        notebook = type(sys.stderr).__module__.split(".")[0] == "ipykernel"
        self._terminal = progress and (notebook or sys.stderr.isatty())
        self._progress, self._planned, self._done = progress, planned, planned - len(todo)
        self._costs = {cell.id: cost(cell) for cell in todo}
        self._all = sum(self._costs.values())
        self._began = time.monotonic()
        self._bar = tqdm(
            total=planned,
            initial=self._done,
            unit="cell",
            disable=not self._terminal,
            dynamic_ncols=not notebook,
            ncols=_COLUMNS if notebook else None,
            mininterval=_PATIENCE if notebook else 0.1,
        )
        self._notebook, self._shown = notebook, 0.0
        if progress and self._done:
            self.say(f"resuming: {self._done} of {planned} cells are complete")

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """A line on stderr that does not tear the bar."""
        text = printable(text)
        if self._terminal:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def __call__(self, event: dict[str, Any]) -> None:
        """Show an event of a worker's log."""
        kind, label = event["event"], event.get("label", "")
        if kind == "start":
            self._bar.set_description(printable(label, lines=False), refresh=False)
            self._tell("")
        elif kind == "progress":
            self._tell(printable(event["text"], lines=False))
        elif kind == "retry":
            self.say(f"once more: {label}: {event['error']}")
        elif kind in ("done", "failed") and event["cell"] in self._costs:
            left = self._left(event["cell"])
            if kind == "failed":
                self.say(f"FAILED {label}: {event['error']}")
            self._bar.set_postfix_str(left, refresh=False)
            self._bar.update()
            if self._progress and not self._terminal:
                self.say(f"[{self._done}/{self._planned}] {label} ({event['seconds']:.1f} s){left and ', '}{left}")

    def _tell(self, text: str) -> None:
        """Show a text behind the bar; in a notebook now and then, since its file keeps all that was ever shown."""
        now = time.monotonic()
        soon = self._notebook and now - self._shown < _PATIENCE
        self._bar.set_postfix_str(text, refresh=not soon)
        self._shown = self._shown if soon else now

    def _left(self, cell: str) -> str:
        """Count a cell as done; how long the others will take."""
        self._done += 1
        self._costs.pop(cell)
        left = sum(self._costs.values())
        if not left:
            return ""
        elapsed = time.monotonic() - self._began
        return f"about {duration(elapsed * left / (self._all - left))} left"
