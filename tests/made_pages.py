"""Pages made for tests: tables of given numbers with everything that a page may show of them."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from densebench.pages.page import source
from densebench.results.html import page
from densebench.results.tables import About, Block, GalleryRow, Section, Table

HOSTILE = """a "quoted" 'name' </script><script>document.title = "broken"</script> & <b>bold</b>"""
NUMBERS = {"nine": 9.04, "ten": 10.0, HOSTILE: 9.0, "minus": -2.5, "none": None}
"""The value of each backbone at 1/1: as texts they would be sorted otherwise, and two of them look equal."""


def measured(dataset: str = "voc", protocol: str = "incontext", of: str = "abc") -> Table:
    """A table of NUMBERS with costs, records, commands and intervals."""
    names, values = list(NUMBERS), [NUMBERS[name] for name in NUMBERS]
    texts = ["" if value is None else f"{value:.1f}" for value in values]
    cells = pd.DataFrame({
        "rank": ["2", "1", "2", "4", ""], "backbone": names, "width": ["384", "768", "64", "8", "8"], "positions": [""] * 5,
        "1/8": ["8.0 ± 1.0", "7.5 ± 10.5", "", "1.0", ""], "1/1": texts,
        "95 % at 1/1": ["8.0 to 10.0", "9.0 to 11.0", "", "", ""], "minutes": ["3.00", "20.00", "1.00", "", ""],
    })  # fmt: skip
    nothing = [float("nan")] * 3
    intervals = pd.DataFrame(
        {"low": [8.0, 9.0, *nothing], "high": [10.0, 11.0, *nothing], "value": [9.04, 10.0, 9.0, -2.5, float("nan")]}
    )
    facts = (("protocol", f"{protocol}/plain, version 1"), ("data set", f"{dataset} val"), ("group", of))
    return Table(
        f"{protocol}/plain on {dataset} val", cells, cells.map(lambda text: text == "10.0"), of,
        tuple(f"id{index}" for index in range(5)), records=tuple(f"record{index}" for index in range(5)),
        commands=(*(f"densebench eval --backbone '{index}'" for index in range(4)), ""),
        values=pd.DataFrame({"1/1": values}, dtype=float), intervals=intervals,
        about=About(f"{protocol}/plain on {dataset} val", (dataset,), (f"{protocol}/plain",), facts),
        notes=("first note", "second note", "third note", "fourth note", "fifth note"),
    )  # fmt: skip


def classes() -> Table:
    """A table of classes: a column for each backbone."""
    cells = pd.DataFrame({"class": ["cat", "dog"], **{name: ["1.0", "2.0"] for name in NUMBERS}})
    return Table("IoU by class", cells, cells.map(lambda text: text == "2.0"))


def picture(colour: tuple[int, int, int]) -> str:
    return source(Image.new("RGB", (32, 24), colour))


def made(addresses: dict[str, str] | None = None) -> str:
    """A page of three tables in two sections, with classes, a legend, a plot and pictures."""
    gallery = [
        GalleryRow(
            image, [(name, picture((60 * index, 90, 200)), f"{image} as {name} sees it") for index, name in enumerate(NUMBERS)]
        )
        for image in ("street", "field")
    ]
    plots = [("A curve", "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=", "nothing is seen")]
    legend = [("cat", "#00ff00"), ("dog", "#aa00ff"), (HOSTILE, "red; } body { display: none")]
    voc = [
        Block(measured(), classes=classes(), plots=plots, legend=legend, gallery=gallery),
        Block(measured(protocol="linear", of="def")),
    ]
    sections = [Section("voc val", voc), Section("ade20k val", [Block(measured("ade20k", of="ghi"))])]
    return page("A page", "What it is.", sections, addresses)
