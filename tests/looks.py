"""Made-up looks: backbones that tell the things of drawn pictures apart, and others that make noise of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from densebench.looking.looked import Figure, Look, Neighbour, Picture, Seen, Tracks, View

THINGS = 5


def look(
    names=("one.jpg", "two.jpg", "three.jpg"),
    backbones=("trained", "random"),
    *,
    title="photos",
    grid=(6, 8),
    dims=12,
    size=(96, 72),
    queries=((0.5, 0.5), (0.2, 0.3)),
    problem="its checkpoint lacks a tensor",
    tracks=True,
    notes=("3 of 20 pictures, chosen to differ.",),
    command="densebench look photos --backbone timm:a",
    heads=3,
) -> Look:
    """A look at drawn pictures. Every second backbone makes noise of them and has no class token; one more failed: `problem`."""
    things = [_things(index, grid) for index in range(len(names))]
    pictures = tuple(Picture(name, _drawn(each, size)) for name, each in zip(names, things, strict=True))
    seen = [_seen(name, number, things, dims, queries, heads) for number, name in enumerate(backbones)]
    failed = [Seen("broken", "timm:broken", problem=problem)] if problem else []
    frames = tuple(picture.image for picture in pictures[:2])
    videos = (Tracks("bear", tuple(range(len(frames))), dict.fromkeys(backbones, frames)),) if tracks else ()
    return Look(title, pictures, (*seen, *failed), (queries,) * len(names), videos, command, notes, "96 px")


def _things(index: int, grid: tuple[int, int]) -> np.ndarray:
    """Which thing each patch shows: two discs on a ground whose halves differ."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    rows, columns = (rows + 0.5) / grid[0], (columns + 0.5) / grid[1]
    result = (rows > 0.5).astype(int)
    for thing in (2, 3):
        away = (rows - 0.3 - 0.1 * ((index + thing) % 4)) ** 2 + (columns - 0.25 * (thing - 1) - 0.05 * (index % 5)) ** 2
        result[away < 0.03] = thing + (index + thing) % 2
    return np.minimum(result, THINGS - 1)


def _drawn(things: np.ndarray, size: tuple[int, int]) -> Image.Image:
    colours = np.array([(120, 170, 220), (90, 140, 70), (200, 80, 60), (230, 200, 80), (60, 60, 90)], np.uint8)
    smooth = Image.fromarray(colours[things]).resize(size, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(smooth, int) + grain, 0, 255).astype(np.uint8))


def _seen(name, number, things, dims, queries, heads) -> Seen:
    noisy = number % 2
    rng = np.random.default_rng(number)
    kinds = rng.normal(size=(THINGS, dims)).astype(np.float32)
    grids = [(0 if noisy else 1) * kinds[each] + rng.normal(size=(*each.shape, dims)) * (1 if noisy else 0.3) for each in things]
    grids = [grid.astype(np.float32) for grid in grids]
    views = []
    for index, (grid, each) in enumerate(zip(grids, things, strict=True)):
        norms = np.linalg.norm(grid, axis=2)
        colours = np.clip(128 + 60 * grid[..., :3], 0, 255).astype(np.uint8)
        clusters = grid[..., :4].argmax(2)
        attention = None if noisy else np.abs(rng.normal(size=(heads, *each.shape)))
        near = tuple(_near(grids, index, place) for place in queries)
        views.append(View(grid, colours, each >= 2, clusters, norms, norms > np.quantile(norms, 0.97), attention, near))
    facts = {"width": str(dims), "stride": "16 px", "parameters": "22.1 M", "GFLOP": "4.6", "images/s": "6.2", "memory": "92 MiB"}
    figures = (
        Figure("effective rank (RankMe)", 7.5, "8 of 12", "How many directions the features use.", "Garrido et al., 2023"),
        Figure("position read-out (R²)", None, "needs two pictures", "How much says where.", "Amir et al., 2022"),
    )
    return Seen(name, f"timm:{name}", 16, facts, figures, tuple(views))


def _near(grids: list[np.ndarray], index: int, place: tuple[float, float]) -> tuple[Neighbour, ...]:
    """The nearest patch of each other picture."""
    unit = [grid / np.linalg.norm(grid, axis=2, keepdims=True) for grid in grids]
    rows, columns = grids[index].shape[:2]
    query = unit[index][int(place[0] * rows), int(place[1] * columns)]
    found = []
    for other, grid in enumerate(unit):
        if other != index:
            cosines = grid @ query
            row, column = np.unravel_index(cosines.argmax(), cosines.shape)
            found.append(Neighbour(other, int(row), int(column), float(cosines.max())))
    return tuple(sorted(found, key=lambda near: -near.cosine)[:5])
