"""Tables as Markdown, CSV, LaTeX and HTML, all from the same frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densebench.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

    from densebench.results.leaderboard import Leaderboard, Table

TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
})  # fmt: skip

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what makes spreadsheets compute a cell

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>densebench leaderboard</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; }
section { overflow-x: auto; margin: 0 0 2.5rem; }
section.published { color: #4c5866; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; white-space: normal; padding: 0 0 .5rem; font-weight: 600; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #dde3ea; }
thead th { border-bottom: 2px solid #8894a3; }
</style>
</head>
<body>
<h1>densebench leaderboard</h1>
{% for kind, tables in blocks if tables %}
<h2>{{ kind }}</h2>
{% for table in tables %}
<section class="{{ kind|lower }}">
<table>
<caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.cells.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells, best in table.rows() %}
<tr>
{%- for cell, top in zip(cells, best) -%}
<td>{% if top %}<strong>{{ cell }}</strong>{% else %}{{ cell }}{% endif %}</td>
{%- endfor -%}
</tr>
{% endfor %}
</tbody>
</table>
</section>
{% endfor %}
{% endfor %}
</body>
</html>
"""


def render(board: Leaderboard, format: str) -> str:
    """The leaderboard as text that ends with a line break. Raises UserError for a format that does not exist."""
    formats: dict[str, Callable[[Leaderboard], str]] = {"md": _markdown, "csv": _csv, "tex": _latex, "html": _html}
    if format not in formats:
        raise unknown("format", format, formats, f"there are {', '.join(formats)}")
    return formats[format](board).rstrip("\n") + "\n"


def _markdown(board: Leaderboard) -> str:
    return "\n\n".join(_markdown_table(table) for table in [*board.profiles, *board.tables, *board.published_tables])


def _markdown_table(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    columns = list(table.cells.columns)
    rows = [[f"**{cell}**" if top else cell for cell, top in zip(*row, strict=True)] for row in table.rows()]
    return "\n".join([f"**{table.caption}**", "", line(columns), line(["---"] * len(columns)), *map(line, rows)])


def _csv(board: Leaderboard) -> str:
    """Every score of every metric and variant, one a row; published numbers follow with `source` published."""
    import pandas as pd

    scores = board.scores.drop(columns=["bootstrap", "per_class", "point", "coverage"]).assign(source="measured")
    if not board.published.empty:
        scores = pd.concat([scores.astype(object), board.published.assign(source="published")])
    return csv_text(scores.set_index("source").reset_index())


def csv_text(frame: pd.DataFrame) -> str:
    """Return a frame as CSV without its index, in which no cell is a formula to a spreadsheet.

    An apostrophe is put before texts and headings that begin with = + - @, a tab or a carriage return; numbers stay as they are.
    """
    import pandas as pd

    columns = {name: pd.Series([_inert(cell) for cell in own], dtype=own.dtype) for name, own in frame.items()}
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


def _latex(board: Leaderboard) -> str:
    return "% \\usepackage{booktabs}\n" + "\n\n".join(
        _latex_table(t) for t in [*board.profiles, *board.tables, *board.published_tables]
    )


def _latex_table(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    rows = [
        line([rf"\textbf{{{cell.translate(TEX)}}}" if top else cell.translate(TEX) for cell, top in zip(*row, strict=True)])
        for row in table.rows()
    ]
    head = line([name.translate(TEX) for name in table.cells.columns])
    body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    open_, close = rf"\begin{{tabular}}{{{'l' * len(table.cells.columns)}}}", r"\end{tabular}"
    caption = rf"\caption{{{table.caption.translate(TEX)}}}"
    return "\n".join([r"\begin{table}", caption, open_, *body, close, r"\end{table}"])


def _html(board: Leaderboard) -> str:
    import jinja2

    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    return page.render(
        blocks=[("Profiles", board.profiles), ("Measured", board.tables), ("Published", board.published_tables)], zip=zip
    )
