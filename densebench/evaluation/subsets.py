"""Which training images a fraction takes: uniform subsets (CrIBo), class-balanced ones (Hummingbird), and lists of names.

Subsets of one seed are prefixes of one order, so the smaller lie inside the larger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from densebench.datasets.io.names import read_words
from densebench.errors import UserError
from densebench.files.atomic import digest


def uniform_order(n_images: int, seed: int) -> Int[np.ndarray, "n"]:
    """Return a random order of the images; every prefix is a uniform subset."""
    return np.random.default_rng(seed).permutation(n_images)


def balanced_order(presence: Bool[np.ndarray, "n c"], seed: int) -> Int[np.ndarray, "n"]:
    """Return an order of the images whose prefixes show the classes as evenly as the data allow.

    It goes over the classes in rounds, each in a new random order; in a round each class takes one random image that shows it and
    is not taken yet. Classes without such an image are passed over. Images without any class come last, in random order.
    `presence` says which classes each image shows (leave the background out).
    """
    rng = np.random.default_rng(seed)
    n_images, n_classes = presence.shape
    queues = [rng.permutation(np.flatnonzero(presence[:, label])).tolist() for label in range(n_classes)]
    taken = np.zeros(n_images, bool)
    order: list[int] = []
    while any(queues):
        for label in rng.permutation(n_classes):
            queue = queues[label]
            while queue and taken[queue[-1]]:
                queue.pop()
            if queue:
                order.append(queue.pop())
                taken[order[-1]] = True
    rest = rng.permutation(np.flatnonzero(~taken))
    return np.concatenate([np.array(order, np.int64), rest])


def subset_size(n_images: int, fraction: int, n_classes: int | None = None) -> int:
    """Return how many images 1/fraction takes: floor(n / fraction), or for balanced subsets the nearest multiple of n_classes.

    The multiple applies where there is at least one image a class. It is the rule behind the published Hummingbird lists: of
    10582 images and 20 classes 80, 160 and 1320 for 1/128, 1/64 and 1/8, of 20210 and 150 classes 150, 300 and 2550 (the last
    is above 20210 / 8: it is the nearest multiple and not the largest below). Raises UserError where nothing is left.
    """
    if fraction < 1:
        raise UserError(f"the fraction 1/{fraction} is not a part of the data; give a whole number from 1 up")
    if n_images // fraction == 0:
        raise UserError(f"1/{fraction} of {n_images} images leaves no image; the smallest fraction that works is 1/{n_images}")
    if fraction == 1 or n_classes is None or n_images < n_classes * fraction:
        return n_images // fraction
    step = n_classes * fraction
    return min(n_images, (2 * n_images + step) // (2 * step) * n_classes)


def read_subset(
    subset_dir: Path, dataset: str, fraction: int, names: Sequence[str], missing: str = "error"
) -> dict[int, Int[np.ndarray, "n"]]:
    """Return the images of published subsets as indices into `names`, by seed in ascending order.

    Reads <subset_dir>/<dataset>/1_div_<fraction>/*_<fraction>_<seed>.txt, a name a line; `subset_dir` may also be the data
    set's own folder. Fraction 1 is the whole split, under seed 0. A name that is not in `names` is an error, or left out where
    `missing` is "skip". Raises UserError for missing lists, for unknown names and for a subset that leaves no image.
    """
    if fraction == 1:
        return {0: np.arange(len(names))}
    index = {name: number for number, name in enumerate(names)}
    subsets = {}
    for seed, path in sorted(_lists(subset_dir, dataset, fraction).items()):
        wanted = read_words(path)
        unknown = [name for name in wanted if name not in index]
        if unknown and missing == "error":
            raise UserError(
                f"{len(unknown)} of the {len(wanted)} names in {path} are not in {dataset}, the first is {unknown[0]}; "
                "complete the data or pass --subset-missing skip"
            )
        subsets[seed] = np.array([index[name] for name in wanted if name in index], np.int64)
        if not len(subsets[seed]):
            raise UserError(
                f"none of the {len(wanted)} names in {path} is in {dataset}; take a larger subset or complete the data"
            )
    return subsets


def lists_digest(subset_dir: Path, dataset: str) -> str:
    """Return the digest of a data set's lists: of their names and what they hold, wherever the folder is."""
    folder = _folder(subset_dir, dataset)
    files = sorted(folder.glob("1_div_*/*.txt"))
    return digest([[str(path.relative_to(folder)), read_words(path)] for path in files], 16)


def _folder(subset_dir: Path, dataset: str) -> Path:
    return subset_dir / dataset if (subset_dir / dataset).is_dir() else subset_dir


def _lists(subset_dir: Path, dataset: str, fraction: int) -> dict[int, Path]:
    folder = _folder(subset_dir, dataset)
    pattern = re.compile(rf".+_{fraction}_(\d+)\.txt")
    lists = {
        int(match[1]): path
        for path in (folder / f"1_div_{fraction}").glob("*.txt")
        if (match := pattern.fullmatch(path.name)) is not None
    }
    if not lists:
        known = sorted(int(path.name.removeprefix("1_div_")) for path in folder.glob("1_div_*") if path.name[6:].isdecimal())
        fractions = ", ".join(f"1/{value}" for value in known) or "none"
        raise UserError(f"there is no list of names for 1/{fraction} of {dataset} in {subset_dir}; fractions there: {fractions}")
    return lists
