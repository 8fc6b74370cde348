"""The files of a look: its page, and for each kind of map one contact sheet, pictures as rows and backbones as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from densebench.files.atomic import write_text
from densebench.looking import maps
from densebench.looking.grids import cosines
from densebench.looking.kinds import Kind, kinds_of
from densebench.looking.looked import Look, Seen, Tracks, View
from densebench.looking.page import page
from densebench.pictures.canvas import row, save
from densebench.pictures.sheet import Row, sheet

WIDEST, NARROWEST = 208, 112  # px of a picture in a sheet
ACROSS = 2000  # px of all columns together, as far as NARROWEST allows
BESIDE, GAP = 3, 4  # near patches beside each other, and px between them
NAME = 60  # letters of a name in a sheet, at most

Draw = Callable[[View], Image.Image]


def write(look: Look, folder: Path) -> list[Path]:
    """Write index.html and a PNG for each kind of map (colours.png, clusters.png, ...) to a folder, and return their paths.

    The page, which needs no other file, is the first. Each file is written atomically; the same look gives the same bytes.
    Raises UserError where a file cannot be written.
    """
    paths = [folder / "index.html"]
    write_text(paths[0], page(look))
    for kind in kinds_of(look):
        for name, picture in _sheets(look, kind):
            paths.append(folder / f"{name}.png")
            save(picture, paths[-1])
    return paths


def _sheets(look: Look, kind: Kind) -> list[tuple[str, Image.Image]]:
    shown = [seen for seen in look.backbones if seen.views]
    if kind.name == "tracks":
        names = ["tracks"] if len(look.tracks) == 1 else [f"tracks-{number}" for number in range(1, len(look.tracks) + 1)]
        return [(name, _filmed(video, kind)) for name, video in zip(names, look.tracks, strict=True)]
    make = {"similarity": _of_queries, "neighbours": _of_queries}.get(kind.name, _of_maps)
    columns = ["picture", *(_short(seen.name) for seen in shown)]
    width = max(NARROWEST, min(WIDEST, ACROSS // len(columns)))
    rows = make(look, shown, kind, width)
    return [(kind.name, sheet(rows, columns, f"{kind.title}: {_short(look.title)}", _note(kind)))]


def _of_maps(look: Look, shown: Sequence[Seen], kind: Kind, width: int) -> list[Row]:
    draws = [_draw(seen, kind.name) for seen in shown]
    rows: list[Row] = []
    for index, picture in enumerate(look.pictures):
        size = _size(picture.image, width)
        parts = [picture.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)]
        for seen, draw in zip(shown, draws, strict=True):
            view = seen.views[index]
            if kind.name == "attention" and view.attention is None:
                parts.append(_words("no class token", (max(size[0], NARROWEST), size[1])))
                continue
            part = _on_white(draw(view)).resize(size, Image.Resampling.NEAREST)
            parts.append(_outlined(part, view) if kind.name == "norms" else part)
        rows.append((_short(picture.name), parts))
    return rows


def _draw(seen: Seen, kind: str) -> Draw:
    if kind == "clusters":
        count = maps.cluster_count(seen)
        return lambda view: maps.clusters(view, count)
    if kind == "norms":
        scale = maps.norm_scale(seen)
        return lambda view: maps.shaded(view.norms, scale)
    return {"colours": maps.colours, "attention": maps.heads}[kind]


def _of_queries(look: Look, shown: Sequence[Seen], kind: Kind, width: int) -> list[Row]:
    make = _similar if kind.name == "similarity" else _near
    rows: list[Row] = []
    for index, picture in enumerate(look.pictures):
        for number, place in enumerate(look.queries[index], 1):
            grid = max((seen.views[index].grid.shape[:2] for seen in shown), key=lambda size: size[0] * size[1])
            box = maps.patch_box(*maps.patch(place, grid), grid)
            first = picture.image.convert("RGB")
            if kind.name == "similarity":
                parts = [_marked(first.resize(_size(first, width), Image.Resampling.LANCZOS), box)]
            else:
                parts = [_around(first, box, width * 2 // 3)]
            parts += [make(look, seen, index, number, width) for seen in shown]
            rows.append((f"{_short(picture.name)}, query patch {number}", parts))
    return rows


def _similar(look: Look, seen: Seen, index: int, number: int, width: int) -> Image.Image:
    grid = seen.views[index].grid
    row_, column = maps.patch(look.queries[index][number - 1], grid.shape[:2])
    shaded = maps.shaded(cosines(grid, row_, column), maps.COSINES).convert("RGB")
    part = shaded.resize(_size(look.pictures[index].image, width), Image.Resampling.NEAREST)
    return _marked(part, maps.patch_box(row_, column, grid.shape[:2]))


def _near(look: Look, seen: Seen, index: int, number: int, width: int) -> Image.Image:
    """Return the nearest patches with what is around them, the nearest first, as many beside each other as fit."""
    neighbours = seen.views[index].neighbours
    found = neighbours[number - 1] if number <= len(neighbours) else ()
    side = (width - (BESIDE - 1) * GAP) // BESIDE
    parts = []
    for near in found:
        box = maps.patch_box(near.row, near.column, seen.views[near.picture].grid.shape[:2])
        crop = _around(look.pictures[near.picture].image.convert("RGB"), box, side)
        parts.append(row([crop, _words(f"{near.cosine:.2f}", (side, 18))], 0, down=True))
    if not parts:
        return _words("none", (width, side))
    return row([row(parts[start : start + BESIDE], GAP) for start in range(0, len(parts), BESIDE)], 0, down=True)


def _around(picture: Image.Image, box: maps.Box, side: int) -> Image.Image:
    """Return a patch, outlined, with what is around it, as a square of `side` px."""
    left, top, right, bottom = maps.around(box, picture.size)
    edges = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
    crop = picture.resize((side, side), Image.Resampling.BICUBIC, box=edges)
    across, down = right - left, bottom - top
    return _marked(crop, ((box[0] - left) / across, (box[1] - top) / down, (box[2] - left) / across, (box[3] - top) / down))


def _filmed(video: Tracks, kind: Kind) -> Image.Image:
    rows: list[Row] = []
    for name, frames in video.sheets.items():
        parts = [frame.convert("RGB").resize(_size(frame, WIDEST), Image.Resampling.LANCZOS) for frame in frames]
        rows.append((_short(name), parts))
    columns = [f"frame {number}" for number in video.frames]
    return sheet(rows, columns, f"{kind.title}: {_short(video.video)}", _note(kind))


def _note(kind: Kind) -> str:
    return f"{kind.meaning} Shown {kind.source}."


def _size(picture: Image.Image, width: int) -> tuple[int, int]:
    """Return the size of a picture in a sheet: `width` px, less where it would be more than twice as high."""
    scale = min(width / picture.width, 2 * width / picture.height)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _short(name: str) -> str:
    """Return a name in one line, its middle left out where it is long."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    return line if len(line) <= NAME else f"{line[: NAME // 2]}...{line[-NAME // 2 + 3 :]}"


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")


def _marked(picture: Image.Image, box: maps.Box) -> Image.Image:
    """Return a picture with a part outlined in white on black."""
    result = picture.copy()
    left, top, right, bottom = (round(share * length) for share, length in zip(box, picture.size * 2, strict=True))
    pen = ImageDraw.Draw(result)
    pen.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline="black")
    pen.rectangle((left - 1, top - 1, right, bottom), outline="white")
    return result


def _outlined(picture: Image.Image, view: View) -> Image.Image:
    for place in zip(*view.outliers.nonzero(), strict=True):
        picture = _marked(picture, maps.patch_box(int(place[0]), int(place[1]), view.outliers.shape))
    return picture


def _words(text: str, size: tuple[int, int]) -> Image.Image:
    result = Image.new("RGB", size, "white")
    ImageDraw.Draw(result).text((4, 2), text, fill=(90, 90, 90), font=ImageFont.load_default(13))
    return result
