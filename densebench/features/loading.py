"""The views of images for a backbone, decoded in worker processes, in pieces whose images have one size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.loader import Samples, make_loader
from densebench.datasets.io.shared_memory import piece_size
from densebench.features.memory import in_use
from densebench.features.padded_views import PaddedView
from densebench.features.pipeline import BATCH
from densebench.features.views import CentreCropView, View
from densebench.files.atomic import digest
from densebench.user_code import class_code


class _Images(Samples):
    """Decodes images and makes their views, in worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        digests: Mapping[str, str],
        view: View | CentreCropView | PaddedView,
    ) -> None:
        self.dataset, self.items, self.digests, self.view = dataset, items, digests, view

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, key: int) -> tuple[str, Float[Tensor, "3 h w"]]:
        item = self.items[key]
        return item.name, self.view.image(self.dataset.image(item), self.digests[item.name])


def load_views(
    dataset: Dataset,
    items: Sequence[Item],
    view: View | CentreCropView | PaddedView,
    digests: Mapping[str, str],
    shapes: Sequence[tuple[int, int]],
    most: Callable[[tuple[int, int]], int],
    workers: int,
    device: torch.device,
) -> Iterable[Any]:
    """Return the views of images in pieces, the names `[b]` and the views `[b 3 h w]` of each, or the UserError that one met.

    `pipeline.gathered` joins pieces to batches of `most(shape)`. On the CPU a piece is a batch, unless the shared memory is too
    small for the pieces that the workers decode ahead. digests: of the images, by name. shapes: height and width of the views.
    """
    batches = list(equal_batches(shapes, most))
    workers = min(workers, len(items))
    size, pixels = max(map(len, batches)), max(3 * height * width for height, width in shapes)
    size = min(size, BATCH) if device.type == "cuda" else size
    size = piece_size(pixels * torch.float32.itemsize, workers, size) if workers else size
    pieces = [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]
    images, memory = _Images(dataset, items, digests, view), in_use()
    batch_bytes, pin = size * pixels * torch.float32.itemsize, device.type == "cuda"
    load = functools.partial(make_loader, images, _collate, workers, pin, batch_bytes=batch_bytes)
    if memory is None:
        return load(batch_sampler=pieces)
    images.dataset = memory.source if dataset is memory.dataset else dataset  # views are kept, images not
    what = [view.identity(), class_code(type(view))]
    keys = [digest([*what, *((items[i].name, digests[items[i].name]) for i in piece)]) for piece in pieces]
    return memory.batches(keys, pieces, lambda some: load(batch_sampler=some))


def _collate(batch: list[tuple[str, Tensor]]) -> tuple[list[str], Float[Tensor, "b 3 h w"]]:
    """Return the names and views of a piece."""
    names, images = zip(*batch, strict=True)
    return list(names), torch.stack(images)


def equal_batches(shapes: Sequence[tuple[int, int]], most: Callable[[tuple[int, int]], int]) -> Iterator[list[int]]:
    """Yield batches of at most `most(shape)` indices whose images have one shape, in order of first appearance."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for shape, indices in by_shape.items():
        size = most(shape)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]
