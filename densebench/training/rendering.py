"""Rendering: the views of a micro-batch from its images and the random parameters, on the images' device.

A GPU renders all views by one plan, and the host never waits for it. The random parameters decide which operations are applied to
an image, and in which order. They are known on the host, so the host sorts the images for every operation and copies the order to
the GPU with them (`Plan`). Every operation then works on a slice that holds only the images that it is applied to. Views of one
size are rendered together, so the number of kernels grows neither with the number of views nor with that of images.

- Cutting out: crops of similar area are stacked, as many as `crops.CHUNK_BYTES` allow, and resized by two products.
- Jitter: images are sorted by their next operation. Each operation writes the images of its slice to where the next one reads
them. - Grey, blur and solarise: only the images that they change are selected, by index.

The arithmetic is that of `augmentation.render`, which a CPU uses: view by view and image by image, which is fastest there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from densebench.numerics.crops import Pictures, chunks, matrix_crops, stack
from densebench.training.augmentation import (
    BLUR_FLAG,
    GREY_FLAG,
    OPERATIONS,
    SOLARISE_FLAG,
    AugmentParams,
    ViewSpec,
    blur,
    constant,
    greyed,
    render,
    solarised,
)

GROUP_BYTES = 2**30  # most bytes of views that are rendered together
MULTIPLE = 8  # sides of stacks are rounded up to multiples, which matrix units need
ORDER = 10  # the column of a view's first operation; the strength of operation n is in column 6 + n


@dataclass(frozen=True)
class Plan:
    """How views of one size are rendered together. An item is a view of an image: first the first view of all images, and so on.

    views: the numbers of the views. stacks: the ranges of crops that are resized together (first, last + 1, height, width), where
    crops are sorted by area. slices: for each of four positions in the jitter's random order and each operation, the range of
    rows (first, last + 1) that it is applied to.

    arrays: on the host, or on the device once `Batch.on` has copied them. One entry a crop: `start`, `steps`, `sides` (as for
    `crops.stack`), `flip`, and `row`, the row that the crop is written to. One entry a row, for each of the four positions:
    `strength`, and `next`, the row that the result is written to; after the last position that is the number of the item. `rest`:
    the items that are not jittered. `grey`, `blur`, `solarise`: the items that these change. `sigma`: of the blurred items.
    """

    views: tuple[int, ...]
    images: int
    size: int
    kernel: str
    interleaved: bool
    stacks: tuple[tuple[int, int, int, int], ...]
    slices: tuple[tuple[tuple[int, int], ...], ...]
    arrays: Mapping[str, Any]

    def render(self, data: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "views b 3 size size"]:
        """Return the normalised views of images whose bytes are in one buffer, on the device of the arrays."""
        pixels = self._recoloured(self._resized(data))
        pixels.sub_(constant(mean, data.device)).div_(constant(std, data.device))
        return pixels.unflatten(0, (len(self.views), self.images))

    def _resized(self, data: Tensor) -> Tensor:
        """Return the crops `[n 3 size size]` with values in 0..1, each at its row."""
        pixels = torch.empty(self.images * len(self.views), 3, self.size, self.size, device=data.device)
        names = ("start", "steps", "sides", "flip", "row")
        for begin, end, height, width in self.stacks:
            start, steps, sides, flips, row = (self.arrays[name][begin:end] for name in names)
            cut = stack(data, start, steps, sides, (height, width), self.interleaved)
            boxes = torch.cat([torch.zeros_like(sides), sides], dim=1).float()  # what was cut out begins at 0, 0
            pixels.index_copy_(0, row, matrix_crops(cut, boxes, flips, self.size, self.kernel))
        return pixels

    def _recoloured(self, pixels: Tensor) -> Tensor:
        """Return crops, each at its row, recoloured and in the order of items."""
        jittered, strengths, following = len(self.arrays["next"][0]), self.arrays["strength"], self.arrays["next"]
        done = torch.empty_like(pixels)
        if jittered < len(pixels):
            done.index_copy_(0, self.arrays["rest"], pixels[jittered:])
        spare = torch.empty_like(pixels[:jittered])
        for position, slices in enumerate(self.slices):
            target = done if position == len(self.slices) - 1 else spare
            for operation, (begin, end) in zip(OPERATIONS, slices, strict=True):
                if begin < end:
                    changed = operation(pixels[begin:end], strengths[position][begin:end].view(-1, 1, 1, 1))
                    target.index_copy_(0, following[position][begin:end], changed)
            pixels, spare = spare, pixels[:jittered]
        looks: dict[str, Callable[[Tensor], Tensor]] = {
            "grey": lambda x: greyed(x).expand_as(x), "blur": self._blurred, "solarise": solarised,
        }  # fmt: skip
        for name, look in looks.items():
            if len(chosen := self.arrays[name]):
                done.index_copy_(0, chosen, look(done.index_select(0, chosen)))
        return done

    def _blurred(self, pixels: Tensor) -> Tensor:
        return blur(pixels, self.arrays["sigma"].view(-1, 1, 1, 1))


def plan_views(
    pictures: Pictures, offsets: Tensor, tables: Float32[np.ndarray, "views b 17"], specs: Sequence[ViewSpec]
) -> tuple[Plan, ...]:
    """Return the plans of a micro-batch, one for each group of views of one size, with arrays on the host.

    pictures: parts of the originals, each beginning at its row of `offsets` (top, left, px). tables: the random parameters.
    """
    corner, layout, images = offsets.numpy(), pictures.layout.numpy(), len(offsets)
    interleaved = bool((layout[:, 1:4:2] == (1, 3)).all())
    found = []
    for views in _groups(specs, images):
        rows = tables[list(views)].reshape(-1, tables.shape[2])
        boxes, where = rows[:, :4].astype(np.int64), np.tile(layout, (len(views), 1))
        boxes[:, :2] -= np.tile(corner.astype(np.int64), (len(views), 1))
        start = where[:, 0] + boxes[:, 0] * where[:, 2] + boxes[:, 1] * where[:, 3]
        by_area = np.argsort(boxes[:, 2] * boxes[:, 3], kind="stable")
        slices, first_row, jitter = _jitter(rows)
        sides = boxes[by_area, 2:]
        arrays = {
            "start": start[by_area], "steps": where[by_area, 1:], "sides": sides, "flip": rows[by_area, 4] > 0.5,
            "row": first_row[by_area], **jitter, "sigma": rows[rows[:, BLUR_FLAG] > 0, BLUR_FLAG],
        }  # fmt: skip
        for name, column in (("grey", GREY_FLAG), ("blur", BLUR_FLAG), ("solarise", SOLARISE_FLAG)):
            arrays[name] = np.flatnonzero(rows[:, column] > 0)
        spec = specs[views[0]]
        found.append(Plan(views, images, spec.size, spec.kernel, interleaved, _stacks(sides), slices, arrays))
    return tuple(found)


def _groups(specs: Sequence[ViewSpec], images: int) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of views of one size and interpolation, as many as GROUP_BYTES allow, at least one."""
    kinds: dict[tuple[int, str], list[int]] = {}
    for number, spec in enumerate(specs):
        kinds.setdefault((spec.size, spec.kernel), []).append(number)
    for (size, _), views in kinds.items():
        most = max(1, GROUP_BYTES // (12 * size**2 * images))
        for begin in range(0, len(views), most):
            yield tuple(views[begin : begin + most])


def _stacks(sides: np.ndarray) -> tuple[tuple[int, int, int, int], ...]:
    runs = []
    for begin, end in chunks(*sides.T.tolist()):
        height, width = (-(-sides[begin:end].max(axis=0) // MULTIPLE) * MULTIPLE).tolist()
        runs.append((begin, end, height, width))
    return tuple(runs)


def _jitter(rows: np.ndarray) -> tuple[tuple[tuple[tuple[int, int], ...], ...], np.ndarray, dict[str, np.ndarray]]:
    """Return the slices of a plan, the row of each item before the jitter, and the jitter's arrays."""
    jittered, operations = rows[:, 5] > 0.5, rows[:, ORDER : ORDER + 4].astype(np.int64)
    chosen, rest = np.flatnonzero(jittered), np.flatnonzero(~jittered)
    orders = [chosen[np.argsort(operations[chosen, position], kind="stable")] for position in range(4)]
    row_of = np.empty((5, len(rows)), np.int64)  # of each item, before each position and after the last
    for position, order in enumerate(orders):
        row_of[position, order] = np.arange(len(chosen))
    row_of[0, rest], row_of[4] = np.arange(len(chosen), len(rows)), np.arange(len(rows))
    ends = [np.searchsorted(operations[order, position], np.arange(5)).tolist() for position, order in enumerate(orders)]
    slices = tuple(tuple(itertools.pairwise(end)) for end in ends)
    arrays = {
        "next": np.stack([row_of[position + 1, order] for position, order in enumerate(orders)]),
        "strength": np.stack([rows[order, 6 + operations[order, position]] for position, order in enumerate(orders)]),
        "rest": rest,
    }
    return slices, row_of[0], arrays


def render_views(
    images: Pictures,
    offsets: Tensor,
    draws: Sequence[AugmentParams],
    specs: Sequence[ViewSpec],
    plans: Sequence[Plan],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[Float[Tensor, "b 3 _ _"], ...]:
    """Return the views of a micro-batch, each `[b 3 size size]`: by their plans, or without any one by one on the CPU."""
    if not plans:
        return tuple(render(images, offsets, params, spec, mean, std) for params, spec in zip(draws, specs, strict=True))
    [data] = images.buffers
    together = {view: pixels for plan in plans for view, pixels in zip(plan.views, plan.render(data, mean, std), strict=True)}
    return tuple(together[view] for view in range(len(specs)))
