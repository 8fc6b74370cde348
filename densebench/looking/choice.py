"""The pictures that a look shows: those that are named, or as many that differ as are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps

from densebench.console import warn
from densebench.datasets.folder import ORIENTATION
from densebench.datasets.images import Images
from densebench.datasets.threads import THREADS
from densebench.errors import UserError, unknown
from densebench.features.views import named_generator
from densebench.looking.looked import Picture
from densebench.looking.thumbnails import decoder, descriptor, thumbnail
from densebench.numerics.kmeans import kmeans
from densebench.numerics.lloyd import assign

CANDIDATES = 240
"""Pictures that are compared at most: as many are drawn from a larger folder."""
SHOWN = 1024**2
"""Pixels of a picture at most: larger ones are reduced before anything else, for the backbones and for the page."""
NAMED = 5
"""Broken files that one notice names."""


def named(images: Images, names: Sequence[str]) -> list[int]:
    """Return the indices of pictures that are given by their path in the folder, file name, or file name without its ending.

    Several may stand in one text, with commas. Raises UserError for a name that is unknown or fits several pictures.
    """
    by_name: dict[str, list[int]] = {}
    for index in range(len(images)):
        title = images.title(index)
        path = PurePosixPath(title)
        for name in dict.fromkeys((title, path.name, path.stem)):
            by_name.setdefault(name, []).append(index)
        by_name[title] = [index]
    each = [part for text in names for part in ([text] if text in by_name else text.split(","))]
    return list(dict.fromkeys(_index(images, part.strip(), by_name) for part in each))


def _index(images: Images, name: str, by_name: dict[str, list[int]]) -> int:
    found = by_name.get(name, [])
    if not found:
        raise unknown("picture", name, by_name, f"give a path below {images.name}, such as {images.title(0)}")
    if len(found) > 1:
        which = " or ".join(images.title(index) for index in found[:3])
        raise UserError(f"--images {name}: {len(found)} pictures have that name; give {which}")
    return found[0]


def different(images: Images, count: int, seed: int) -> tuple[list[int], list[str]]:
    """Return the indices of pictures that differ, in order, and notes about the choice.

    Of more than CANDIDATES pictures as many are drawn at random; what they show is compared at 16 x 16 px (`descriptor`), they
    are clustered by K-means into `count` clusters, and of each cluster the picture nearest to its centre is taken. So every kind
    of picture is shown, and near copies once. Pictures that cannot be decoded are named in a warning and left out. Raises
    UserError where none can be decoded.
    """
    candidates = list(range(len(images)))
    if len(images) > CANDIDATES:
        drawn = named_generator(f"pictures of a look {seed}").choice(len(images), CANDIDATES, replace=False)
        candidates = sorted(int(index) for index in drawn)
    with decoder("reduced"), ThreadPoolExecutor(THREADS) as pool:
        tried = list(pool.map(lambda index: _described(images, index), candidates))
    shown = {index: each for index, each in zip(candidates, tried, strict=True) if not isinstance(each, UserError)}
    problems = [each for each in tried if isinstance(each, UserError)]
    if not shown:
        raise UserError(f"none of {len(candidates)} pictures can be decoded; the first: {problems[0]}")
    notes = _left_out(problems)
    if len(images) > CANDIDATES:
        notes.append(
            f"the pictures were chosen from {len(candidates):,} of {len(images):,} that were drawn at random (seed {seed})"
        )
    if count >= len(shown):
        return list(shown), notes
    rows = differing(np.stack(list(shown.values())), count, seed)
    return [list(shown)[row] for row in rows], notes


def _described(images: Images, index: int) -> Float[np.ndarray, "d"] | UserError:
    try:
        return descriptor(thumbnail(images, index))
    except UserError as error:
        return error


def _left_out(problems: Sequence[UserError]) -> list[str]:
    """Warn of pictures that cannot be decoded, and return the same as a note."""
    if not problems:
        return []
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    each = "; ".join(str(problem) for problem in problems[:NAMED])
    text = f"left out: {each}{more}"
    warn(f"look: {text}")
    return [text]


def differing(points: Float[np.ndarray, "n d"], count: int, seed: int) -> list[int]:
    """Return the rows of `count` points that differ, ascending: those nearest to the centroids of K-means.

    A centroid whose nearest point is taken already, as among copies, gives way to the point farthest from those taken.
    """
    tensor = torch.from_numpy(points)
    centroids = kmeans(tensor, count, seed=seed, restarts=4, init="k-means++", per_cluster=None).centroids
    members = assign(tensor, centroids[None])[0][0]
    taken: list[int] = []
    for cluster in range(count):
        rows = (members == cluster).nonzero()[:, 0]
        if len(rows):
            taken.append(int(rows[(tensor[rows] - centroids[cluster]).square().sum(1).argmin()]))
    while len(taken) < count:
        distances = torch.cdist(tensor, tensor[taken]).amin(1)
        distances[taken] = -1
        taken.append(int(distances.argmax()))
    return sorted(taken)


def pictures(images: Images, indices: Sequence[int], explicit: bool) -> tuple[list[int], list[Picture], list[str]]:
    """Return the indices that could be decoded, the pictures as backbones and page get them, and notes about them.

    Pictures are turned upright by their EXIF, and reduced to SHOWN pixels. Raises UserError for one that cannot be decoded, if it
    was asked for by name (`explicit`) or none can; else it is left out with a warning.
    """
    taken, found, problems, turned = [], [], [], 0
    with decoder("pillow"):
        for index in indices:
            try:
                image = images.open(index)
            except UserError as error:
                if explicit:
                    raise
                problems.append(error)
                continue
            turned += _orientation(image) != 1
            found.append(Picture(images.title(index), _reduced(_upright(image))))
            taken.append(index)
    if not found:
        raise problems[0]
    notes = _left_out(problems)
    if turned:
        verb = "picture was" if turned == 1 else "pictures were"
        notes.append(f"{turned} {verb} turned upright by EXIF orientation (evaluations take files as they are stored)")
    return taken, found, notes


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # a damaged header raises almost anything; the pixels were decoded already
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) in range(2, 9) else image


def _reduced(image: Image.Image) -> Image.Image:
    """Return a picture with at most SHOWN pixels, and nothing but its pixels."""
    scale = (SHOWN / (image.width * image.height)) ** 0.5
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    return Image.fromarray(np.asarray(image))
