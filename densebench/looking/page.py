"""The page of a look: a table of the backbones, then for each kind of map the pictures as rows and the backbones as columns."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import count
from typing import Any

from PIL import Image

from densebench.looking import maps
from densebench.looking.grids import STEP, Packed, packed
from densebench.looking.kinds import kinds_of
from densebench.looking.looked import Figure, Look, Seen
from densebench.looking.sections import Cell, Row, section
from densebench.pages.page import render, source

PHOTO = 230_000  # pixels of a photograph in the page
LONGEST = 1024  # px of its longer side
TRACK = 288  # px of the width of a video's frame
NUMBERS = 4_700_000  # 8-bit numbers of all features in a page, before they are compressed
GLANCE = 3  # pictures whose colours stand in the table
FEWEST, MOST = 32, 96  # of a patch

FACTS = {
    "width": "Channels of a patch's feature.",
    "stride": "Pixels from one patch to the next, in the resized picture.",
    "parameters": "Weights of the model, in millions (M).",
    "GFLOP": "Billions of floating-point operations for one picture.",
    "images/s": "Pictures per second on the machine that made this page, one at a time.",
    "memory": "Peak memory of a forward pass of one picture, weights included.",
}


def page(look: Look) -> str:
    """Return a look as one self-contained HTML page, complete without script.

    With script a reader picks a query patch in any picture: the page holds the features of every patch, projected and quantised,
    and states the error of their cosines.
    """
    look = _texts(look)
    shown = [seen for seen in look.backbones if seen.views]
    found = [packed([view.grid for view in seen.views], _limit(shown)) for seen in shown]
    sections = {kind.name: section(kind.name, look, shown) for kind in kinds_of(look) if kind.name != "tracks"}
    return render(
        "page.html",
        room="densebench.looking",
        title=_title(look, len(shown)),
        look=look,
        facts=FACTS,
        shown=shown,
        headings=_headings(look.backbones),
        figures=_figures(look.backbones),
        kinds=kinds_of(look),
        sections=sections,
        veiled=any(not view.foreground.all() for seen in shown for view in seen.views),
        glance=range(min(GLANCE, len(look.pictures))) if shown else (),
        glances=_glances(look, sections.get("colours", [])),
        columns=len(shown) + 1,
        photos=[source(_photograph(picture.image)) for picture in look.pictures],
        ratios=[round(picture.image.width / picture.image.height, 4) for picture in look.pictures],
        tracks=_tracks(look),
        errors=[(seen.name, each.error) for seen, each in zip(shown, found, strict=True)],
        scale=["#{:02x}{:02x}{:02x}".format(*colour) for colour in maps.shades(maps.LEVELS)],
        known=_known(look, shown, found),
    )


def _texts(value: Any) -> Any:
    """Return values whose texts can be written as UTF-8: the name of a file may hold bytes that are no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, tuple):
        return tuple(map(_texts, value))
    if isinstance(value, dict):
        return {_texts(key): _texts(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _texts(getattr(value, part.name)) for part in fields(value)})
    return value


def _title(look: Look, backbones: int) -> str:
    pictures = "1 picture" if len(look.pictures) == 1 else f"{len(look.pictures)} pictures"
    who = "1 backbone sees" if backbones == 1 else f"{backbones} backbones see"
    return f"{look.title}: {pictures} as {who} {'it' if len(look.pictures) == 1 else 'them'}"


def _headings(backbones: Sequence[Seen]) -> list[str]:
    return list(dict.fromkeys(heading for seen in backbones for heading in seen.facts))


def _figures(backbones: Sequence[Seen]) -> list[Figure]:
    """Return the first of the figures of each name."""
    return list({figure.name: figure for seen in reversed(backbones) for figure in reversed(seen.figures)}.values())[::-1]


def _glances(look: Look, colours: Sequence[Row]) -> list[list[Cell]]:
    """Return the cells of the first pictures for each backbone; none for one that failed."""
    column = count()
    numbers = [next(column) if seen.views else None for seen in look.backbones]
    return [[row.lines[0].cells[number] for row in colours[:GLANCE]] if number is not None else [] for number in numbers]


def _photograph(image: Image.Image) -> Image.Image:
    scale = min(1.0, (PHOTO / (image.width * image.height)) ** 0.5, LONGEST / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)


def _limit(shown: Sequence[Seen]) -> int:
    patches = sum(view.grid.shape[0] * view.grid.shape[1] for seen in shown for view in seen.views)
    return min(MOST, max(FEWEST, NUMBERS // max(1, patches)))


def _tracks(look: Look) -> list[dict[str, Any]]:
    videos = []
    for video in look.tracks:
        rows = []
        for name, frames in video.sheets.items():
            cells = [(number, f"Frame {number} of {video.video}, regions propagated by {name}", source(frame, widest=TRACK))
                     for number, frame in zip(video.frames, frames, strict=True)]  # fmt: skip
            rows.append({"name": name, "cells": cells})
        videos.append({"video": video.video, "rows": rows})
    return videos


def _known(look: Look, shown: Sequence[Seen], found: Sequence[Packed]) -> dict[str, Any]:
    """Return what the script needs: pictures with their queries, backbones with their features, and the colours of the scale."""
    backbones = [
        {"name": seen.name, "dims": each.dims, "sizes": each.sizes, "content": base64.b64encode(each.content).decode()}
        for seen, each in zip(shown, found, strict=True)
    ]
    pictures = [{"name": picture.name, "queries": places, "size": picture.image.size}
                for picture, places in zip(look.pictures, look.queries, strict=True)]  # fmt: skip
    return {"step": STEP, "scale": maps.shades(), "pictures": pictures, "backbones": backbones}
