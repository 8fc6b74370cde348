"""The content of a look: the chosen pictures and what every backbone makes of them. The page and the PNG files show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """One picture of the user's: its name, and its pixels, RGB, upright."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Figure:
    """One label-free measure of a backbone: what it is, in a sentence, its source, and its value, also as a text.

    value is None, and `text` says why in a few words, where a backbone has no such value.
    """

    name: str
    value: float | None
    text: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Neighbour:
    """A patch of another picture that is near a query patch: its picture's number, row and column, and the cosine."""

    picture: int
    row: int
    column: int
    cosine: float


@dataclass(frozen=True)
class View:
    """What one backbone makes of one picture; maps have the backbone's grid and are drawn at the picture's size.

    grid: features, float32 [gh gw d]. colours: the first three principal components as RGB, uint8 [gh gw 3]. foreground: bool
    [gh gw], True where the backbone's first component counts a patch as foreground. clusters: numbers of K-means clusters, int
    [gh gw], the same number for the same cluster in all pictures of a backbone. norms: L2 norms of tokens, see `Extracted`,
    float [gh gw]. outliers: bool [gh gw], the artefact tokens. attention: the class token's, by head, float [heads gh gw]; None
    where there is no class token.
    neighbours: for each query of the look, the nearest patches of other pictures, the nearest first.
    """

    grid: np.ndarray
    colours: np.ndarray
    foreground: np.ndarray
    clusters: np.ndarray
    norms: np.ndarray
    outliers: np.ndarray
    attention: np.ndarray | None = None
    neighbours: tuple[tuple[Neighbour, ...], ...] = ()


@dataclass(frozen=True)
class Seen:
    """What was seen of one backbone. A backbone that failed has a `problem`, one line, and no views.

    facts: what stands in the table by its heading, such as {"width": "384", "GFLOP": "5.5"}, the same headings for all that work.
    views: one for each picture.
    """

    name: str
    spec: str
    stride: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    views: tuple[View, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Tracks:
    """Regions of a video's first frame, propagated through it by each backbone, as a contact sheet.

    frames: numbers of the frames that are shown; sheets: by the name of the backbone, one picture for each of these frames.
    """

    video: str
    frames: tuple[int, ...]
    sheets: dict[str, tuple[Image.Image, ...]]


@dataclass(frozen=True, repr=False)
class Look:
    """Everything that a look shows. queries: for each picture, rows and columns of its query patches as shares of its sides.

    Printed, it is the table of its backbones; so it is in a notebook.
    """

    title: str
    pictures: tuple[Picture, ...]
    backbones: tuple[Seen, ...]
    queries: tuple[tuple[tuple[float, float], ...], ...]
    tracks: tuple[Tracks, ...] = ()
    command: str = ""
    notes: tuple[str, ...] = ()
    size: str = ""
    """How pictures were resized for the backbones, in words such as "224 px square"."""

    def __repr__(self) -> str:
        return f"Look({self.title!r}: {len(self.pictures)} pictures, {len(self.backbones)} backbones)"

    def __str__(self) -> str:
        from densebench.looking.table import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from densebench.looking.table import html

        return html(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the page (index.html, which needs no other file) and its maps as PNGs to a folder, and return their paths.

        The page is the first of them.
        """
        from densebench.looking.saving import write

        return write(self, Path(folder))
