"""Label maps of unknown origin: their values or colours as they are, and which of these occur in a whole folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image

from densebench.datasets.folders.options import UNSIGNED
from densebench.datasets.io.decoding import opened
from densebench.datasets.io.digests import FileDigests
from densebench.datasets.threads import in_threads
from densebench.errors import UserError
from densebench.files.atomic import cache_root, digest, read_checked, sweep, write_checked

VERSION = 1  # raise it when a file would be summarised otherwise
MOST = 254
"""Most values or colours of label maps: ids of 8 bits, of which 255 is void."""
STRAY = 8
"""So many values may fill no square of 2 x 2 pixels before they are taken for smoothed edges."""
GREY, WIDE = ("1", "L", "P", "LA", "PA"), ("I;16", "I;16B", "I;16L", "I")

Mapping = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """What the label maps of a folder hold.

    colours: whether pixels are colours (then a value is 65536 R + 256 G + B) or numbers. values: all that occur, sorted.
    examples: a file for each value. palette: the colour of each value, where all files are paletted.
    """

    colours: bool
    values: tuple[int, ...]
    examples: tuple[Path, ...]
    palette: dict[int, int]

    def example(self, value: int) -> Path:
        """Return a file that holds a value."""
        return self.examples[self.values.index(value)]


def read_values(path: Path, colours: bool = False) -> Int32[np.ndarray, "h w"]:
    """Return the pixels of a label map as numbers: grey values (up to 16 bits) or a palette's indices, as they are.

    With `colours`, return 65536 R + 256 G + B; a palette is looked up, transparency dropped. A picture of three equal channels is
    grey. Raises UserError where the file is missing or broken, is a JPEG, or holds colours or fractions and numbers are asked.
    """
    with opened(path, f"the label map {path}") as mask:
        _check_lossless(mask, path)
        if colours:
            return _packed(mask)
        if mask.mode in ("RGB", "RGBA"):
            packed = _packed(mask)
            if (packed % 0x010101).any():
                raise _of_another_kind(path, mask, "convert it, or list the colour of each class as values in classes.toml")
            return packed % 256
        if mask.mode not in (*GREY, *WIDE):
            raise _of_another_kind(path, mask, "convert it")
        pixels = np.array(mask.convert("L") if mask.mode == "LA" else mask.convert("P") if mask.mode == "PA" else mask)
        pixels = np.where(pixels == -1, UNSIGNED, pixels).astype(np.int32) if mask.mode == "I" else pixels.astype(np.int32)
        if int(pixels.min(initial=0)) < 0:
            raise UserError(f"the label map {path} holds the value {pixels.min()}; ids count from 0, and -1 may be void")
        return pixels


def _of_another_kind(path: Path, mask: Image.Image, remedy: str) -> UserError:
    return UserError(
        f"the label map {path} has mode {mask.mode}, not one id a pixel (8-bit palette or grey, ids up to 255); {remedy}"
    )


def _check_lossless(mask: Image.Image, path: Path) -> None:
    if mask.format == "JPEG":
        raise UserError(f"the label map {path} is a JPEG, whose compression changes the values; export it again as PNG")


def _packed(mask: Image.Image) -> Int32[np.ndarray, "h w"]:
    red, green, blue = np.moveaxis(np.array(mask.convert("RGBA").convert("RGB")).astype(np.int32), -1, 0)
    return 65536 * red + 256 * green + blue


def summarise(paths: Sequence[Path], digests: FileDigests, what: str) -> Summary:
    """Return what label maps hold; each is decoded once, and the outcome is cached by the digests of the files.

    Raises UserError where a file cannot be read, is a JPEG, or where edges seem smoothed; where some are colours and some
    numbers; where palettes contradict one another; and for more than MOST values.
    """
    key = digest([VERSION, *(digests.digest(path) for path in paths)], 32)
    digests.save()
    stored = cache_root() / "label-values" / f"{key}.json"
    content = read_checked(stored)
    rows = json.loads(content) if content is not None else in_threads(_row, paths, f"values of the label maps of {what}")
    if content is None:
        sweep(stored.parent)
        write_checked(stored, json.dumps(rows).encode())
    return _joined(rows, paths)


def _row(path: Path) -> dict[str, Any]:
    """Return what one label map holds, as JSON values: numbers or colours, those that fill squares, and its palette."""
    with opened(path, f"the label map {path}") as mask:
        _check_lossless(mask, path)
        mode, palette = mask.mode, mask.getpalette("RGB") if mask.mode == "P" else None
        coloured = mode in ("RGB", "RGBA")
        pixels = _packed(mask) if coloured else None
    pixels = read_values(path) if pixels is None else pixels
    grey = coloured and not (pixels % 0x010101).any()
    values, solid = _occurring(pixels % 256 if grey else pixels)
    if len(values) > MOST + 1:
        raise smoothed(path, len(values), coloured and not grey)
    known = palette or []
    colours = {value: _colour(known, value) for value in values} if palette is not None else None
    return {"kind": "colours" if coloured and not grey else "numbers", "values": values, "solid": solid, "palette": colours}


def _colour(palette: list[int], index: int) -> int:
    red, green, blue = (*palette[3 * index : 3 * index + 3], 0, 0, 0)[:3]
    return 65536 * red + 256 * green + blue


def _occurring(pixels: Int32[np.ndarray, "h w"]) -> tuple[list[int], list[int]]:
    """Return the sorted values that occur, and those that somewhere fill a square of 2 x 2 pixels."""
    squares = pixels[1:, 1:]
    filled = (squares == pixels[:-1, 1:]) & (squares == pixels[1:, :-1]) & (squares == pixels[:-1, :-1])
    present = np.zeros(int(pixels.max(initial=0)) + 1, bool)
    solid = present.copy()
    present[pixels], solid[squares[filled]] = True, True
    return np.flatnonzero(present).tolist(), np.flatnonzero(solid).tolist()


def smoothed(path: Path, count: int, colours: bool) -> UserError:
    """Return the error for a label map with too many values."""
    kind = "colours" if colours else "values"
    return UserError(
        f"the label map {path} has {count} {kind}, and most of them only along edges: it seems smoothed or scaled; "
        f"export it again without anti-aliasing, as PNG with one {kind[:-1]} a class"
    )


def _joined(rows: Sequence[Mapping], paths: Sequence[Path]) -> Summary:
    kinds = [row["kind"] for row in rows]
    if len(set(kinds)) > 1:
        numbers, coloured = (paths[kinds.index(kind)] for kind in ("numbers", "colours"))
        raise UserError(f"the label map {numbers} holds numbers, {coloured} colours; convert all of them to one kind")
    colours = "colours" in kinds
    first: dict[int, Path] = {}
    for row, path in zip(rows, paths, strict=True):
        for value in row["values"]:
            first.setdefault(value, path)
    solid = {value for row in rows for value in row["solid"]}
    stray = first.keys() - solid
    if len(stray) > STRAY and 2 * len(stray) > len(first):
        worst = max(range(len(rows)), key=lambda index: len(rows[index]["values"]))
        raise smoothed(paths[worst], len(rows[worst]["values"]), colours)
    if len(first) > MOST + 1:
        kind = "colours" if colours else "values"
        raise UserError(f"{len(paths)} label maps in {paths[0].parent} have {len(first)} {kind}; at most {MOST} can be classes")
    values = tuple(sorted(first))
    return Summary(colours, values, tuple(first[value] for value in values), _one_palette(rows, paths))


def _one_palette(rows: Sequence[Mapping], paths: Sequence[Path]) -> dict[int, int]:
    """Return value -> colour where all files have palettes. Raises UserError where two disagree on a value that both hold."""
    palette: dict[int, int] = {}
    source: dict[int, Path] = {}
    for row, path in zip(rows, paths, strict=True):
        for value, colour in (row["palette"] or {}).items():
            number = int(value)
            if palette.setdefault(number, colour) != colour:
                raise UserError(
                    f"the palettes of the label maps disagree: {number} is {hexed(palette[number])} in {source[number]} and "
                    f"{hexed(colour)} in {path}; save them as grey values if the numbers are right, as RGB if the colours are"
                )
            source.setdefault(number, path)
    return palette if all(row["palette"] is not None for row in rows) else {}


def hexed(colour: int) -> str:
    """Return a colour as text, such as #80ff00."""
    return f"#{colour:06x}"
