"""Opening `folder:DIR`: what its options do not state is inferred, and one line says what was inferred."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from densebench.console import notice
from densebench.datasets.dataset import SAMPLE, Item, limited
from densebench.datasets.drawn_folder import Drawn
from densebench.datasets.folder import Folder, Inferred, is_turned
from densebench.datasets.folders.annotations import BACKGROUND_LABEL, VOID_LABEL, Annotations, read_annotations, split_files
from densebench.datasets.folders.mask_files import MOST, summarise
from densebench.datasets.folders.meaning import Meaning, background, inferred, numbered, shortened, stated_meaning
from densebench.datasets.folders.options import FolderOptions, read_options
from densebench.datasets.folders.pairs import IMAGE_SUFFIXES, SPLITS, Pairs, find_pairs
from densebench.datasets.folders.shapes import VERSION
from densebench.datasets.folders.splits import Splits, find_splits
from densebench.datasets.frames import holds_videos
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.digests import digests_of
from densebench.datasets.label_maps import IGNORED
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest

INFERRING = frozenset({"values", "images", "labels", "suffix", "seed", "val", "ignore_background", "nested"})
"""Keys that do not go with the layout of `Folder`, which needs no inference."""
OF_VALUES = ("values", "ignore_index", "reduce_zero_label", "suffix")
"""Keys about label maps, which a folder of shapes does not have."""


def open_folder(name: str, needs_splits: bool = True) -> Folder:
    """Return the data set behind `folder:DIR`; label maps are read where no option states their values.

    needs_splits: whether too few images for a training and an evaluation split are an error; if not, they are one split, "all".
    Raises UserError for a folder that is missing or whose layout is not recognised, and for a classes.toml that is wrong.
    """
    options = read_options(name)
    splits = tuple(options.get("splits", ("train", "val")))
    with reading(options.root, "give another folder"):
        if "classes" not in options.values and holds_videos(options.root):
            raise UserError(f"{options.root} holds videos; write frames:{options.root}")
        if (labels := _stated_annotations(options)) is not None:
            return _drawn(options, labels, needs_splits)
        described = "classes" in options.values and not INFERRING & options.values.keys()
        written_out = "splits" in options.values or any((options.root / "images" / split).is_dir() for split in splits)
        pairs = None if described and written_out else find_pairs(options)
        if described and pairs is None:
            meaning = numbered(options)
            return Folder(**_fields(options, meaning), splits=splits, train_split=splits[0], val_split=splits[-1])
        if pairs is None:
            if (labels := _only_annotations(options.root)) is None:
                raise _unrecognised(options)
            return _drawn(options, labels, needs_splits)
        return _inferred(options, pairs, needs_splits)


def _fields(options: FolderOptions, meaning: Meaning) -> dict[str, Any]:
    return {
        "root": options.root,
        "name": options.name,
        "title": f"folder {options.root.name}",
        "classes": meaning.classes,
        "reduce_zero_label": options.get("reduce_zero_label", False),
        "background": meaning.background,
        "mapping": meaning.mapping,
        "values": meaning.values,
        "coloured": meaning.coloured,
        "void": meaning.void,
    }


def _inferred(options: FolderOptions, pairs: Pairs, needs_splits: bool) -> Inferred:
    """Return a folder of which something is inferred; a notice says what."""
    splits = find_splits(options, pairs.groups, needs_splits)
    every = [item for items in splits.items.values() for item in items]
    meaning = stated_meaning(options)
    if meaning is None:
        paths = sorted({item.label for item in every if item.label is not None})
        meaning = inferred(options, summarise(paths, digests_of(digest(options.name, 16)), options.root.name))
    count = len({item.image for item in every})
    left = [f"{pairs.bare} images without a label map are left out" if pairs.bare else ""]
    left += [f"{pairs.lone} label maps without an image are left out" if pairs.lone else ""]
    say(options, [f"{count} images with label maps ({pairs.layout})", *left, meaning.message, splits.message])
    warn_of_turned(options, [item.image for item in every if item.image is not None])
    return Inferred(**_fields(options, meaning), **_parts(options, splits), layout=pairs.layout)


def _parts(options: FolderOptions, splits: Splits) -> dict[str, Any]:
    kept = ("images", "labels", "suffix", "nested", "seed", "val", "ignore_background")
    return {
        "splits": tuple(splits.items),
        "train_split": splits.train,
        "val_split": splits.val,
        "entries": tuple(splits.items.items()),
        "split_rule": splits.rule,
        "stated": tuple((key, options.values[key]) for key in kept if key in options.values),
    }


def say(options: FolderOptions, parts: list[str]) -> None:
    """Print what was inferred of a folder, once in a process."""
    ending = [] if "classes" in options.values else ["write classes.toml to fix this"]
    _once(options.root.absolute(), f"{options.root.name}: {'; '.join(part for part in [*parts, *ending] if part)}")


def warn_of_turned(options: FolderOptions, images: Sequence[Path]) -> None:
    """Print a line where some images are displayed turned: their labels may have been drawn on what was displayed."""
    if turned := [path for path in limited(images, SAMPLE) if is_turned(path)]:
        _once(
            options.root.absolute(),
            f"{turned[0]} is displayed turned, by its EXIF, but read as it is stored, and so may be others; "
            "if the labels were drawn on the displayed picture, save the images upright",
        )


@functools.cache
def _once(root: Path, text: str) -> None:
    """Print a line about a folder, once in a process."""
    notice(text)


def _unrecognised(options: FolderOptions) -> UserError:
    seen = sorted(
        f"{path.name}/" if path.is_dir() else path.name for path in options.root.iterdir() if not path.name.startswith(".")
    )
    return UserError(
        f"{options.root} has no images with label maps that belong together by their names "
        f"(it holds {', '.join(seen[:6]) or 'nothing'}{', ...' if len(seen) > 6 else ''}); "
        f"call them images/x.jpg and labels/x.png, or say where they are: folder:{options.root}?images=DIR&labels=DIR; "
        f"pictures:{options.root} opens pictures without labels"
    )


def _stated_annotations(options: FolderOptions) -> Path | None:
    """Return the annotation file, or the folder of LabelMe's, that the user names as labels."""
    if "labels" not in options.values:
        return None
    path = options.root / options.values["labels"]
    if not path.exists():
        raise UserError(
            f"labels in {options.where('labels')} is {options.values['labels']!r}, but there is no {path}; correct it"
        )
    return path if not path.is_dir() or split_files(path) or _each_has_json(path, [path, *folders_of(options.root)]) else None


def _only_annotations(root: Path) -> Path | None:
    """Return the one annotation file at the top or in annotations/, or the folder of LabelMe's JSONs; None if that is unclear."""
    places = [root, *(folder for folder in folders_of(root)[1:] if folder.name.lower() in ("annotations", "labels", "images"))]
    for folder in places:
        if split_files(folder) or _each_has_json(folder, [folder, *folders_of(root)]):
            return folder
    files = [path for folder in places for path in sorted(folder.iterdir()) if path.suffix.lower() in (".json", ".xml")]
    return files[0] if len(files) == 1 else None


def _each_has_json(folder: Path, places: Sequence[Path]) -> bool:
    """Return whether every JSON of a folder is called as an image, as LabelMe's are."""
    stems = [path.stem for path in folder.glob("*.json")]
    return bool(stems) and all(
        any((place / f"{stem}{end}").is_file() for place in places for end in _endings()) for stem in stems
    )


def _endings() -> list[str]:
    return [variant for suffix in IMAGE_SUFFIXES for variant in (suffix, suffix.upper())]


def folders_of(root: Path) -> list[Path]:
    """Return a folder, and the folders in it that are not hidden."""
    return [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]


def _drawn(options: FolderOptions, path: Path, needs_splits: bool) -> Drawn:
    """Return a folder whose labels are shapes; a notice says what was inferred."""
    for key in OF_VALUES:
        if key in options.values:
            raise UserError(f"{key} in {options.where(key)} is about label maps, but {path} holds shapes; leave it out")
    annotations = read_annotations(path)
    classes, ids, outside = _ids(options, annotations)
    found, missing = images_of(options, annotations, path)
    empty = {name for name in found if outside == IGNORED and not annotations.files[name].shapes}
    items = {name: Item(bare(name), image, annotations.sources[name]) for name, image in found.items() if name not in empty}
    if len({item.name for item in items.values()}) < len(items):
        raise UserError(f"two images of {path} have names that differ only in their endings; rename one")
    splits = find_splits(options, by_folder(items), needs_splits)
    stray = sorted(label for label, number in ids.items() if number == IGNORED and label != VOID_LABEL)
    mapping = f"folder-shapes-{digest([VERSION, list(classes), sorted(ids.items()), outside], 16)}-v1"
    default = None if outside == IGNORED else outside
    meaning = Meaning(classes, (), False, (), background(options, classes, default), mapping)
    layout = f"{path.name if path != options.root else 'the folder itself'} ({annotations.kind})"
    without = sum(not annotations.files[name].shapes for name in items)
    say(
        options,
        [
            f"{len(items)} images with shapes in {layout}",
            f"{missing} images that it lists are not there and left out" if missing else "",
            f"{len(empty)} without a shape are left out" if empty else "",
            f"{without} without a shape are all {classes[outside]}" if without else "",
            f"classes {shortened(classes)}",
            f"the labels {shortened(stray)} are void" if stray else "",
            "pixels outside all shapes are void" if outside == IGNORED else f"pixels outside all shapes are {classes[outside]}",
            splits.message,
        ],
    )
    warn_of_turned(options, [item.image for item in items.values() if item.image is not None])
    names = tuple((item.name, name) for name, item in items.items())
    parts: dict[str, Any] = {"annotations": path, "ids": tuple(sorted(ids.items())), "outside": outside, "drawn": names}
    return Drawn(**_fields(options, meaning), **_parts(options, splits), **parts, layout=f"shapes in {layout}")


def _ids(options: FolderOptions, annotations: Annotations) -> tuple[tuple[str, ...], dict[str, int], int]:
    """Return the classes, the id that each label paints, and the id outside all shapes.

    Raises UserError for a class that is no label, and for too few or too many classes.
    """
    name = options.get("background", "background")
    names = tuple(options.get("classes", annotations.labels))
    for wanted in names:
        if wanted not in annotations.labels and wanted != name:
            raise unknown("class", wanted, annotations.labels, f"the labels are {', '.join(annotations.labels)}")
    ignored = options.get("ignore_background", False)
    classes = names if ignored or name in names else (name, *names)
    if not 2 <= len(classes) <= MOST:
        raise UserError(f"{options.root} has {len(classes)} classes ({shortened(classes)}); from 2 to {MOST} can be evaluated")
    outside = IGNORED if ignored else classes.index(name)
    ids = {label: classes.index(label) if label in classes else IGNORED for label in annotations.labels}
    return classes, {**ids, VOID_LABEL: IGNORED, BACKGROUND_LABEL: outside}, outside


def images_of(options: FolderOptions, annotations: Annotations, path: Path) -> tuple[dict[str, Path], int]:
    """Return the file of each annotated image, and how many are missing.

    An image lies in the folder that `images` names, else at the top, beside the annotations, or in a folder at the top; that of a
    split's own file rather beside it or in a folder of the split. Raises UserError where two files could be meant, and where none
    is there.
    """
    beside = path if path.is_dir() else path.parent
    places = [options.root / options.values["images"]] if "images" in options.values else [*folders_of(options.root), beside]
    found: dict[str, Path] = {}
    for name in annotations.files:
        own = annotations.file_name(name)
        nearer = [[annotations.sources[name].parent / own], [place / name for place in places]] if own != name else []
        hits: dict[Path, Path] = {}
        for files in [*nearer, [place / own for place in places]]:
            hits = hits or {file.resolve(): file for file in files if file.is_file()}
        if len(hits) > 1:
            first, second = sorted(hits.values())[:2]
            raise UserError(f"{path} names {name}, which may be {first} or {second}; say where the images are: ?images=DIR")
        if hits:
            found[name] = next(iter(hits.values()))
    if not found:
        example = next(iter(annotations.files), None)
        what = f"its images, such as {example}, are not in {options.root}" if example else "it lists no image"
        raise UserError(f"{path}: {what}; say where they are: ?images=DIR")
    return found, len(annotations.files) - len(found)


def bare(name: str) -> str:
    """Return a path without the ending."""
    return PurePosixPath(name).with_suffix("").as_posix()


def by_folder(items: Mapping[str, Item]) -> dict[str, tuple[Item, ...]]:
    """Return the items by split where all their names begin with the folder of one, else all together."""
    tops = {name: PurePosixPath(name).parts[0] if "/" in name else "" for name in items}
    split = all(top.lower() in SPLITS for top in tops.values())
    groups: dict[str, list[Item]] = {}
    for name in sorted(items):
        groups.setdefault(tops[name] if split else "", []).append(items[name])
    return {top: tuple(group) for top, group in groups.items()}
