"""The list of a dry run: a table of what each cell needs, its JSON values, and a summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from densebench.evaluation.estimate import minutes
from densebench.files.cache import in_gb
from densebench.results.terminal import Layout, fitted
from densebench.tables.needs import Need, Needs
from densebench.tables.presence import CELL, DATA, OPTION, PACKAGE, WEIGHTS, Lack
from densebench.tables.sizes import TRIAL, Size

if TYPE_CHECKING:  # plain lines need no rich
    from rich.table import Table

COLUMNS = ["id", "cell", "data", "images", "storage", "minutes", "not there"]
LAYOUT = Layout(
    labels=["id", "cell", "data", "not there"], texts={"cell": 20, "data": 8, "not there": 20}, spare=("id", "images")
)


def render(found: Needs, width: int | None) -> Iterator[str | Table]:
    """Yield what to print: a table that fits a terminal of `width` columns (None: plain lines), and a summary, line by line."""
    rows = [_row(need) for need in found]
    if width is None:
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        for row in [COLUMNS, *rows]:
            yield "  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip()
    else:
        tables, _ = fitted(COLUMNS, [(row, [False] * len(row)) for row in rows], LAYOUT, width)
        yield from tables
    yield from summary_lines(found)


def as_json(found: Needs) -> dict[str, Any]:
    """Return what each cell needs and the summary as JSON values."""
    return {"cells": [_values(need) for need in found], "summary": summary(found)}


def summary(found: Needs) -> dict[str, Any]:
    """Return how many cells there are, how many can run, how many lack what, and what to do, as JSON values.

    weights, data, packages: each thing that is missing once, with the number of cells that lack it.
    """
    missing: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in (WEIGHTS, DATA, PACKAGE, OPTION)}
    for need in found:
        for lack in need.lacks:
            if lack.kind != CELL:
                values = {key: value for key, value in asdict(lack).items() if key != "kind" and value}
                entry = missing[lack.kind].setdefault(_place(lack), {**values, "cells": 0})
                entry["cells"] += 1
    seconds = [need.size.seconds for need in found if need.size.seconds is not None]
    return {
        "cells": len(found.cells),
        "can_run": sum(need.can_run for need in found),
        **{f"lack_{kind}": sum(any(lack.kind == kind for lack in need.lacks) for need in found) for kind in (*missing, CELL)},
        **{kind: list(entries.values()) for kind, entries in missing.items()},
        "notes": list(dict.fromkeys(note for need in found for note in need.notes)),
        "bytes": found.bytes,
        "seconds": round(sum(seconds), 1) if seconds else None,
        "partly": sum(need.size.partly for need in found),
        "by": sorted({need.size.by for need in found if need.size.by}),
        "not_estimated": sum(need.size.bytes is None for need in found),
    }


def _place(lack: Lack) -> str:
    """Return what two equal lacks share: of options, which are a cell's own, what is wrong with them."""
    return lack.what if lack.kind in (OPTION, PACKAGE) else lack.name


def summary_lines(found: Needs) -> Iterator[str]:
    """Yield the summary in words, a line each: what can run, and what is missing, each thing once."""
    values = summary(found)
    words = {WEIGHTS: "weights", DATA: "data", PACKAGE: "a package", OPTION: "options that fit", CELL: "another cell"}
    lacking = [f"{values[f'lack_{kind}']} lack {word}" for kind, word in words.items() if values[f"lack_{kind}"]]
    yield f"{values['cells']} cells: " + ", ".join([f"{values['can_run']} can run", *lacking])
    for kind in (WEIGHTS, DATA, PACKAGE, OPTION):
        for entry in values[kind]:
            digest = f" (sha256 {entry['sha256']})" if "sha256" in entry else ""
            remedy = f": {entry['remedy']}{digest}" if "remedy" in entry and entry["remedy"] not in entry["what"] else ""
            yield f"{kind}, {_cells(entry['cells'])}: {entry['what']}{remedy}"
    yield from values["notes"]
    if values["bytes"] or values["seconds"] is not None:
        least = "at least " if values["partly"] or values["not_estimated"] else ""
        time = "" if values["seconds"] is None else f", {least}{minutes(values['seconds'])} minutes"
        rest = f"; {_cells(values['not_estimated'])} not estimated" if values["not_estimated"] else ""
        yield f"storage together: {in_gb(values['bytes'])}{time}{rest}"
    yield from _how_times_are_known(values)


def _how_times_are_known(values: dict[str, Any]) -> Iterator[str]:
    """Yield a line on where the minutes come from."""
    ways = {way for by in values["by"] for way in by.split(" and ")}
    if TRIAL in ways:
        yield "minutes are estimated by a trial of a few images or of two training steps"
    elif ways:
        known = "one forward pass of each network" + (" and by earlier records" if len(ways) > 1 else "")
        lower = f"; of {_cells(values['partly'])} they are those of the features alone (marked +)" if values["partly"] else ""
        yield f"minutes are rough estimates by {known}{lower}; --trial times a few images of each cell, which takes minutes"


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


def _row(need: Need) -> list[str]:
    cell, size = need.cell, need.size
    what = f"{cell.label}, pretrain {cell.protocol}" if cell.kind == "pretrain" else cell.label.removesuffix(f", {cell.dataset}")
    stored = "not estimated" if size.bytes is None else in_gb(size.bytes) if size.bytes else "-"
    images = "" if size.images is None else f"{size.images:,}"
    return [cell.id, what, cell.dataset, images, stored, _minutes(size), _not_there(need)]


def _minutes(size: Size) -> str:
    """Return the minutes of a cell, with a tilde for a rough estimate, and a plus where more comes on top."""
    rough = "~" if size.seconds is not None and size.by != TRIAL else ""
    return f"{rough}{minutes(size.seconds)}{' +' if size.partly else ''}"


def _not_there(need: Need) -> str:
    """Return in a few words what a cell lacks or waits for; the summary has the addresses."""
    if need.lacks:
        return "; ".join(dict.fromkeys(_short(lack) for lack in need.lacks))
    if need.waits:
        return f"waits for {', '.join(need.waits)}"
    return "finished" if need.done else ""


def _short(lack: Lack) -> str:
    return f"{lack.kind}: {lack.name.rpartition('/')[2]}" if lack.kind in (WEIGHTS, DATA) else lack.what


def _values(need: Need) -> dict[str, Any]:
    cell, size = need.cell, need.size
    return {
        "id": cell.id, "kind": cell.kind, "label": cell.label, "backbone": cell.backbone, "protocol": cell.protocol,
        "dataset": cell.dataset, "command": list(cell.command), "needs": list(cell.needs), "weights": cell.weights,
        "can_run": need.can_run, "finished": need.done, "waits": list(need.waits), "notes": list(need.notes),
        "lacks": [{key: value for key, value in asdict(lack).items() if value} for lack in need.lacks],
        "images": size.images, "bytes": size.bytes, "cached_bytes": size.cached,
        "seconds": None if size.seconds is None else round(size.seconds, 1), "partly": size.partly,
        "by": size.by, "not_estimated": size.why,
    }  # fmt: skip
