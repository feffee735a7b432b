"""Text that a spreadsheet takes for text."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
"""What a cell begins with that a spreadsheet runs, or moves to another cell (OWASP, "CSV Injection")."""


def neutralised(value: object) -> object:
    """Text that begins like a formula with an apostrophe before it, as spreadsheets write text; all else as it is.

    Names of plug-ins begin with a letter or a digit, so the key columns of the contract never change; names of images,
    ground truths and messages come from files and may begin with anything. Lines end in a line feed, for which fields
    are quoted: a carriage return is not, and would end the row.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
