"""How much of a split's official images a record covers, in words that a reader cannot mistake.

Everything is read from the `dataset` part of a record:

    images                  number of images that were scored
    left_out                number that are present but that the protocol leaves out, such as those without a box
    official_images         number that the split has officially; None where that is not known, as of the user's own folder
    train_images, official_train_images  the same for the training split
    pairs, official_pairs   the same for pairs of images, where these are what is scored

A split is partial where its number of images is not the official one, or that of its pairs. What a protocol leaves out of a whole
split does not make it partial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WARNING = "not comparable with published numbers"


def images(dataset: Mapping[str, Any]) -> str:
    """Return "1,449 images", or "300 of 1,449 images, 437 of 1,464 training images" where a split is partial.

    Where pairs are scored, return "96 pairs of 32 images" or "40 of 299 pairs, of 66 images".
    """
    count, official = dataset["images"], dataset.get("official_images")
    if "pairs" in dataset:
        text = _pairs(dataset["pairs"], dataset.get("official_pairs"), f"of {count:,} images")
    else:
        text = f"{count:,} images" if _whole(_all(dataset), official) else _part(count, official, "images")
    return f"{text}, {_part(dataset['train_images'], _train(dataset), 'training images')}" if _partial_train(dataset) else text


def partial(dataset: Mapping[str, Any]) -> bool:
    """Return whether the scored or the training split lacks images, or has more than officially."""
    pairs_are_whole = "pairs" not in dataset or _whole(dataset["pairs"], dataset.get("official_pairs"))
    return not (pairs_are_whole and _whole(_all(dataset), dataset.get("official_images"))) or _partial_train(dataset)


def unit(dataset: Mapping[str, Any]) -> str:
    """Return what the limit of a record counts: "pairs" where pairs are scored, else "images"."""
    return "pairs" if "pairs" in dataset else "images"


def _pairs(count: int, official: int | None, of_images: str) -> str:
    return f"{count:,} pairs {of_images}" if _whole(count, official) else f"{_part(count, official, 'pairs')}, {of_images}"


def _all(dataset: Mapping[str, Any]) -> int:
    return int(dataset["images"]) + int(dataset.get("left_out", 0))


def _train(dataset: Mapping[str, Any]) -> int | None:
    return dataset.get("official_train_images")


def _partial_train(dataset: Mapping[str, Any]) -> bool:
    if dataset.get("train_split") == dataset["split"]:
        return False  # it is the same split, and has been named already
    return not _whole(dataset.get("train_images", 0), _train(dataset))


def _whole(count: int, official: int | None) -> bool:
    return official is None or count == official


def _part(count: int, official: int | None, what: str) -> str:
    if official is not None and count > official:
        return f"{count:,} {what} where officially there are {official:,}"
    return f"{count:,} of {official:,} {what}"
