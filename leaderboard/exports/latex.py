"""A table as LaTeX with booktabs, ready to be `\\input` in a paper."""

from __future__ import annotations

import re

import pandas as pd

from .shown import Shown, blocks, field, is_number

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
}  # fmt: skip

_FITTED = r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""What makes a table narrower that is wider than the column or the page."""


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, and never runs: letters beyond ASCII by their code, as U+00E9.

    Quotation marks and the like need `textcomp` and T1 fonts, which the table's first lines ask for. Brackets are put
    in braces, since one at the start of a row would be an option of the line break before it.
    """
    found = []
    for letter in re.sub(r"[\s\x00-\x1f\x7f]+", " ", text):
        if letter in "[]":
            found.append("{" + letter + "}")
        else:
            found.append(_SPECIAL.get(letter, letter) if letter.isascii() else f"{{[}}U+{ord(letter):04X}{{]}}")
    return re.sub("-(?=-)", "-{}", "".join(found))  # two hyphens would be a dash


def latex(frame: pd.DataFrame, shown: tuple[Shown, ...], table: str) -> str:
    """A `table` environment for each block of rows (track, metric, data set), with caption and label.

    Remarks are left out where there are none, and tables too wide for the column are made smaller.
    """
    lines = [r"% \usepackage{booktabs}, \usepackage{graphicx}, \usepackage{textcomp}, \usepackage[T1]{fontenc}"]
    for number, (head, part) in enumerate(blocks(frame, shown), start=1):
        rows = [{str(k): str(v) for k, v in row.items()} for row in part.to_dict("records")]
        columns = [one for one in shown if not one.remark or any(field(row, one) != "-" for row in rows)]
        align = "".join("r" if is_number(one, rows) else "l" for one in columns)
        title = ", ".join(escaped(text) for text in head.values()) or escaped(table)
        lines += [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{title}}}",
            rf"  \label{{tab:{table}-{number}}}",
            _FITTED,
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            "    " + " & ".join(escaped(one.header) for one in columns) + r" \\",
            r"    \midrule",
            *("    " + " & ".join(_cell(field(row, one)) for one in columns) + r" \\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A field: negative numbers with a minus sign."""
    if text == "-":
        return "--"
    return re.sub(r"(?<![\w.])-(?=[\d])|^-(?=inf$)", "$-$", escaped(text))
