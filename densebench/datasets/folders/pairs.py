"""Which image belongs to which label map, by the names of folders and files.

Recognised, with any of IMAGES and MASKS as the names of folders in any case (split: train, val, test and their like):

    IMAGES/<split>/x.jpg  MASKS/<split>/x.png        <split>/IMAGES/x.jpg  <split>/MASKS/x.png
    IMAGES/x.jpg          MASKS/x.png                <split>/x.jpg  <split>annot/x.png
    x.jpg                 x_mask.png                 x.jpg  x.png (images JPEG, label maps PNG)

A label map may be called as its image, or with one of SUFFIXES behind; all of a folder with the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from densebench.datasets.dataset import Item
from densebench.datasets.folders.options import FolderOptions
from densebench.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg")
IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "leftimg8bit", "input", "inputs")
MASKS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "segmentationclass", "gt", "gtfine", "groundtruth",
    "ground_truth", "segmentation", "segmentations", "seg", "target", "targets", "labelmaps",
)  # fmt: skip
SUFFIXES = (
    "_mask", "-mask", "_masks", "_label", "-label", "_labels", "_gt", "-gt", "_seg", "_segmentation", "_labelIds",
    "_labelTrainIds", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_L", "_annotation",
)  # fmt: skip
ENDINGS = ("_leftImg8bit", "_image", "_img", "_rgb")
"""What an image may have behind the name that it shares with its label map."""
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation", "eval", "dev"), ("test", "testing")
SPLITS = (*TRAIN, *VAL, *TEST, "trainval", "trainaug")


@dataclass(frozen=True)
class Pairs:
    """Images with label maps. groups: split -> items, or "" -> all of them where folders name no split.

    layout: the folders, in words. bare: how many images have no label map. lone: how many label maps have no image.
    """

    groups: dict[str, tuple[Item, ...]]
    layout: str
    bare: int = 0
    lone: int = 0


def find_pairs(options: FolderOptions) -> Pairs | None:
    """Return the images and label maps of a folder; None where no layout is recognised.

    Raises UserError where it could be read in two ways, where two images share a name, and where names do not fit.
    """
    root = options.root
    images = _named(root, options, "images", IMAGES)
    masks = _named(root, options, "labels", MASKS)
    suffix = options.get("suffix", None)
    if options.get("nested", False):
        if images is None or masks is None:
            raise UserError(
                f"nested in {options.where('nested')} takes a folder of images and one of labels in {root}; name both"
            )
        return _nested(images, masks, suffix)
    if images is not None and masks is not None:
        splits = _splits(images)
        if any(_child(masks, part) for part in splits):
            folders = {part: (images / part, masks / part) for part in splits}
            return _grouped(folders, f"{images.name}/<split> and {masks.name}/<split>", suffix)
        return _grouped({"": (images, masks)}, f"{images.name}/ and {masks.name}/", suffix)
    if images is None and masks is not None and any(_pictures(root, IMAGE_SUFFIXES)):
        return _grouped({"": (root, masks)}, f"the folder itself and {masks.name}/", suffix)
    return _by_split(root, suffix) or _beside({"": images or root}, suffix)


def _nested(images: Path, masks: Path, suffix: str | None) -> Pairs:
    """Return the pairs of all folders below two that are built alike; an image is called by its path below the first."""
    items, bare, lone = [], 0, 0
    for folder in [images, *sorted(path for path in images.rglob("*") if path.is_dir())]:
        if not any(_pictures(folder, IMAGE_SUFFIXES)):
            continue
        below = folder.relative_to(images)
        pairs = _grouped({"": (folder, masks / below)}, "", suffix)
        items += [replace(item, name=(below / item.name).as_posix()) for item in pairs.groups[""]]
        bare, lone = bare + pairs.bare, lone + pairs.lone
    return Pairs({"": tuple(items)}, f"{images.name}/ and {masks.name}/, at any depth", bare, lone)


def _by_split(root: Path, suffix: str | None) -> Pairs | None:
    """Return the pairs of <split>/images and <split>/masks, of <split> and <split>annot, or side by side in <split>."""
    within, annot, beside = {}, {}, {}
    for part in _splits(root):
        images, masks = _one_of(root / part, IMAGES), _one_of(root / part, MASKS)
        if images is not None and masks is not None:
            within[part] = (images, masks)
        other = [
            folder for ending in ("annot", "_labels", "_masks", "_mask") if (folder := _child(root, part + ending)) is not None
        ]
        if other:
            annot[part] = (root / part, other[0])
        beside[part] = root / part
    if within:
        return _grouped(within, "<split>/ with a folder of images and one of label maps", suffix)
    if annot:
        return _grouped(annot, "<split>/ and a folder of label maps beside it", suffix)
    return _beside(beside, suffix) if beside else None


def _named(root: Path, options: FolderOptions, key: str, names: Sequence[str]) -> Path | None:
    if key in options.values:
        folder = root / options.values[key]
        if not folder.is_dir():
            raise UserError(
                f"{key} in {options.where(key)} is {options.values[key]!r}, but there is no folder {folder}; correct it"
            )
        return folder
    return _one_of(root, names, key)


def _one_of(root: Path, names: Sequence[str], key: str = "") -> Path | None:
    """Return the one folder with one of the names; folders without a picture in them or one level below do not count."""
    chosen = [folder for folder in _folders(root) if folder.name.lower() in names and _holds_pictures(folder)]
    if len(chosen) > 1:
        remedy = f"; say which one: {root}?{key}={chosen[0].name}" if key else "; leave one of them there"
        raise UserError(
            f"{root} holds {' and '.join(folder.name for folder in chosen)}, which may both be its {key or 'files'}{remedy}"
        )
    return chosen[0] if chosen else None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _child(root: Path, name: str) -> Path | None:
    return root / name if (root / name).is_dir() else None


def _splits(root: Path) -> list[str]:
    names = [path.name for path in _folders(root)]
    return sorted((name for name in names if name.lower() in SPLITS), key=lambda name: SPLITS.index(name.lower()))


def _holds_pictures(folder: Path) -> bool:
    return any(_pictures(folder, MASK_SUFFIXES)) or any(any(_pictures(child, MASK_SUFFIXES)) for child in _folders(folder))


def _pictures(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and not path.name.startswith("."))


def _grouped(folders: dict[str, tuple[Path, Path]], layout: str, suffix: str | None) -> Pairs:
    groups, bare, lone = {}, 0, 0
    for part, (images, masks) in folders.items():
        if images == masks:
            raise UserError(f"{images} cannot be both the images and the labels; give two folders")
        pictures = list(_pictures(images, IMAGE_SUFFIXES))
        maps = list(_pictures(masks, MASK_SUFFIXES)) if masks.is_dir() else []
        if not maps and len(folders) > 1:  # as a test split often has none
            bare += len(pictures)
            continue
        groups[part] = _matched(pictures, maps, suffix, ("", *SUFFIXES), f"{images} and {masks}")
        bare, lone = bare + len(pictures) - len(groups[part]), lone + _lone(maps, groups[part])
    return Pairs(groups, layout, bare, lone)


def _beside(folders: dict[str, Path], suffix: str | None) -> Pairs | None:
    """Return the pairs of images and label maps that lie in the same folder; None where there are none."""
    groups, bare = {}, 0
    for part, folder in folders.items():
        files = list(_pictures(folder, IMAGE_SUFFIXES))
        endings = [suffix] if suffix else SUFFIXES
        maps = [path for path in files if path.stem.endswith(tuple(endings)) and path.suffix.lower() not in (".jpg", ".jpeg")]
        if maps:
            pictures = [path for path in files if path not in set(maps)]
            groups[part] = _matched(pictures, maps, suffix, SUFFIXES, str(folder))
        else:
            maps = [path for path in files if path.suffix.lower() == ".png"]
            pictures = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]
            stems = {path.stem for path in maps}
            if not any(path.stem in stems for path in pictures):
                return None
            groups[part] = _matched(pictures, maps, None, ("",), str(folder))
        bare += len(pictures) - len(groups[part])
    return Pairs(groups, "label maps beside their images", bare)


def _matched(
    images: Sequence[Path], maps: Sequence[Path], suffix: str | None, suffixes: Sequence[str], where: str
) -> tuple[Item, ...]:
    """Return the images that have a label map, sorted by name.

    Raises UserError where two suffixes fit equally, where two files share a name, and where most label maps have no image.
    """
    known = _unique(maps, "label maps")
    whole = _unique(images, "images")
    stems = {_bare(stem): path for stem, path in whole.items()}
    fits = {ending: sum(stem + ending in known for stem in stems) for ending in ([suffix] if suffix is not None else suffixes)}
    if len(stems) < len(whole) or sum(stem in known for stem in whole) > max(fits.values(), default=0):
        stems = whole  # an ending that is part of the name
        fits = {ending: sum(stem + ending in known for stem in stems) for ending in fits}
    best = max(fits.values(), default=0)
    endings = [ending for ending, count in fits.items() if count == best]
    if not best:
        example = (
            f"{images[0].name} and {maps[0].name}" if images and maps else f"{len(images)} images and {len(maps)} label maps"
        )
        raise UserError(
            f"no image and label map in {where} belong together by their names ({example}); call them x.jpg and x.png, or "
            "say what the label maps have behind the name: ?suffix=_part"
        )
    if len(endings) > 1:
        raise UserError(
            f"each image in {where} has several label maps ({' and '.join(f'x{ending}' for ending in endings)}); "
            f"say which to take: ?suffix={endings[0]}"
        )
    items = tuple(Item(stem, stems[stem], known[stem + endings[0]]) for stem in sorted(stems) if stem + endings[0] in known)
    same = [path for path in maps if path.stem.endswith(endings[0])]
    if 2 * len(items) < len(same):
        raise UserError(
            f"only {len(items)} of {len(same)} label maps in {where} have an image ({_first_lone(same, items)} has none); "
            "call a label map as its image"
        )
    return items


def _bare(stem: str) -> str:
    return next((stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending) and stem != ending), stem)


def _unique(paths: Sequence[Path], what: str) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if (other := stems.setdefault(path.stem, path)) is not path:
            raise UserError(f"two {what} in {path.parent} are called {path.stem} ({other.name} and {path.name}); rename one")
    return stems


def _lone(maps: Sequence[Path], items: Sequence[Item]) -> int:
    return len({path.stem for path in maps} - {item.label.stem for item in items if item.label is not None})


def _first_lone(maps: Sequence[Path], items: Sequence[Item]) -> str:
    taken = {item.label for item in items}
    return next(path.name for path in maps if path not in taken)
