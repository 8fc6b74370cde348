"""The layout of a memory for a search: blocks of rows are cut into groups, and consecutive groups form tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# Tuned on a server CPU with AVX-512, memory of 1024 images x 196 patches x 384, 16 subsets; seconds of one core for 1024 queries:
# 256 queries x 2^18 rows 1.5, 512 x 2^17 1.7, 1024 x 2^16 2.0.
GROUPS = range(32, 65)  # possible numbers of rows in a group
TILE = 2**18  # rows multiplied at once; fixed, so that results do not depend on the memory at hand
QUERIES = {"cpu": 256, "cuda": 2048}  # rows of the product: 256 MiB and 2 GiB of float32 with a full tile


@dataclass(frozen=True)
class Tile:
    """Consecutive groups. What the host needs to know stays on the host.

    rows: the row of the memory that each slot holds, on the memory's device (-1: padding). first: the first row, where the slots
    hold consecutive rows; None: there is padding. held[s, g]: whether subset s holds group g, on the CPU.
    """

    rows: Int[Tensor, "slots"]
    first: int | None
    held: Bool[Tensor, "s groups"]


def tiles(segments: Int[Tensor, "b"], members: Bool[Tensor, "s b"], group: int, device: torch.device) -> Iterator[Tile]:
    """Yield the tiles of a memory whose blocks of `segments` rows are divided into groups of `group` slots."""
    groups = (segments + group - 1) // group
    block = torch.repeat_interleave(torch.arange(len(segments)), groups)
    first_row, first_group = segments.cumsum(0) - segments, groups.cumsum(0) - groups
    start = (torch.arange(len(block)) - first_group[block]) * group  # within the block
    for span in torch.arange(len(block)).split(max(1, TILE // group)):
        slot = start[span, None] + torch.arange(group)
        real = slot < segments[block[span], None]
        rows = torch.where(real, first_row[block[span], None] + slot, -1).flatten()
        first, last = (int(rows[0]), int(rows[-1])) if len(rows) else (0, -1)
        yield Tile(rows.to(device), first if last - first + 1 == len(rows) else None, members[:, block[span]])


def group_size(segments: Int[Tensor, "b"], sizes: Sequence[int] | None = None) -> int:
    """Return the size among these (None: GROUPS) that pads segments of these lengths least; the greatest of equals."""
    return min(GROUPS if sizes is None else sizes, key=lambda size: (int((-segments % size).sum()), -size))


def queries_at_once(device: torch.device) -> int:
    """Return how many queries are multiplied with a tile at once."""
    return QUERIES[device.type]
