"""The names of data in a table file: what is trained on, and what a protocol scores on."""

from __future__ import annotations

import os

from densebench.datasets.catalog import FOLDERS, fitting, load_dataset, titles
from densebench.datasets.unlabelled import JOINED, OFFICIAL
from densebench.errors import UserError, unknown


def kind_of(name: str) -> str:
    """Return the kind of labels of a known data set; "" for a path, which only opening it tells."""
    return load_dataset(name).kind if name in titles() else ""


def check_images(name: str) -> None:
    """Raise UserError for images to train on that are neither a known set nor written as a path."""
    known = [*OFFICIAL, *JOINED, *titles()]
    if not (name in known or _is_path(name) or name.endswith(".tar")):
        raise unknown("data", name, known, f"it takes the path of a folder or {', '.join(known)}")


def check_labelled(name: str) -> None:
    """Raise UserError for a data set to score on that is neither known nor written as a path."""
    known = titles()
    if not (name in known or _is_path(name)):
        raise unknown("data set", name, known, f"there are {', '.join([*known, *FOLDERS.values()])} and ./file.py")


def check_kind(name: str, protocol: str, takes: str) -> None:
    """Raise UserError for a known data set of another kind than a protocol takes."""
    if takes and (kind := kind_of(name)) not in ("", takes):
        raise UserError(f"datasets: {name} has {kind}; {protocol} takes {takes}: {fitting(takes)}")


def _is_path(name: str) -> bool:
    is_folder = os.path.isdir(name)  # noqa: PTH112 (Path raises for a name that is too long)
    return name.startswith(("folder:", "frames:", ".")) or "/" in name or name.endswith(".py") or is_folder
