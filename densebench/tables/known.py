"""What the names in a table file mean, each looked up once a table: methods, protocols and data sets."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Literal

from densebench import catalog
from densebench.datasets.catalog import FOLDERS, fits, fitting, load_dataset, titles
from densebench.datasets.unlabelled import JOINED, OFFICIAL
from densebench.errors import UserError, unknown
from densebench.tables.entries import Kind


class Known:
    """The methods, protocols and data sets that are installed while one table is read."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[catalog.Entry, str]] = {}
        self._kinds: dict[str, str] = {}

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The names of all data sets."""
        return list(titles())

    @functools.cached_property
    def options(self) -> set[str]:
        """The options of all methods and protocols that can be read."""
        found = [entry for kind in ("methods", "protocols") for entry in catalog.entries(kind).values()]
        return {
            "arch",
            "data",
            "dataset",
            "datasets",
            "limit",
            *(flag.name for each in found for part in each.parts for flag in part.flags()),
        }

    def entry(self, kind: Literal["methods", "protocols"], name: str) -> catalog.Entry:
        """Return a method or a protocol. Raises UserError for an unknown one."""
        return self._entry(kind, name)[0]

    def kind(self, kind: Literal["methods", "protocols"], name: str, preset: str | None) -> Kind:
        """Return the part of a method or a protocol that has the preset. Raises UserError for an unknown one of either."""
        found, code = self._entry(kind, name)
        catalog.check_preset(found, name, preset)
        part = found.part(preset)
        return Kind({flag.name: flag for flag in part.flags()}, part.takes, part.needs_background, code)

    def labels(self, name: str) -> str:
        """Return the kind of labels of a known data set; "" for a path, whose labels are known only once it is opened."""
        if name not in self._kinds:
            self._kinds[name] = load_dataset(name).kind if name in self.datasets else ""
        return self._kinds[name]

    def fitting(self, names: Sequence[str], kind: Kind) -> list[str]:
        """Return those of some data sets that have the labels that a protocol takes, and paths.

        A data set with other labels stands for the first NAME-... that has such, as scenes does for scenes-boxes.
        """
        found = []
        for name in names:
            alike = [name, *(each for each in self.datasets if each.startswith(f"{name}-"))]
            found += [each for each in alike if self._fits(each, kind)][:1]
        return list(dict.fromkeys(found))

    def _fits(self, name: str, kind: Kind) -> bool:
        labels = self.labels(name)
        if labels == "label maps" and kind.needs_background and load_dataset(name).background is None:
            return False
        return not kind.takes or not labels or fits(labels, kind.takes)

    def check_images(self, name: str) -> None:
        """Raise UserError for images to train on that are neither a known set nor written as a path."""
        known = [*OFFICIAL, *JOINED, *self.datasets]
        if not (name in known or _is_path(name) or name.endswith(".tar")):
            raise unknown("data", name, known, f"it takes the path of a folder or {', '.join(known)}")

    def check_labelled(self, name: str) -> None:
        """Raise UserError for a data set to score on that is neither known nor written as a path."""
        if not (name in self.datasets or _is_path(name)):
            remedy = f"there are {', '.join([*self.datasets, *FOLDERS.values()])} and ./file.py"
            raise unknown("data set", name, self.datasets, remedy)

    def check_labels(self, name: str, protocol: str, takes: str) -> None:
        """Raise UserError for a known data set with other labels than a protocol takes."""
        if takes and (labels := self.labels(name)) and not fits(labels, takes):
            raise UserError(f"datasets: {name} has {labels}; {protocol} takes {takes}: {fitting(takes)}")

    def _entry(self, kind: Literal["methods", "protocols"], name: str) -> tuple[catalog.Entry, str]:
        if (kind, name) not in self._found:
            self._found[kind, name] = catalog.find(kind, name), catalog.code_of(kind, name)
        return self._found[kind, name]


def _is_path(name: str) -> bool:
    is_folder = os.path.isdir(name)  # noqa: PTH112 (Path raises for a name that is too long)
    return name.startswith(("folder:", "frames:", "boxes:", "pictures:", ".")) or "/" in name or name.endswith(".py") or is_folder
