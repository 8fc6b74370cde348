"""Opening `boxes:DIR`: where the boxes are and how images are split is inferred, and one line says what was inferred."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densebench.datasets.box_folder import BoxFolder, CocoFolder, CocoMaskFolder, XmlFolder
from densebench.datasets.dataset import Item
from densebench.datasets.folders.annotations import Annotations, split_files
from densebench.datasets.folders.meaning import shortened
from densebench.datasets.folders.opening import bare, by_folder, folders_of, images_of, say, warn_of_turned
from densebench.datasets.folders.options import FolderOptions, read_options
from densebench.datasets.folders.pairs import IMAGE_SUFFIXES, IMAGES, SPLITS
from densebench.datasets.folders.shapes import Drawing
from densebench.datasets.folders.splits import LISTS, Splits, find_splits
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.instances import Instances, read_instances
from densebench.datasets.io.names import check_name
from densebench.datasets.io.voc_xml import read_voc
from densebench.errors import UserError
from densebench.files.atomic import digest

KEYS = ("classes", "splits", "images", "labels", "seed", "val")
LABELS = ("annotations", "annotation", "labels", "xml", "boxes")
"""What a folder of annotations may be called, in any case."""
NO_MASK = 2
"""Bytes of the text of a mask that says nothing, "[]"."""
AGAIN = "export it again"


def open_boxes(name: str) -> BoxFolder:
    """Return the data set behind `boxes:DIR`; annotations are read, but no image.

    Raises UserError for a folder that is missing or whose layout is not recognised, and for an annotation that is broken.
    """
    options = read_options(name, "boxes")
    for key in options.values:
        if key not in KEYS:
            raise UserError(f"{key} in {options.where(key)} is about label maps; boxes take {', '.join(KEYS)}; leave it out")
    with reading(options.root, "give another folder"):
        if found := _jsons(options):
            return _from_json(options, found)
        if groups := _xmls(options):
            return _from_xml(options, groups)
    raise UserError(
        f"{options.root} holds no boxes (a COCO .json at the top or in annotations/, or Pascal VOC's .xml in Annotations/ or "
        f"beside the images); say where they are: {name.partition('?')[0]}?labels=PATH"
    )


def _jsons(options: FolderOptions) -> dict[str, Path]:
    """Return split -> its JSON, or "" -> the only one; nothing where there is none.

    Raises UserError where several could be meant.
    """
    places = [options.root, *(folder for folder in folders_of(options.root)[1:] if folder.name.lower() in LABELS)]
    if "labels" in options.values:
        stated = options.root / options.values["labels"]
        if stated.suffix.lower() == ".json":
            return {"": stated}
        if not stated.is_dir():
            raise UserError(f"labels in {options.where('labels')} is {stated.name!r}: no .json and no folder; correct it")
        places = [stated]
    for folder in places:
        if splits := split_files(folder):
            return splits
        files = sorted(folder.glob("*.json"))
        if len(files) > 1:
            raise UserError(
                f"{folder} holds {files[0].name}, {files[1].name} and perhaps more, of which no one is a split's; "
                f"say which one: ?labels={files[0].relative_to(options.root)}"
            )
        if files:
            return {"": files[0]}
    return {}


def _from_json(options: FolderOptions, files: Mapping[str, Path]) -> CocoFolder:
    """Return a folder of COCO's JSONs, which must list the same categories."""
    read = {split: read_instances(path, AGAIN, boxes_alone=True) for split, path in files.items()}
    first, *others = read.values()
    names = [first.names[number] for number in sorted(first.names)]
    if len(set(names)) < len(names):
        raise UserError(f"{first.path} has two categories of one name; rename one")
    for other in others:
        if other.names != first.names:
            raise UserError(f"{first.path} and {other.path} list different categories; export both with the same ones")
    known = {f"{split}/{file}" if split else file: part for split, part in read.items() for file in part.files}
    drawn = {name: Drawing((1, 1), ()) for name in known}
    listed = Annotations("COCO", tuple(names), drawn, {name: part.path for name, part in known.items()}, by_split=len(read) > 1)
    found, missing = images_of(options, listed, first.path)
    items = {name: Item(bare(name), image, known[name].path) for name, image in found.items()}
    kind = CocoMaskFolder if all(map(_has_masks, read.values())) else CocoFolder
    where = ", ".join(str(path.relative_to(options.root)) for path in files.values())
    left = [f"{missing} images that are listed are not there and left out" if missing else ""]
    return kind(**_fields(options, names, by_folder(items), f"{where} (COCO)", left))


def _has_masks(instances: Instances) -> bool:
    return bool((np.diff(instances.arrays["spans"]) > NO_MASK).all())


def _xmls(options: FolderOptions) -> dict[str, tuple[Path, list[Path]]]:
    """Return split -> a folder of XMLs and the folders where their images may be; "" where folders name no split."""
    root = options.root
    images = [folder for folder in folders_of(root)[1:] if folder.name.lower() in IMAGES]
    if "images" in options.values:
        images = [root / options.values["images"]]
    if "labels" in options.values:
        stated = root / options.values["labels"]
        return {"": (stated, [*images, stated, root])}
    parts = {folder.name: folder for folder in folders_of(root)[1:] if folder.name.lower() in SPLITS and _holds_xml(folder)}
    if parts:
        return {split: (folder, [folder]) for split, folder in parts.items()}
    places = [*(folder for folder in folders_of(root)[1:] if folder.name.lower() in LABELS), root, *images]
    folder = next(filter(_holds_xml, places), None)
    return {} if folder is None else {"": (folder, [*images, folder, root])}


def _holds_xml(folder: Path) -> bool:
    return any(folder.glob("*.xml"))


def _from_xml(options: FolderOptions, groups: Mapping[str, tuple[Path, list[Path]]]) -> XmlFolder:
    items: dict[str, tuple[Item, ...]] = {}
    bare_images, lone = 0, 0
    for split, (folder, places) in groups.items():
        labels = {path.stem: path for path in sorted(folder.glob("*.xml"))}
        images = _pictures(places)
        items[split] = tuple(Item(check_name(stem, f"{folder}"), images[stem], labels[stem]) for stem in labels if stem in images)
        bare_images, lone = bare_images + len(images.keys() - labels.keys()), lone + len(labels.keys() - images.keys())
    every = [item for group in items.values() for item in group]
    if not every:
        folder = next(iter(groups.values()))[0]
        raise UserError(f"no XML in {folder} has an image of its name; call them x.jpg and x.xml, or say ?images=DIR")
    left = [f"{bare_images} images without an XML are left out" if bare_images else ""]
    left += [f"{lone} XMLs without an image are left out" if lone else ""]
    where = ", ".join("the folder itself" if folder == options.root else folder.name for folder, _ in groups.values())
    return XmlFolder(**_fields(options, _names_in(every), items, f"{where} (Pascal VOC)", left))


def _pictures(places: Sequence[Path]) -> dict[str, Path]:
    """Return stem -> image of the first folder that holds any. Raises UserError where two images share a stem."""
    for folder in places:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
        stems = {path.stem: path for path in files}
        if len(stems) < len(files):
            twice = next(path for path in files if stems[path.stem] != path)
            raise UserError(f"two images in {folder} are called {twice.stem}; rename one and its XML")
        if files:
            return stems
    return {}


def _names_in(items: Iterable[Item]) -> list[str]:
    """Return the names of all objects, sorted. Raises UserError, which names the file, where one is broken."""
    names: set[str] = set()
    for path in (item.label for item in items if item.label is not None):
        try:
            with reading(path, AGAIN):
                names.update(read_voc(path).names)
        except (ET.ParseError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"{path} is no annotation of Pascal VOC ({error}); {AGAIN}") from error
    return sorted(names)


def _fields(
    options: FolderOptions, names: Sequence[str], groups: Mapping[str, tuple[Item, ...]], where: str, left: Sequence[str]
) -> dict[str, Any]:
    """Return the fields of the data set, and print what was inferred."""
    classes = tuple(options.get("classes", names))
    if unlisted := next((name for name in names if name not in classes), None):
        raise UserError(f"{options.where('classes')} lists no class {unlisted[:40]!r}, of which there are objects; add it")
    if not classes:
        raise UserError(f"{options.root} has no object in any image; annotate some or give another folder")
    splits = _splits(options, groups)
    images = {item.image: item for items in splits.items.values() for item in items}
    say(options, [f"{len(images)} images with boxes in {where}", *left, f"classes {shortened(classes)}", splits.message])
    warn_of_turned(options, [image for image in images if image is not None])
    return {
        "root": options.root,
        "name": options.name,
        "title": f"boxes of {options.root.name}",
        "classes": classes,
        "splits": tuple(splits.items),
        "train_split": splits.train,
        "val_split": splits.val,
        "mapping": f"folder-boxes-{digest(list(classes), 16)}-v1",
        "entries": tuple(splits.items.items()),
        "layout": f"boxes in {where}",
        "split_rule": splits.rule,
    }


def _splits(options: FolderOptions, groups: Mapping[str, tuple[Item, ...]]) -> Splits:
    """Return the splits that folders, lists or the user state, else one of all images."""
    drawn = any(key in options.values for key in ("seed", "val"))
    splits = find_splits(options, groups, drawn or "splits" in options.values, ("ImageSets/Main", *LISTS))
    if drawn or not splits.rule.startswith("by seed"):
        return splits
    every = tuple(sorted((item for items in splits.items.values() for item in items), key=lambda item: item.name))
    return Splits({"all": every}, "all", "all", "none", "not split (?val=0.2 draws a part by seed)")
