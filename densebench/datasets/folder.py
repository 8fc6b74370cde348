"""The user's own folder of images and label maps: `folder:DIR`.

    DIR/classes.toml             classes = ["cat", "dog"], and optionally the keys below
    DIR/images/<split>/<name>.*  jpg, jpeg, png, webp, bmp or tif
    DIR/labels/<split>/<name>.png  one id a pixel, greyscale or paletted

Optional keys of classes.toml, with their defaults: ignore_index = 255 (the value of unlabelled pixels), reduce_zero_label = false
(true: classes are numbered from 1, and 0 is unlabelled), splits = ["train", "val"] (the first is trained on, the last evaluated),
background (the name of the background class; none).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densebench.datasets.dataset import Dataset, Item, files_in
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.names import check_name
from densebench.datasets.label_maps import IGNORED
from densebench.errors import UserError, unknown
from densebench.files.atomic import check_ordinary

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
KEYS = {"classes": list, "ignore_index": int, "reduce_zero_label": bool, "splits": list, "background": str}
EXAMPLE = 'write for example classes = ["cat", "dog"]'


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """A folder of images and label maps with the same stems, described by classes.toml. `root` is the folder itself."""

    raw_ignore: int = IGNORED

    @property
    def remedy(self) -> str:
        """Where the layout is described; nothing can be fetched."""
        return "see densebench.datasets.folder for the layout"

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of images/<split>, sorted by name. Raises UserError where one has no label map or shares its stem."""
        labels = self.root / "labels" / split
        known = {path.stem for path in files_in(labels, "*.png", self.remedy)}
        stems: set[str] = set()
        for image in files_in(self.root / "images" / split, "*", self.remedy):
            if image.suffix.lower() not in SUFFIXES:
                continue
            if image.stem not in known:
                raise UserError(f"the image {image} has no label map {labels / image.stem}.png; add it or remove the image")
            if image.stem in stems:
                raise UserError(f"two images in {image.parent} are called {image.stem}; rename one and its label map")
            stems.add(image.stem)
            yield Item(image.stem, image, labels / f"{image.stem}.png")

    def label_table(self) -> np.ndarray:
        """Return the table of `Dataset.label_table`, with the ignored value of classes.toml."""
        table = Dataset.label_table(self)
        table[self.raw_ignore] = IGNORED
        return table


def open_folder(name: str) -> Folder:
    """Return the data set behind `folder:DIR`. Raises UserError for a missing folder and for a classes.toml that is wrong."""
    root = Path(name.removeprefix("folder:"))
    options = _read(root / "classes.toml")
    classes, splits = tuple(options["classes"]), tuple(options.get("splits", ("train", "val")))
    ignore, reduce = options.get("ignore_index", IGNORED), options.get("reduce_zero_label", False)
    background = options.get("background")
    if background is not None and background not in classes:
        raise unknown("background class", background, classes, f"{root / 'classes.toml'} lists {', '.join(classes)}")
    ids = range(1, len(classes) + 1) if reduce else range(len(classes))
    if not 0 <= ignore <= 255 or ignore in ids:
        raise UserError(
            f"ignore_index {ignore} in {root / 'classes.toml'} must be in 0..255 and no class's id ({ids[0]}..{ids[-1]}); use 255"
        )
    return Folder(
        root=root,
        name=name,
        title=f"folder {root.name}",
        classes=classes,
        splits=splits,
        train_split=splits[0],
        val_split=splits[-1],
        reduce_zero_label=reduce,
        background=None if background is None else classes.index(background),
        mapping=f"folder-{len(classes)}-ignore-{ignore}-{'from-1' if reduce else 'from-0'}-v1",
        raw_ignore=ignore,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with reading(path, f"{EXAMPLE} in it"):
            check_ordinary(path)
            options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); {EXAMPLE}") from error
    for key, value in options.items():
        if key not in KEYS:
            raise unknown(f"key in {path}:", key, KEYS, f"the keys are {', '.join(KEYS)}")
        if type(value) is not KEYS[key]:
            raise UserError(f"{key} in {path} is {value!r}, not a {KEYS[key].__name__}; correct it")
    for key in ("classes", "splits"):
        value = options.get(key, ["train"] if key == "splits" else [])
        if not value or not all(isinstance(entry, str) for entry in value) or len(set(value)) < len(value):
            raise UserError(f"{key} in {path} is {value!r}, not a list of different names; {EXAMPLE}")
    for split in options.get("splits", ()):
        check_name(split, f"splits in {path}")
    if len(options["classes"]) > IGNORED - 1:
        raise UserError(f"{path} lists {len(options['classes'])} classes; label maps of 8 bits allow {IGNORED - 1}")
    return options
