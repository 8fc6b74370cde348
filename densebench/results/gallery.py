"""The pictures of records on a page: for each image, those of several backbones side by side, as many as the page may hold."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from densebench.console import one_line, warn
from densebench.files.atomic import lies_in
from densebench.pages.page import source
from densebench.pictures.canvas import description_and_legend
from densebench.results.tables import GalleryRow

IMAGES, BACKBONES = 4, 6  # of a group at most
WIDEST = 640  # px of a picture
PAGE = 4_700_000  # bytes of a page: its pictures have what the rest leaves, and there is room for their names and legends


@dataclass
class Gallery:
    """The pictures of a group, what their colours mean, how much room they take, and which pictures are left out and why."""

    rows: list[GalleryRow] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0
    note: str = ""


def galleries(groups: Sequence[Sequence[tuple[str, str]]], folders: Sequence[Path], room: int = PAGE) -> list[Gallery]:
    """Return the pictures of each group, whose backbones and records are given, the best first.

    A group with pictures has an equal share of what room is left. folders: results folders; of a record, the pictures are those
    of the first folder that has any. room: bytes for all of them.
    """
    found = [{name: pictures for name, record in group if (pictures := _pictures(record, folders))} for group in groups]
    left = sum(map(bool, found))
    result = []
    for of_group in found:
        result.append(_gallery(of_group, room // left) if of_group else Gallery())
        left -= bool(of_group)
        room -= result[-1].size
    return result


def _pictures(record: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the pictures of a record, by the names of their images."""
    each = (list(_inside(folder / "pictures", record)) for folder in folders)
    return {path.stem: path for path in next(filter(None, each), [])}


def _inside(pictures: Path, record: str) -> Iterator[Path]:
    """Yield the pictures of a record, but none that a link takes from elsewhere: a page is passed on, they may be private."""
    for path in sorted((pictures / record).glob("*.png")):
        if lies_in(path, pictures):
            yield path
        else:
            warn(f"left out: the picture {path} is no file, or a link out of {pictures}; put a copy there")


def _gallery(pictures: dict[str, dict[str, Path]], room: int) -> Gallery:
    """Return the images of which the most backbones have a picture, then by name, as many as fit; those of the best backbones."""
    shown = dict(list(pictures.items())[:BACKBONES])
    counts = Counter(image for of_images in shown.values() for image in of_images)
    images = sorted(counts, key=lambda image: (-counts[image], image))
    result = Gallery()
    for image in images[:IMAGES]:
        row, legend, is_whole = _row(image, shown, room - result.size)
        result.legend = result.legend or legend
        if row.pictures and (is_whole or not result.rows):  # what is not whole compares little: only the first row may be such
            result.rows.append(row)
            result.size += sum(len(content) for _, content, _ in row.pictures)
        if not is_whole:
            break
    result.note = _note(pictures, result, len({image for of_images in pictures.values() for image in of_images}))
    return result


def _row(image: str, shown: dict[str, dict[str, Path]], room: int) -> tuple[GalleryRow, list[tuple[str, str]], bool]:
    """Return the pictures of an image that fit into `room` bytes, what their colours mean, and whether all of them do."""
    row, legend = GalleryRow(one_line(image)), list[tuple[str, str]]()
    for name, of_images in shown.items():
        for opened in _opened(of_images.get(image)):
            description, colours = description_and_legend(opened)
            legend = legend or colours
            content = source(opened, widest=WIDEST)
            if (room := room - len(content)) < 0:
                return row, legend, False
            row.pictures.append((name, content, f"{name}: {description or 'picture'} of {row.image}"))
    return row, legend, True


def _opened(path: Path | None) -> Iterator[Image.Image]:
    """Yield the picture of a file; nothing where there is none, or one that cannot be read, or that is dangerously large."""
    if path is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as opened:
                opened.load()
                yield opened
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        warn(f"left out: the picture {path} cannot be read ({one_line(str(error))})")


def _note(pictures: dict[str, dict[str, Path]], gallery: Gallery, images: int) -> str:
    """Return which of the images and backbones are shown, and by what rule; "" where all are."""
    backbones = {name for row in gallery.rows for name, _, _ in row.pictures}
    if len(gallery.rows) == images and len(backbones) == len(pictures):
        return ""
    shown = f"{len(gallery.rows)} of {images} images shown, of {len(backbones)} of {len(pictures)} backbones"
    rule = "the best backbones, and first the images that most of them have drawn, as far as they fit into this page"
    return f"{shown}: {rule}. All are in the folder pictures."
