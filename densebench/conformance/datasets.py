"""What every data set must do: name its images once, label every pixel with a class that it has, and be told apart by digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from densebench.conformance.checking import Check, Failed, Skipped, Step, carried_out
from densebench.datasets import load_dataset
from densebench.datasets.boxes import Boxed
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.keypoints import KeypointPairs
from densebench.datasets.videos import Videos

MOST = 64  # images of a split that are opened


def check_dataset(name: str, root: Path | None = None) -> Iterator[Check]:
    """Yield the checks of a data set, a name or a path, on at most 64 images of each split.

    root: the folder of the data sets. Raises UserError where there is no such data set.
    """
    dataset = load_dataset(name, root)
    splits = (dataset.train_split, dataset.val_split)
    yield from carried_out([
        Step("description", lambda: _description(dataset), needed=True),
        Step("splits", lambda: _splits(dataset, splits), needed=True),
        Step("names", lambda: _names(dataset)),
        Step("files", lambda: _files(dataset)),
        Step("sizes", lambda: _sizes(dataset)),
        Step("labels", lambda: _labels(dataset)),
        Step("classes", lambda: _classes(dataset)),
        Step("disjoint", lambda: _disjoint(dataset, splits)),
        Step("digests", lambda: _digests(dataset, lambda: load_dataset(name, root))),
    ])  # fmt: skip


def _samples(dataset: Dataset) -> Iterator[Item]:
    for split in _present(dataset):
        yield from limited(dataset.items(split), MOST)


def _present(dataset: Dataset) -> list[str]:
    """Return the splits whose files are there; `_splits` checks that those of an evaluation are."""
    return [split for split in dataset.splits if dataset.has(split)]


def _description(dataset: Dataset) -> str:
    if not dataset.name or not dataset.title:
        raise Failed(f"name is {dataset.name!r} and title {dataset.title!r}; give both, tables and lists show them")
    if dataset.kind != "videos":
        twice = [name for name, count in Counter(dataset.classes).items() if count > 1]
        if not dataset.classes or twice:
            raise Failed(f"classes {f'names {twice[0]!r} twice' if twice else 'is empty'}; give one name for each id from 0")
        if not dataset.mapping:
            raise Failed('mapping is empty; write such as mapping: str = "mine-v1", and raise it when ids mean something else')
    return f"{dataset.name}: {dataset.title}; {dataset.kind}, {len(dataset.classes)} classes"


def _splits(dataset: Dataset, splits: tuple[str, str]) -> str:
    for field, split in zip(("train_split", "val_split"), splits, strict=True):
        if split not in dataset.splits:
            raise Failed(f"{field} is {split!r}, but splits are {', '.join(dataset.splits)}; name it there")
    dataset.items(splits[1])  # raises an error that says what is missing
    return ", ".join(f"{split} {len(dataset.items(split))}" for split in _present(dataset))


def _names(dataset: Dataset) -> str:
    for split in _present(dataset):
        items = dataset.items(split)
        name, count = Counter(item.name for item in items).most_common(1)[0]
        if count > 1:
            raise Failed(f"{split} has {count} images called {name}; give each a name of its own, such as its path in the split")
        if [item.name for item in dataset.items(split)] != [item.name for item in items]:
            raise Failed(f"{split} is listed in another order the second time; sort it")
    return "each name once, in the same order every time"


def _files(dataset: Dataset) -> str:
    absent = {f"{split}:" for split in dataset.splits} - {f"{split}:" for split in _present(dataset)}
    problems = [problem for problem in dataset.verify() if problem.partition(" ")[0] not in absent]
    if problems:
        more = f" (and {len(problems) - 1} more: densebench data verify {dataset.name})" if problems[1:] else ""
        raise Failed(f"{problems[0]}{more}")
    return "they can be read"


def _sizes(dataset: Dataset) -> str:
    sizes = set()
    for item in _samples(dataset):
        image, stated = dataset.image(item), dataset.image_size(item)
        if image.mode != "RGB" or image.size != stated:
            raise Failed(
                f"{item.name}: image() gives {image.width} x {image.height} {image.mode}, image_size() {stated[0]} x {stated[1]} "
                "(width x height); return an RGB image and its width and height"
            )
        sizes.add(image.size)
    few = sorted(sizes)[:3]
    return ", ".join(f"{width} x {height}" for width, height in few) + (f" and {len(sizes) - 3} more" if sizes - {*few} else "")


def _labels(dataset: Dataset) -> str:
    if isinstance(dataset, Boxed):
        return _boxes(dataset)
    if isinstance(dataset, KeypointPairs):
        return _pairs(dataset)
    for item in _samples(dataset):
        label, (width, height) = dataset.label(item), dataset.image_size(item)
        if label.dtype != np.uint8 or label.shape != (height, width):
            raise Failed(f"{item.name}: label() gives {label.dtype} {label.shape}; expected uint8 [h, w], {(height, width)}")
        wrong = np.unique(label[(label >= len(dataset.classes)) & (label != dataset.ignore_index)])
        if wrong.size and not isinstance(dataset, Videos):
            raise Failed(f"{item.name}: label() holds the id {wrong[0]}; ids are 0..{len(dataset.classes) - 1}, 255 unlabelled")
        if not np.array_equal(label, dataset.label(item)):
            raise Failed(f"{item.name}: label() gives another map the second time")
    return "uint8, of the size of the image"


def _boxes(dataset: Boxed) -> str:
    count = 0
    for item in _samples(dataset):
        objects, (width, height) = dataset.objects(item), dataset.image_size(item)
        left, top, right, bottom = objects.boxes.reshape(-1, 4).T
        if not ((left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height)).all():
            raise Failed(f"{item.name}: a box leaves the image of {width} x {height}; give left, top, right, bottom in px")
        if not ((objects.classes >= 0) & (objects.classes < len(dataset.classes))).all():
            raise Failed(f"{item.name}: a class is not 0..{len(dataset.classes) - 1}; give indices into classes")
        count += len(objects)
    return f"{count} boxes inside their images"


def _pairs(dataset: KeypointPairs) -> str:
    """Check the pairs of every split that is there: names, pictures, categories and keypoints."""
    pairs = keypoints = outside = 0
    for split in _present(dataset):
        chosen = dataset.pairs(split, 20 * MOST)
        name, count = Counter(pair.name for pair in chosen).most_common(1)[0]
        if count > 1:
            raise Failed(f"{split} has {count} pairs called {name}; give each a name of its own")
        if [pair.facts() for pair in dataset.pairs(split, 20 * MOST)] != [pair.facts() for pair in chosen]:
            raise Failed(f"{split} has other pairs the second time; list them in a fixed order")
        for pair in chosen:
            if (pair.parts < -1).any():
                raise Failed(f"{pair.name}: a part is {pair.parts.min()}; give numbers from 0, and -1 for a part without a name")
        if not any(len(pair.parts) for pair in chosen):
            raise Failed(f"no pair of {split} has a keypoint; give each those that both pictures show")
        pairs, outside = pairs + len(chosen), outside + dataset.outside(chosen)
        keypoints += sum(len(pair.parts) for pair in chosen)
    if 2 * outside > keypoints:
        raise Failed(
            f"{outside} of {keypoints} keypoints lie outside their pictures; give x, y in px of the files, from their upper left"
        )
    return f"{pairs} pairs with {keypoints} keypoints" + (f", {outside} outside their pictures" if outside else "")


def _classes(dataset: Dataset) -> str:
    """Check that each class occurs, where all images are opened: ids that are one too small or too large leave one out."""
    if dataset.kind == "videos":
        raise Skipped("objects of videos have no classes")
    if isinstance(dataset, KeypointPairs):
        names = {name for split in _present(dataset) for name in dataset.categories(split)}
        besides = ", ".join(sorted(names - {*dataset.classes})[:3])
        return f"{len(names & {*dataset.classes})} of {len(dataset.classes)} have pairs{besides and f'; besides them: {besides}'}"
    items = list(_samples(dataset))
    shown = {int(value) for item in items for value in _ids(dataset, item)}
    missing = [name for index, name in enumerate(dataset.classes) if index not in shown]
    whole = len(items) == sum(len(dataset.items(split)) for split in dataset.splits if dataset.has(split))
    if missing and whole and len(_present(dataset)) == len(dataset.splits):
        raise Failed(
            f"no image shows {', '.join(map(repr, missing[:3]))}; see whether ids are one too small or too large "
            "(reduce_zero_label, label_table), and take a class that does not occur out of classes"
        )
    return f"{len(shown - {dataset.ignore_index})} of {len(dataset.classes)} are shown by {len(items)} images"


def _ids(dataset: Dataset, item: Item) -> np.ndarray:
    return dataset.objects(item).classes if isinstance(dataset, Boxed) else np.unique(dataset.label(item))


def _disjoint(dataset: Dataset, splits: tuple[str, str]) -> str:
    if splits[0] == splits[1] or splits[0] not in _present(dataset):
        raise Skipped(f"there is no other split than {splits[1]}")
    train, val = (limited(dataset.items(split), None) for split in splits)
    if len(train) + len(val) > 20 * MOST:
        train, val = limited(train, 10 * MOST), limited(val, 10 * MOST)
    names = dict(zip(dataset.image_digests(train), train, strict=True))
    for shared, item in zip(dataset.image_digests(val), val, strict=True):
        if shared in names:
            raise Failed(
                f"{item.name} of {splits[1]} is {names[shared].name} of {splits[0]}, or has its digest; take it "
                "out of one of them: scores would count what was learned by heart"
            )
    return f"no image of {splits[1]} is in {splits[0]}"


def _digests(dataset: Dataset, opened: Callable[[], Dataset]) -> str:
    items = list(_samples(dataset))
    again = opened()
    for what in ("image_digests", "label_digests"):
        first, second = (getattr(each, what)(items) for each in (dataset, again))
        if first != second:
            raise Failed(f"{what[:-1]}() gives another value when the data set is opened again; derive it from the bytes alone")
    if isinstance(dataset, KeypointPairs) and len({each.digest(dataset.val_split, items) for each in (dataset, again)}) > 1:
        raise Failed("digest() gives another value when the data set is opened again; make pairs of the files alone")
    pairs = list(zip(dataset.image_digests(items), dataset.label_digests(items), strict=True))
    for number in range(len(items) - 1):
        if pairs[number][0] == pairs[number + 1][0] and dataset.image(items[number]) != dataset.image(items[number + 1]):
            names = f"{items[number].name} and {items[number + 1].name}"
            raise Failed(f"{names} differ, but image_digest() is the same; make it of all that decides the pixels")
    return f"{len(items)} images keep theirs when the data set is opened again"


__all__ = ["check_dataset"]
