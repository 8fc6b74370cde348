"""COCO's run lengths: numbers of pixels outside, inside, outside, ... of a mask, as numbers or as text."""

from __future__ import annotations

from collections.abc import Sequence

FIRST, BITS = 48, 5  # COCO's text: a character, from "0" on, holds five bits, and a sixth if more of the number follow


def check_lengths(lengths: Sequence[int], pixels: int) -> None:
    """Raise ValueError where run lengths are not whole numbers that add up to `pixels`."""
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) != pixels:
        raise ValueError("its run lengths do not fill the image")


def runs(text: bytes) -> list[int]:
    """Return the run lengths of a compressed mask: numbers of pixels outside, inside, outside, ... in column-major order.

    From the fourth run on, the text holds the difference to the run two before. Raises ValueError for text that COCO cannot
    write.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - FIRST
        if not 0 <= bits < 1 << BITS + 1:
            raise ValueError("its run lengths have a character that COCO does not use")
        value |= (bits & (1 << BITS) - 1) << shift
        shift += BITS
        if bits >> BITS:
            continue
        value -= 1 << shift if bits >> BITS - 1 else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return lengths
