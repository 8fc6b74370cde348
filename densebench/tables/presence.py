"""What is there of what a table needs: files of weights, data sets and their splits, packages."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.backbones.checkpoint import FACTS
from densebench.datasets import load_dataset
from densebench.datasets.catalog import titles
from densebench.datasets.dataset import Dataset
from densebench.datasets.images import Images
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError
from densebench.extras import EXTRAS, is_installed
from densebench.files.atomic import file_digest
from densebench.results import coverage

WEIGHTS, DATA, PACKAGE, OPTION, CELL = "weights", "data", "package", "option", "cell"
"""Kinds of what a cell may lack: `cell` is another cell that cannot run."""
PACKAGES = {"scann": "scann", "faiss": "faiss", "faiss-ivf": "faiss", "turbo": "simplejpeg"}
"""Package by the value of an option, `engine` or `decoder`, that needs it."""


@dataclass(frozen=True)
class Lack:
    """One thing that a cell needs and that is not there.

    name: the file, the data set, the package or the cell. what: what is wrong with it, in words. remedy: what to do, where `what`
    does not say it. url, sha256: the address of weights, and their digest.
    """

    kind: str
    name: str
    what: str
    remedy: str = ""
    url: str | None = None
    sha256: str | None = None


class Presence:
    """Looks up what is there, every file, data set and split once."""

    def __init__(self, data_root: Path | None) -> None:
        self._root = data_root
        self.weights = functools.cache(_weights)
        self.dataset = functools.cache(self._dataset)
        self.split = functools.cache(self._split)
        self.images = functools.cache(self._images)

    def splits(self, name: str, splits: tuple[str, str]) -> tuple[list[Lack], list[str]]:
        """Return what is missing of the training or the scored split of an opened data set, and a note on what is partial."""
        dataset, counts = self.dataset(name), [self.split(name, split) for split in splits]
        lacks = [count for count in counts if isinstance(count, Lack)]
        if lacks or isinstance(dataset, Lack):
            return lacks[:1], []
        facts = {
            "split": splits[1], "train_split": splits[0], "images": counts[1], "train_images": counts[0],
            "official_images": dataset.official_images(splits[1]), "official_train_images": dataset.official_images(splits[0]),
            **dataset.extent(splits[1], None),
        }  # fmt: skip
        return [], [f"{name}: {coverage.images(facts)}, {coverage.WARNING}"] if coverage.partial(facts) else []

    def scored(self, name: str) -> list[Lack]:
        """Return what is missing of the split of an opened data set that is scored."""
        dataset = self.dataset(name)
        count = dataset if isinstance(dataset, Lack) else self.split(name, dataset.val_split)
        return [count] if isinstance(count, Lack) else []

    def _dataset(self, name: str) -> Dataset | Lack:
        """Return an opened data set, which remembers the sizes of its images, or what keeps it from being opened."""
        try:
            dataset = load_dataset(name, self._root)
        except UserError as error:
            return Lack(DATA, name, str(error))
        object.__setattr__(dataset, "image_size", functools.cache(dataset.image_size))  # frozen; every cell asks for all of them
        return dataset

    def _split(self, name: str, split: str) -> int | Lack:
        """Return how many images a split has, or what is missing."""
        dataset = self.dataset(name)
        if isinstance(dataset, Lack):
            return dataset
        try:
            return len(dataset.items(split))
        except UserError as error:
            return Lack(DATA, name, str(error), _get([name]))

    def _images(self, names: Sequence[str], limit: int | None) -> Images | Lack:
        """Return opened images to train on, or what is missing."""
        try:
            return open_images(names, self._root, limit)
        except UserError as error:
            return Lack(DATA, "+".join(names), str(error), _get(names))


def package_of_spec(spec: str) -> Lack | None:
    """Return the package that a kind of backbone needs and that is not installed, if any."""
    return _lacking("transformers", f"the backbone {spec}") if spec.startswith("hf:") else None


def package_of(options: Any) -> Lack | None:
    """Return the package that the options of a method or a protocol need and that is not installed, if any."""
    for option in ("engine", "decoder"):
        value = getattr(options, option, None)
        if value in PACKAGES and (lack := _lacking(PACKAGES[value], f"--{option} {value}")):
            return lack
    return None


def has_checkpoint(spec: str) -> bool:
    """Return whether the folder of a spec ckpt:DIR holds a checkpoint."""
    return (Path(spec.removeprefix("ckpt:")) / FACTS).is_file()


def fetched(spec: str, weights: str | None) -> str:
    """Return a note on weights that are fetched when a backbone is loaded; "" where they are files or there are none."""
    kind, _, name = spec.partition(":")
    is_local = (
        kind not in ("timm", "hub", "hf") or weights is not None or (kind == "hub" and Path(name.partition(":")[0]).is_dir())
    )
    return "" if is_local else f"{spec}: its weights are fetched when it is loaded, unless they are in the cache of their library"


def _weights(path: str | None, url: str | None, sha256: str | None) -> Lack | None:
    """Return what is wrong with a file of weights; None where it is there, and has the given digest."""
    if path is None:
        return None
    remedy = f"fetch {url} and save it under this name" if url else "put it there or give another --weights-dir"
    if not Path(path).is_file():
        return Lack(WEIGHTS, path, f"there is no file {path}", remedy, url, sha256)
    if sha256 is not None and (actual := file_digest(Path(path))) != sha256:
        return Lack(WEIGHTS, path, f"{path} has the sha256 {actual}, another one than the table says", remedy, url, sha256)
    return None


def _get(names: Sequence[str]) -> str:
    """Return the commands that fetch the data sets among these names."""
    return "; ".join(f"densebench data get {name}" for name in names if name in titles())


def _lacking(package: str, purpose: str) -> Lack | None:
    if is_installed(package):
        return None
    extra = f"'densebench[{EXTRAS[package]}]'" if package in EXTRAS else package
    return Lack(PACKAGE, package, f"{purpose} needs {package}, which is not installed", f"pip install {extra}")
