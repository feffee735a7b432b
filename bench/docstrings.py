"""What a class says about itself: the running text of its docstring, and its sections of names."""

from __future__ import annotations

import inspect
import re
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):\n", re.M)


def running_text(what: Any) -> str:
    """The docstring of a class or function without its sections, paragraphs as written; "" if it has none."""
    text = inspect.cleandoc(what.__doc__ or "")
    return _SECTION.split(text, maxsplit=1)[0].strip()


def described(what: Any, section: str) -> dict[str, str]:
    """The lines below `Args:` or `Attributes:` in a docstring and in those of the classes it extends, by name."""
    texts: dict[str, str] = {}
    for part in reversed(getattr(what, "__mro__", (what,))):
        lines = inspect.cleandoc(part.__doc__ or "").partition(f"{section}:\n")[2]
        found = re.finditer(r"^    (\w+): ((?:.+\n?)(?: {8}.+\n?)*)", lines, re.M)
        texts |= {m[1]: " ".join(m[2].split()) for m in found}
    return texts
