"""Tables as text: Markdown, LaTeX, and CSV in which no spreadsheet finds a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from densebench.results.tables import Table

TEX = str.maketrans({
    "|": r"$|$",
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
})  # fmt: skip

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what makes spreadsheets compute a cell


def markdown_table(table: Table) -> str:
    """Return the caption, the table and the notes; the best values are bold."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    columns = list(table.cells.columns)
    rows = [[f"**{cell}**" if top else cell for cell, top in zip(*row, strict=True)] for row in table.rows()]
    lines = [f"**{table.caption}**", "", line(columns), line(["---"] * len(columns)), *map(line, rows)]
    return "\n".join([*lines, *(text for note in table.notes for text in ("", note))])


def latex_table(table: Table) -> str:
    """Return a `table` that needs the package booktabs; the best values are bold."""

    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    rows = [
        line([rf"\textbf{{{cell.translate(TEX)}}}" if top else cell.translate(TEX) for cell, top in zip(*row, strict=True)])
        for row in table.rows()
    ]
    over = [rf"\multicolumn{{{span}}}{{l}}{{{group.translate(TEX)}}}" for group, span in table.heads()]
    head = line([name.translate(TEX) for name in table.headings()])
    body = [r"\toprule", *([line(over)] if over else []), head, r"\midrule", *rows, r"\bottomrule"]
    open_, close = rf"\begin{{tabular}}{{{'l' * len(table.cells.columns)}}}", r"\end{tabular}"
    caption = rf"\caption{{{table.caption.translate(TEX)}}}"
    notes = [rf"\par {note.translate(TEX)}" for note in table.notes]
    return "\n".join([r"\begin{table}", caption, open_, *body, close, *notes, r"\end{table}"])


def csv_text(frame: pd.DataFrame) -> str:
    """Return a frame as CSV without its index, in which no cell is a formula to a spreadsheet.

    An apostrophe is put before texts and headings that begin with = + - @, a tab or a carriage return; numbers stay as they are.
    """
    columns = {name: pd.Series([_inert(cell) for cell in column], dtype=column.dtype) for name, column in frame.items()}
    return pd.DataFrame(columns).rename(columns=_inert).to_csv(index=False)


def _inert(cell: Any) -> Any:
    """Return a cell, with an apostrophe before it if a spreadsheet would compute it."""
    if not isinstance(cell, str):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.startswith(FORMULAS) else cell
    return cell
