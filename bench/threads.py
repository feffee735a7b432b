"""Work on parts of a batch side by side, each part in a thread of its own.

Torch splits each operation among its threads. That leaves cores idle wherever an operation is small, in the drawing of
noise, which takes one thread, and in Python. A thread a part, which computes alone, has none of these waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from .seeds import in_this_mode

P = TypeVar("P")
R = TypeVar("R")

LEAST = 4 * 128 * 128
"""Pixels that a part should have: a network idles on fewer."""

LOOK = 0.2
"""Seconds between two looks at what threads do."""

_HERE = threading.local()


class _Stopped(BaseException):
    """Another part has failed, or the program is interrupted: what this one finds is not asked for any more."""


def may_share(module: nn.Module) -> bool:
    """Whether calls of a module in several threads at once cannot disturb each other.

    Layers of torch keep nothing between calls. Any other class has to say so, in its own body, by `concurrent = True`:
    a subclass may keep what its parent does not. Hooks and replaced methods are taken to keep something.
    """
    return all(_pure(part) for part in module.modules())


def _pure(part: nn.Module) -> bool:
    own, kind = vars(part), type(part)
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    if any(hooks) or "forward" in own:
        return False
    known = kind.__module__.startswith("torch.nn.modules.")  # torch.nn.utils makes classes of those of others
    return bool(own.get("concurrent", vars(kind).get("concurrent", known)))


def helpers(pixels: int, parts: int, *modules: nn.Module) -> int:
    """How many threads to share so many pixels of CPU work among, at most `parts`; 1 where sharing is not safe.

    Autocast belongs to a thread: under one of the caller's all stays in this one.
    """
    most = min(torch.get_num_threads(), parts, pixels // LEAST)
    if most < 2 or torch.is_autocast_enabled("cpu"):
        return 1
    return most if all(may_share(module) for module in modules) else 1


def crew() -> int:
    """How many threads work side by side with this one, itself included: what bounds memory is divided among them."""
    return getattr(_HERE, "crew", 1)


def side_by_side(
    work: Callable[[P], R], parts: Sequence[P], threads: int, look: Callable[[], object] | None = None
) -> list[R]:
    """work(part) of each part, in so many threads, among which torch's are divided; right here if it is one.

    Args:
        work: what is done; it calls `going_on` now and then.
        parts: of what.
        threads: how many are at work at once.
        look: called every `LOOK` seconds meanwhile, in this thread, which waits.

    Raises:
        Exception: an error of a part, or an interruption, once the others have come to their `going_on`.
    """
    if threads == 1:
        return [work(part) for part in parts]
    before, stop = torch.get_num_threads(), threading.Event()
    together = crew() * threads

    each = iter([max(1, before // threads + (k < before % threads)) for k in range(threads)])

    def begin() -> None:
        _HERE.stop, _HERE.crew = stop, together
        torch.set_num_threads(next(each))  # of this thread, and of those made from now on

    def there(part: P) -> R:
        going_on()
        return work(part)

    try:
        with ThreadPoolExecutor(threads, initializer=begin) as executor:
            try:
                futures = [executor.submit(in_this_mode(there), part) for part in parts]
                while wait(futures, LOOK, FIRST_EXCEPTION).not_done and not any(map(_failed, futures)):
                    going_on()
                    if look is not None:
                        look()
            finally:
                stop.set()
    finally:
        torch.set_num_threads(before)
    return _results(futures)


def _failed(future: Future[R]) -> bool:
    return future.done() and future.exception() is not None


def _results(futures: Sequence[Future[R]]) -> list[R]:
    """What came of the parts; raises what went wrong first, not what that stopped."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not isinstance(error, _Stopped):
            raise error
    return [future.result() for future in futures]


def going_on() -> None:
    """Leave the work of this thread if it is not asked for any more."""
    stop: threading.Event | None = getattr(_HERE, "stop", None)
    if stop is not None and stop.is_set():
        raise _Stopped


def shares(count: int, parts: int) -> list[slice]:
    """0 to count cut into parts, none of which is longer than another by more than one."""
    ends = [count * k // parts for k in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(ends)]
