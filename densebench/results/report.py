"""`densebench report`: one self-contained HTML page with the tables, curves, classes and pictures of a results folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from densebench.console import one_line
from densebench.results.leaderboard import NAMES, Leaderboard, Table, leaderboard
from densebench.results.profiles import row_names
from densebench.results.ranking import SIGNS
from densebench.results.score import Point, in_unit, place

PICTURES = 4  # of a record at most
CLASSWISE = {"miou": "IoU"}  # what a mean over classes is called for a single class
LINES = 10  # of a plot at most: the best backbones
TEXTS = ("backbone", "method", "pretraining", "note")  # columns whose cells may be broken into lines

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>densebench report</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; color: #1d2733; background: #fff; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; }
h4 { margin: 0 0 .4rem; font-size: .9rem; }
.scroll { overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.text { white-space: normal; min-width: 9rem; }
@media (min-width: 48rem) { .text { min-width: 16rem; } }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #dde3ea; white-space: nowrap; }
thead th { border-bottom: 2px solid #8894a3; white-space: normal; vertical-align: bottom; min-width: 4rem; }
img { max-width: 100%; height: auto; }
figure { margin: 0 0 1.5rem; }
figcaption, .small { color: #4c5866; font-size: .9rem; }
details { margin: 0 0 1.5rem; }
summary { cursor: pointer; font-weight: 600; }
</style>
</head>
<body>
{% macro show(table) %}
{% set name = counter() %}
<h4 id="table-{{ name }}">{{ table.caption }}</h4>
<div class="scroll" tabindex="0"><table aria-labelledby="table-{{ name }}">
<thead><tr>{% for name in table.cells.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells, best in table.rows() %}
<tr>
{%- for column, cell, top in zip(table.cells.columns, cells, best) -%}
<td{% if column in texts %} class="text"{% endif %}>{% if top %}<strong>{{ cell }}</strong>{% else %}{{ cell }}{% endif %}</td>
{%- endfor -%}
</tr>
{% endfor %}
</tbody>
</table></div>
{% endmacro %}
<h1>densebench report</h1>
<p>{{ summary }} Only the numbers of one table compare with each other.</p>
<nav>{% for section in sections %}<a href="#{{ section.anchor }}">{{ section.name }}</a>{% endfor %}</nav>
{% for section in sections %}
<h2 id="{{ section.anchor }}">{{ section.name }}</h2>
{% for table in section.profiles %}{{ show(table) }}{% endfor %}
{% for group in section.groups %}
{{ show(group.table) }}
{% if group.plot %}
<figure><img src="{{ group.plot }}" alt="{{ group.table.caption }}" width="520">
<figcaption>{{ group.plot_caption }}</figcaption></figure>
{% endif %}
{% if group.classes %}<details><summary>Classes</summary>{{ show(group.classes) }}</details>{% endif %}
{% if group.pictures %}
<details><summary>Pictures: image, truth, prediction</summary>
{% for title, source in group.pictures %}
<figure><img src="{{ source }}" alt="{{ title }}" loading="lazy"><figcaption>{{ title }}</figcaption></figure>
{% endfor %}
</details>
{% endif %}
{% endfor %}
{% endfor %}
{% if published %}<h2 id="published">published</h2>{% for table in published %}{{ show(table) }}{% endfor %}{% endif %}
</body>
</html>
"""


@dataclass(frozen=True)
class Group:
    """One group of comparable records on the page."""

    table: Table
    plot: str = ""
    plot_caption: str = ""
    classes: Table | None = None
    pictures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """One data set on the page."""

    name: str
    profiles: list[Table]
    groups: list[Group]

    @property
    def anchor(self) -> str:
        """The name as an identifier of HTML."""
        return self.name.replace(" ", "-")


def report(results: Path = Path("results"), *, published: bool = False) -> str:
    """The page as HTML. Raises UserError where no record may stand in a table."""
    import jinja2

    board = leaderboard(results, published=published)
    sections = list(_sections(board, results))
    records = board.scores.record.nunique()
    summary = f"{records} records of {board.scores.digest.nunique()} sets of weights on {len(sections)} data sets."
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(PAGE)
    facts = {"sections": sections, "published": board.published_tables, "summary": summary}
    return page.render(**facts, zip=zip, texts=TEXTS, counter=count().__next__) + "\n"


def _sections(board: Leaderboard, results: Path) -> Iterator[Section]:
    by_group = {table.of: table for table in board.tables}
    for (dataset, split), own in board.scores.groupby(["dataset", "split"], sort=True):
        profiles = [table for table in board.profiles if table.of == f"{dataset} {split}"]
        groups = [_group(by_group[name], rows, results) for name, rows in own.groupby("group", sort=True) if name in by_group]
        yield Section(f"{dataset} {split}", profiles, groups)


def _group(table: Table, rows: pd.DataFrame, results: Path) -> Group:
    shown = rows[rows.headline]
    shown = shown.assign(name=row_names(shown))
    plot, caption = _plot(shown)
    return Group(table, plot, caption, _classes(shown), list(_pictures(shown, results)))


def _plot(shown: pd.DataFrame) -> tuple[str, str]:
    """A curve over the fraction or over K, and what it shows; nothing where there is one point."""
    for axis, label in (("fraction", "share of the training images"), ("K", "clusters K")):
        if axis not in shown or shown[axis].nunique() < 2:
            continue
        values = shown.assign(x=1 / shown[axis] if axis == "fraction" else shown[axis].astype(float))
        mean = values.groupby(["name", "x"]).value.agg(["mean", "std"]).reset_index()
        best = (SIGNS[shown.iloc[0].direction] * mean.set_index("name")["mean"]).groupby("name").max().nlargest(LINES).index
        caption = f"headline over the {label}, mean and standard deviation over seeds"
        caption += f"; the best {LINES} of {mean.name.nunique()} backbones" if mean.name.nunique() > LINES else ""
        unit = in_unit(shown.iloc[0].unit, shown.iloc[0].direction)
        return _figure(mean, list(best), axis, label, f"headline{unit}"), caption
    return "", ""


def _figure(mean: pd.DataFrame, names: list[str], axis: str, label: str, value: str) -> str:
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # names are drawn as they are: "$" does not begin a formula
        return _drawn(mean, names, axis, label, value)


def _drawn(mean: pd.DataFrame, names: list[str], axis: str, label: str, value: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.4 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    lines: list[Any] = []
    for name in names:
        own = mean[mean.name == name].sort_values("x")
        lines.append(axes.errorbar(own.x, own["mean"], yerr=own["std"].fillna(0), marker="o", markersize=4, capsize=2))
    axes.set_xscale("log")
    ticks = sorted(mean.x.unique())
    axes.set_xticks(ticks, [f"1/{round(1 / x)}" if axis == "fraction" else f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel=value)
    axes.grid(alpha=0.3)
    figure.legend(lines, names, loc="outside lower left", fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return _embedded(stream.getvalue(), "svg+xml")


def _classes(shown: pd.DataFrame) -> Table | None:
    """Return the headline of every class (or object of a video) by backbone, at the last point, mean over seeds."""
    last: Point = max(shown.point, key=place)
    rows = shown[shown.point.map(lambda point: point == last)]
    rows = rows[rows.per_class.map(bool)]
    if rows.empty:
        return None
    by_backbone = {
        str(name): pd.DataFrame(list(own.per_class)).astype(float).mean() for name, own in rows.groupby("name", sort=False)
    }
    values = pd.DataFrame(by_backbone)
    one = rows.iloc[0]
    gains = SIGNS[one.direction] * values
    gains = gains[gains.mean().sort_values(ascending=False).index]
    cells = values[gains.columns].map(lambda value: "" if pd.isna(value) else f"{value:.{one.digits}f}")
    cells.insert(0, "class", cells.index)
    best = gains.eq(gains.max(axis=1), axis=0).reindex(columns=cells.columns, fill_value=False)
    what = CLASSWISE.get(one.metric, NAMES.get(one.metric, one.metric)) + in_unit(one.unit, "higher")
    what += f" by {'object' if one.metric == 'jf_mean' else 'class'}{in_unit('', one.direction)}"
    return Table(f"{what}, mean over seeds", cells.reset_index(drop=True), best.reset_index(drop=True))


def _pictures(shown: pd.DataFrame, results: Path) -> Iterator[tuple[str, str]]:
    for name, record in shown[["name", "record"]].drop_duplicates().itertuples(index=False):
        found = sorted((results / "pictures" / str(record)).glob("*.png"))
        for path in found[:PICTURES]:
            yield one_line(f"{name}: {path.stem}"), _embedded(path.read_bytes(), "png")


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
