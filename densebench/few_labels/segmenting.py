"""New pictures labelled from a few labelled ones: `densebench segment`, and the same from Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from densebench import options
from densebench.console import notice, progress, warn
from densebench.datasets.dataset import Dataset
from densebench.datasets.pictures import Pictures
from densebench.errors import UserError
from densebench.evaluation.labelling import Labeller
from densebench.evaluation.plan import Model
from densebench.few_labels.pictures import open_pictures
from densebench.few_labels.segmenter import Segmenter, opened_segmenter
from densebench.few_labels.writing import Output

WRITERS = 4  # threads that draw and write while the next pictures are labelled

Images = Any
"""A path of a picture or a folder, the name of a data set, a `Dataset`, an array, a PIL image, or several of one kind."""


@dataclass(frozen=True)
class Segmented:
    """What `segment` has written.

    folder: the output. classes: the name of each number in a label map. paths: picture -> its label map, of all that are there
    now. new: how many of them this call made. failed: picture -> why it has none, in one line.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: dict[str, Path]
    new: int
    failed: dict[str, str]

    def __str__(self) -> str:
        there = f" ({len(self.paths) - self.new} were there already)" if self.new < len(self.paths) else ""
        count = len(self.failed)
        without = f"; {count} picture{' has' if count == 1 else 's have'} none" if count else ""
        return f"{self.folder}: {len(self.paths)} label maps of {len(self.classes)} classes{there}{without}"


def segment(
    images: Images,
    labels: str | Path | Dataset,
    backbone: Model,
    method: str | Path | Labeller = "incontext",
    *,
    output: str | Path = "segmented",
    overlays: bool = True,
    rerun: bool = False,
    limit: int | None = None,
    data_root: str | Path | None = None,
    command: str = "",
    **given: Any,
) -> Segmented:
    """Label new pictures, write a paletted PNG and an overlay of each, and return where they are.

        segmented = segment("photos", "labelled", "timm:vit_small_patch14_dinov2")

    images: pictures, see `open_pictures`: a folder (any depth), files, a data set. labels: what `load_dataset` takes: a folder of
    images and label maps, COCO, CVAT or LabelMe, or a name such as "camvid". backbone: what `load_backbone` takes. method: a
    protocol that learns from labelled images, by its name or as a configured object.
    output: the folder, see `few_labels.writing`; label maps that an equal call has written there stay, unless `rerun`.
    limit: at most so many pictures, evenly spaced. given: `split` (the split of the labels to learn from, or several; else all),
    `preset`, `name`, `weights`, `layer`, `pos_embed`, `role`, `seed`, `mean`, `std`, `debias`,
    `upsample` and `features` as in `evaluate`, and the protocol's own options; its option `labels` is `patch_labels` here.

    A picture that cannot be read is reported on stderr and left out. Raises UserError for anything else that the caller can mend;
    what was written until then stays.
    """
    options.check_types(options.SWITCH, overlays=overlays, rerun=rerun)
    options.check_types(options.PATH, output=output)
    options.check_run(None, limit)
    segmenter = opened_segmenter(labels, backbone, method, data_root=data_root, **given)
    written = {item.label for item in segmenter.train if item.label is not None and item.label != item.image}
    pictures = open_pictures(_several(images), data_root, without=[Path(output), *written], limit=limit)
    return _write(segmenter, pictures, Path(output), overlays, rerun, command)


def iter_segment(
    images: Images,
    labels: str | Path | Dataset,
    backbone: Model,
    method: str | Path | Labeller = "incontext",
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    **given: Any,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
    """Yield the name and the label map of each picture, and write nothing. Arguments are as of `segment`.

    images: also uint8 arrays `[h, w, 3]` or `[h, w]` and PIL images, whose names are 000000, 000001, ... A label map has the size
    of the upright picture; its numbers are indices of the classes (`load_dataset(labels).classes`). Raises UserError as `segment`
    does, and for a picture that cannot be read.
    """
    options.check_run(None, limit)
    segmenter = opened_segmenter(labels, backbone, method, data_root=data_root, **given)
    pictures = open_pictures(_several(images), data_root, limit=limit)
    return _found(segmenter, pictures)


def _found(segmenter: Segmenter, pictures: Pictures) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
    for item, found in segmenter.labelled(pictures, pictures.items("all")):
        if isinstance(found, UserError):
            raise found
        yield item.name, found


def _write(segmenter: Segmenter, pictures: Pictures, folder: Path, overlays: bool, rerun: bool, command: str) -> Segmented:
    """Label the pictures that have no label map yet, and write each as it comes."""
    space, dataset = segmenter.space, segmenter.dataset
    background = "" if dataset.background is None else dataset.classes[dataset.background]
    output = Output(folder, segmenter.identity(), space.names, segmenter.palette, background, overlays)
    facts = {"command": command, **segmenter.facts()}
    earlier = output.open(facts, rerun)
    digests, failed = _digests(pictures)
    _say_known(segmenter, digests)
    items = [item for item in pictures.items("all") if item.name in digests]
    left = [item for item in items if not output.holds(item, digests[item.name])]
    paths = {item.name: output.path(item) for item in items}
    for item in items if len(left) < len(items) else ():
        output.link(pictures, item)  # a picture may have moved
    learned = segmenter.learned.details if left else earlier
    new = 0
    with progress("label maps", len(left)) as bar, _writing() as write:
        for item, found in segmenter.labelled(pictures, left) if left else ():
            if isinstance(found, UserError):
                failed[item.name] = str(found)
                warn(f"{found}; it is left out")
            else:
                write(output.write, pictures, item, digests[item.name], found)
                new += 1
            bar.advance()
    paths = {name: path for name, path in paths.items() if name not in failed}
    output.note({**facts, "learned": learned, "pictures": len(paths), "failed": failed})
    if not paths:
        raise UserError(f"none of the {len(failed)} pictures can be read: {next(iter(failed.values()))}")
    return Segmented(folder, tuple(space.names), paths, new, failed)


@contextmanager
def _writing() -> Iterator[Callable[..., None]]:
    """Yield a function that calls another in a thread; it waits while many calls are under way, and raises what one raised."""
    waiting: deque[Future[None]] = deque()

    def call(work: Callable[..., None], *arguments: Any) -> None:
        waiting.append(pool.submit(work, *arguments))
        if len(waiting) > 2 * WRITERS:
            waiting.popleft().result()

    with ThreadPoolExecutor(WRITERS) as pool:
        yield call
        while waiting:
            waiting.popleft().result()


def _digests(pictures: Pictures) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digest of each picture that can be opened, and for each other one line that says why not."""
    readable, failed = [], {}
    for item in pictures.items("all"):
        try:
            pictures.image_size(item)
            readable.append(item)
        except UserError as error:
            failed[item.name] = str(error)
            warn(f"{error}; it is left out")
    names = (item.name for item in readable)
    return dict(zip(names, pictures.image_digests(readable), strict=True)), failed


def _say_known(segmenter: Segmenter, digests: dict[str, str]) -> None:
    known = set(segmenter.dataset.image_digests(segmenter.train))
    if count := sum(value in known for value in digests.values()):
        notice(
            f"{count} of the {len(digests)} pictures are among the labelled ones; their label maps say little about new pictures"
        )


def _several(images: Images) -> Sequence[object]:
    return list(images) if isinstance(images, list | tuple) else [images]
