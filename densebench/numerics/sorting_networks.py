"""Sorting networks: fixed layers of comparators that sort any values.

Habermann: Parallel Neighbor Sort, 1972 (odd-even). Batcher: Sorting Networks and Their Applications, 1968 (bitonic).
"""

from __future__ import annotations

import functools
import math

from densebench.errors import UserError, unknown

Layers = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
NETWORKS = ("bitonic", "odd-even")


@functools.cache
def comparators(network: str, count: int) -> Layers:
    """Return the layers of a sorting network for `count` wires, each as (low wires, high wires); low wires get the smaller value.

    odd-even: `count` layers of neighbours (Habermann 1972). bitonic (Batcher 1968): k (k + 1) / 2 layers for 2^k wires, with all
    comparators the same way up. So for other counts the first wires of the next larger network can be left out, as if they held
    values below all others, and the rest still sorts. The common form turns every other block upside down. That is the same
    network for 2^k wires, but when it is cut in this way (as diffsort 0.2.0 does) it fails to sort 22, 38, 42 to 46 or 54 values
    and mixes some other counts differently. Both agree for 49, which NeCo sorts.

    Raises UserError for another name or fewer than two wires.
    """
    if network not in NETWORKS:
        raise unknown("sorting network", network, NETWORKS, f"it is one of {', '.join(NETWORKS)}")
    if count < 2:
        raise UserError(f"a sorting network of {count} wires: give it at least 2 values to sort")
    return tuple(_odd_even(count) if network == "odd-even" else _bitonic(count))


def _odd_even(count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    layers = []
    for number in range(count):
        low = tuple(range(number % 2, count - 1, 2))
        layers.append((low, tuple(wire + 1 for wire in low)))
    return layers


def _bitonic(count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    depth = math.ceil(math.log2(count))
    left_out = 2**depth - count
    layers = []
    for block in range(1, depth + 1):
        for step in reversed(range(block)):
            layer = []
            for wire in range(2**depth):
                # a block begins by comparing mirror images, so that its two ascending halves form a bitonic sequence
                other = wire ^ (2**block - 1) if step == block - 1 else wire + 2**step
                if wire >> step & 1 == 0 and wire >= left_out:
                    layer.append((wire - left_out, other - left_out))
            low, high = zip(*layer, strict=True)
            layers.append((low, high))
    return layers
