"""Sums of the rows that have one index, in one order on every device, so that a GPU finds the same bits in every run.

On a GPU `index_add_` adds by atomic operations, in any order. Here rows are sorted by index instead, stably, and each index's run
of rows is a segment that is summed in order: in pieces, since one thread goes through a piece row by row. So a
cluster that holds half of a million points takes no longer than the others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

PIECE = 1024  # rows that one thread adds up: about the root of a million, so that both levels are equally long


def added(values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int) -> Float[Tensor, "count d"]:
    """Return the sum of the values of every index from 0 to count - 1: the same bits every time.

    On a CPU `index_add_` adds one by one in order, and fastest; on a GPU it adds in any order, so K-means would end elsewhere in
    every run.
    """
    if values.device.type == "cpu":
        return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)
    return added_by_segments(values, index, count)


def added_by_segments(
    values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int, piece: int = PIECE
) -> Float[Tensor, "count d"]:
    """Return what `added` does, on any device and without a wait: the same bits where no index has more than `piece` rows."""
    ordered, order = index.sort(stable=True)
    return segment_sums(values.index_select(0, order), lengths_of(ordered, count), piece)


def lengths_of(ordered: Int[Tensor, "n"], count: int) -> Int[Tensor, "count"]:
    """Return how often each value from 0 to count - 1 occurs among sorted ones."""
    ends = torch.searchsorted(ordered, torch.arange(count + 1, device=ordered.device, dtype=ordered.dtype))
    return ends.diff()


def segment_sums(values: Float[Tensor, "n d"], lengths: Int[Tensor, "s"], piece: int = PIECE) -> Float[Tensor, "s d"]:
    """Return the sum of each segment of consecutive rows: of its pieces of `piece` rows, and of these sums.

    The lengths sum to n; they may lie on a GPU, as nothing here asks the host for one of them.
    """
    if len(values) <= piece:
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)  # unsafe: lengths are right already
    segments, number = len(lengths), torch.arange(len(values) // piece + len(lengths), device=lengths.device)
    pieces = (lengths + piece - 1) // piece
    ends = pieces.cumsum(0)
    segment = torch.searchsorted(ends, number, right=True)  # `segments` for those that are too many: they are empty
    inside = segment.clamp(max=segments - 1)
    left = lengths[inside] - (number - (ends - pieces)[inside]) * piece
    sizes = torch.where(segment < segments, left.clamp(min=0, max=piece), 0)
    partial = torch.segment_reduce(values, "sum", lengths=sizes, unsafe=True)
    return torch.segment_reduce(partial, "sum", lengths=pieces, unsafe=True)
