"""Sums of parts, added one after the other, so that whoever holds which part changes no bit of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

Adding = Callable[[Sequence[Tensor], Iterable[Sequence[Tensor]]], None]
"""Adds parts, each one tensor for every total, to the totals in place; see `add_parts`, and `processes.add_all_parts`."""


def add_parts(totals: Sequence[Tensor], parts: Iterable[Sequence[Tensor]]) -> None:
    """Add each part's tensors to the totals, in place and in the order of the parts."""
    for part in parts:
        for total, tensor in zip(totals, part, strict=True):
            total += tensor
