"""CSV text that a spreadsheet takes for text and numbers."""

from __future__ import annotations

import pandas as pd

SIGNIFICANT = 6
"""Digits in the CSV files: enough for any comparison, few enough to be the same on machines that compute alike."""

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


def csv_text(table: pd.DataFrame) -> str:
    """CSV text that no spreadsheet runs; eps is a key that people join on, so it keeps all its digits."""
    exact = {str(name): table[name].map(neutralised) for name in table if table[name].dtype.kind not in "biuf"}
    exact |= {"eps": table["eps"].map(repr)} if "eps" in table else {}
    return table.assign(**exact).to_csv(index=False, float_format=f"%.{SIGNIFICANT}g", lineterminator="\n")
