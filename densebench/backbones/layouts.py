"""How patch features lie in what a model returns: which of its tensors, which axis is the width, which tokens are patches.

A layout follows from the shapes at several sizes of image. Where more than one fits, `checking` looks which feature changes with
which patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from densebench.errors import UserError

Key = str | int
Path = tuple[Key, ...]
Size = tuple[int, int]

NAMED = ("x_norm_patchtokens", "last_hidden_state", "patch_tokens", "out", "features", "feat")
"""Keys of dictionaries under which models return patch features; the first one that is present counts."""
MOST_PREFIX = 32  # most tokens that are no patches (class, registers)


def leaves(output: Any, path: Path = ()) -> dict[Path, Tensor]:
    """Return the tensors of an output by their path in it: keys of dictionaries, indices of lists, attributes of objects."""
    if isinstance(output, Tensor):
        return {path: output}
    if isinstance(output, Mapping):
        items: Sequence[tuple[Any, Any]] = [(name, value) for name, value in output.items() if isinstance(name, str | int)]
    elif isinstance(output, list | tuple):
        names = getattr(output, "_fields", range(len(output)))
        items = list(zip(names, output, strict=False))
    elif is_dataclass(output):
        items = [(field.name, getattr(output, field.name)) for field in fields(output)]
    elif hasattr(output, "last_hidden_state"):
        items = [("last_hidden_state", output.last_hidden_state)]
    else:
        return {}
    found: dict[Path, Tensor] = {}
    for name, value in items:
        found |= leaves(value, (*path, name))
    return found


def spelled(path: Path) -> str:
    """Return a path as Python writes it behind the output: "['out']", "[3]", "" for the output itself."""
    return "".join(f"[{name!r}]" for name in path)


@dataclass(frozen=True)
class Layout:
    """Where the patch features of a tensor lie.

    axis: that of the width; stride: px per feature; dim: the width; before: tokens before the patches, None for a grid;
    after: tokens behind them; swapped: whether the grid's columns come before its rows.
    """

    axis: int
    stride: int
    dim: int
    before: int | None = None
    after: int = 0
    swapped: bool = False

    def grid(self, tensor: Tensor, height: int, width: int) -> Tensor:
        """Return the features `[b d gh gw]` of images of a size. Raises UserError for another number of tokens."""
        tensor = tensor.movedim(self.axis, 1)
        if self.before is not None:
            rows, columns = height // self.stride, width // self.stride
            if tensor.shape[2] != self.before + rows * columns + self.after:
                raise UserError(
                    f"the model gives {tensor.shape[2]} tokens for an image of {height} x {width} px, "
                    f"not {rows} x {columns} of its stride {self.stride} and {self.before + self.after} others; use another size"
                )
            shape = (columns, rows) if self.swapped else (rows, columns)
            tensor = tensor[:, :, self.before : self.before + rows * columns].unflatten(2, shape)
        return tensor.transpose(2, 3) if self.swapped else tensor

    @property
    def words(self) -> str:
        """What the tensor is, for the line that says what was recognised."""
        if self.before is None:
            shape = "[b gh gw d]" if self.axis == 3 else "[b d gh gw]"
            return f"a grid {shape.replace('gh gw', 'gw gh')}, its columns first" if self.swapped else f"a grid {shape}"
        others = ((self.before, "before the patches"), (self.after, "after them" if self.before else "after the patches"))
        around = [f"{count} {'comes' if count == 1 else 'come'} {where}" for count, where in others if count]
        shape = "[b n d]" if self.axis == 2 else "[b d n]"
        turned = ", column by column" if self.swapped else ""
        return f"tokens {shape}" + (f" of which {' and '.join(around)}" if around else "") + turned


def layouts_of(shapes: Mapping[Size, torch.Size], batch: int, hints: Sequence[int]) -> list[Layout]:
    """Return the layouts that fit the shapes of one tensor at each size of image, the usual one first.

    With one size alone the stride of tokens is ambiguous: `hints` are patch sizes that the model names; else the patches are as
    many as a square of whole patches can hold.
    """
    if any(shape[0] != batch or len(shape) != len(next(iter(shapes.values()))) for shape in shapes.values()):
        return []
    rank = len(next(iter(shapes.values())))
    if rank == 4:
        return [layout for axis in (1, 3) for swapped in (False, True) for layout in _grids(shapes, axis, swapped)]
    return [layout for axis in (2, 1) for layout in _tokens(shapes, axis, hints)] if rank == 3 else []


def _grids(shapes: Mapping[Size, torch.Size], axis: int, swapped: bool) -> list[Layout]:
    strides, widths = set(), set()
    for (height, width), shape in shapes.items():
        rows, columns = [side for index, side in enumerate(shape) if index not in (0, axis)]
        if swapped:
            rows, columns = columns, rows
        if not rows or not columns or height % rows or width % columns or height // rows != width // columns:
            return []
        strides.add(height // rows)
        widths.add(shape[axis])
    if len(strides) != 1 or len(widths) != 1 or any(shape[2:] == (1, 1) for shape in shapes.values() if axis == 1):
        return []
    return [Layout(axis, strides.pop(), widths.pop(), swapped=swapped)]


def _tokens(shapes: Mapping[Size, torch.Size], axis: int, hints: Sequence[int]) -> list[Layout]:
    widths = {shape[axis] for shape in shapes.values()}
    counts = {size: shape[3 - axis] for size, shape in shapes.items()}
    if len(widths) != 1:
        return []
    found = []
    for stride in _strides(counts, hints):
        patches = {(h // stride) * (w // stride) for h, w in counts} if len(counts) == 1 else set()
        others = {count - (height // stride) * (width // stride) for (height, width), count in counts.items()}
        if len(others) != 1 or not 0 <= (other := others.pop()) <= MOST_PREFIX or patches & {0, 1}:
            continue
        dim = next(iter(widths))
        for before in range(other, -1, -1):
            found += [Layout(axis, stride, dim, before, other - before, swapped) for swapped in (False, True)]
    return found


def _strides(counts: Mapping[Size, int], hints: Sequence[int]) -> list[int]:
    """Return the strides that the numbers of tokens allow: from their growth, or at one size from hints and whole squares."""
    (first, few), (last, many) = min(counts.items(), key=lambda item: item[1]), max(counts.items(), key=lambda item: item[1])
    if len(counts) > 1:
        area, grown = last[0] * last[1] - first[0] * first[1], many - few
        stride = math.isqrt(area // grown) if grown > 0 and area > 0 else 0
        return [stride] if stride and stride * stride * grown == area else []
    side = first[0]
    fitting = [hint for hint in hints if side % hint == 0 and 0 <= few - (side // hint) ** 2 <= MOST_PREFIX]
    whole = [stride for stride in range(2, side // 2 + 1) if side % stride == 0 and (side // stride) ** 2 <= few]
    return fitting[:1] or whole[:1]
