"""What the sections of the page show: for each kind of map a row per picture, a line per query (or one), a cell per backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from densebench.looking import maps
from densebench.looking.grids import cosines
from densebench.looking.looked import Look, Seen, View
from densebench.pages.page import source


@dataclass(frozen=True)
class Crop:
    """A part of a picture around a patch, as a background of a box, and in it the patch: left, top, width, height in per cent."""

    picture: int
    alt: str
    ratio: float
    size: tuple[float, float]
    at: tuple[float, float]
    inner: tuple[float, ...]
    cosine: str = ""


@dataclass(frozen=True)
class Cell:
    """What one backbone shows: a map with an alt text, or crops, or why there is none.

    shape: the map's ratio of width to height, as a multiple of the picture's. veil: a picture that lies over the map. marks:
    patches of a grid [gh gw] that are outlined, as the path of an SVG.
    """

    name: str
    image: str = ""
    alt: str = ""
    note: str = ""
    missing: str = ""
    veil: str = ""
    marks: str = ""
    grid: tuple[int, int] = (1, 1)
    shape: float = 1.0
    crops: tuple[Crop, ...] = ()


@dataclass(frozen=True)
class Line:
    """Cells beside each other; those of a query have its number, its patch in the picture, and the crop around it."""

    cells: tuple[Cell, ...]
    number: int = 0
    mark: maps.Box | None = None
    query: Crop | None = None


@dataclass(frozen=True)
class Row:
    """Lines of one picture, by its number."""

    picture: int
    name: str
    lines: tuple[Line, ...]


def section(kind: str, look: Look, shown: Sequence[Seen]) -> list[Row]:
    """Return what the section of a kind shows of the backbones that did not fail."""
    return _SECTIONS[kind](look, shown)


def _rows(look: Look, shown: Sequence[Seen], cell: Callable[[Seen, View, str], Cell]) -> list[Row]:
    """Return a row for each picture, with one line."""
    return [
        Row(index, picture.name, (Line(tuple(cell(seen, seen.views[index], picture.name) for seen in shown)),))
        for index, picture in enumerate(look.pictures)
    ]


def _colours(look: Look, shown: Sequence[Seen]) -> list[Row]:
    def cell(seen: Seen, view: View, name: str) -> Cell:
        veil = "" if view.foreground.all() else source(maps.background(view), exact=True)
        return Cell(seen.name, source(maps.colours(view), exact=True), f"PCA colours of {name} by {seen.name}", veil=veil)

    return _rows(look, shown, cell)


def _clusters(look: Look, shown: Sequence[Seen]) -> list[Row]:
    counts = {id(seen): maps.cluster_count(seen) for seen in shown}

    def cell(seen: Seen, view: View, name: str) -> Cell:
        count = counts[id(seen)]
        alt = f"{len(np.unique(view.clusters))} of {count} K-means clusters in {name} by {seen.name}"
        return Cell(seen.name, source(maps.clusters(view, count), exact=True), alt)

    return _rows(look, shown, cell)


def _norms(look: Look, shown: Sequence[Seen]) -> list[Row]:
    scales = {id(seen): maps.norm_scale(seen) for seen in shown}

    def cell(seen: Seen, view: View, name: str) -> Cell:
        scale, count = scales[id(seen)], int(view.outliers.sum())
        outliers = f"{count:,} of {view.outliers.size:,} outliers" if count else "no outliers"
        note = f"{scale.low:.3g} to {scale.high:.3g}; {outliers}"
        alt = f"Token norms of {name} by {seen.name}, {note}"
        image = source(maps.shaded(view.norms, scale), exact=True)
        return Cell(seen.name, image, alt, note, marks=_squares(*np.nonzero(view.outliers)), grid=view.norms.shape)

    return _rows(look, shown, cell)


def _attention(look: Look, shown: Sequence[Seen]) -> list[Row]:
    def cell(seen: Seen, view: View, name: str) -> Cell:
        if view.attention is None:
            return Cell(seen.name, missing="no class token")
        heads = f"{len(view.attention)} heads"
        alt = f"Attention of the {heads} of the class token to {name} by {seen.name}"
        across, down = maps.heads_across(view)
        return Cell(seen.name, source(maps.heads(view), exact=True), alt, heads, shape=across / down)

    return _rows(look, shown, cell)


def _similarity(look: Look, shown: Sequence[Seen]) -> list[Row]:
    empty = Line(tuple(Cell(seen.name) for seen in shown))
    rows = []
    for index, picture in enumerate(look.pictures):
        lines = []
        for number, place in enumerate(look.queries[index], 1):
            cells = tuple(_similar(seen, index, picture.name, number, place) for seen in shown)
            lines.append(Line(cells, number, _mark(place, shown, index)))
        rows.append(Row(index, picture.name, tuple(lines) or (empty,)))
    return rows


def _similar(seen: Seen, picture: int, name: str, number: int, place: tuple[float, float]) -> Cell:
    grid = seen.views[picture].grid
    row, column = maps.patch(place, grid.shape[:2])
    image = source(maps.shaded(cosines(grid, row, column), maps.COSINES), exact=True)
    alt = f"Cosine of query patch {number} of {name} with every patch of it by {seen.name}"
    return Cell(seen.name, image, alt, marks=_squares([row], [column]), grid=grid.shape[:2])


def _neighbours(look: Look, shown: Sequence[Seen]) -> list[Row]:
    rows = []
    for index, picture in enumerate(look.pictures):
        lines = []
        for number, place in enumerate(look.queries[index], 1):
            cells = tuple(Cell(seen.name, crops=_crops(look, seen, index, number)) for seen in shown)
            box = _mark(place, shown, index)
            query = _crop(box, picture.image.size, index, f"Query patch {number} of {picture.name}")
            lines.append(Line(cells, number, box, query))
        rows.append(Row(index, picture.name, tuple(lines)))
    return [row for row in rows if row.lines]


def _crops(look: Look, seen: Seen, picture: int, number: int) -> tuple[Crop, ...]:
    neighbours = seen.views[picture].neighbours
    crops = []
    for near in neighbours[number - 1] if number <= len(neighbours) else ():
        other = look.pictures[near.picture]
        box = maps.patch_box(near.row, near.column, seen.views[near.picture].grid.shape[:2])
        place = f"row {near.row + 1}, column {near.column + 1} of {other.name}"
        alt = f"Nearest patch by {seen.name}: {place}, cosine {near.cosine:.2f}"
        crops.append(_crop(box, other.image.size, near.picture, alt, f"{near.cosine:.2f}"))
    return tuple(crops)


_SECTIONS = {
    "colours": _colours,
    "similarity": _similarity,
    "neighbours": _neighbours,
    "clusters": _clusters,
    "attention": _attention,
    "norms": _norms,
}


def _mark(place: tuple[float, float], shown: Sequence[Seen], picture: int) -> maps.Box:
    """Return the patch of a query in a picture: that of the backbone with the finest grid."""
    grid = max((seen.views[picture].grid.shape[:2] for seen in shown), key=lambda size: size[0] * size[1])
    return maps.patch_box(*maps.patch(place, grid), grid)


def _crop(box: maps.Box, size: tuple[int, int], picture: int, alt: str, cosine: str = "") -> Crop:
    left, top, right, bottom = maps.around(box, size)
    width, height = right - left, bottom - top
    inner = ((box[0] - left) / width, (box[1] - top) / height, (box[2] - box[0]) / width, (box[3] - box[1]) / height)
    at = (left / (1 - width) if width < 1 else 0, top / (1 - height) if height < 1 else 0)
    ratio = round(width * size[0] / (height * size[1]), 3)
    return Crop(
        picture,
        alt,
        ratio,
        (_per_cent(1 / width), _per_cent(1 / height)),
        (_per_cent(at[0]), _per_cent(at[1])),
        tuple(map(_per_cent, inner)),
        cosine,
    )


def _per_cent(share: float) -> float:
    return round(100 * share, 2)


def _squares(rows: Iterable[int], columns: Iterable[int]) -> str:
    """Return the outlines of patches as the path of an SVG whose unit is a patch."""
    return "".join(f"M{column} {row}h1v1h-1z" for row, column in zip(rows, columns, strict=True))
