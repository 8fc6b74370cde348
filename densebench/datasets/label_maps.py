"""Label maps: how the values in a file become the class of each pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8

from densebench.errors import UserError

IGNORED = 255
"""The id of pixels without a class."""
INVALID = -1
"""In a table: a value that no file may hold."""


def numbered_table(classes: int, reduce_zero_label: bool) -> Int16[np.ndarray, "256"]:
    """Return the table of files that number the classes from 0 and ignore 255; with `reduce_zero_label` from 1 and ignore 0."""
    table = np.full(256, INVALID, np.int16)
    first = int(reduce_zero_label)
    table[first : classes + first] = np.arange(classes)
    table[0 if reduce_zero_label else IGNORED] = IGNORED
    return table


def looked_up(
    raw: UInt8[np.ndarray, "h w"], table: Int16[np.ndarray, "256"], path: Path | None, name: str, classes: int
) -> UInt8[np.ndarray, "h w"]:
    """Return the id of each pixel. Raises UserError, which names the file, for a value that the table does not allow.

    name, classes: of the data set, for the message.
    """
    ids = table[raw]
    if (ids == INVALID).any():
        values = sorted({int(value) for value in raw[ids == INVALID]})
        raise UserError(
            f"the label map {path} holds the value {values[0]}, which {name} does not have "
            f"({len(values)} such values, {classes} classes); fetch it again or check the data set's version"
        )
    return ids.astype(np.uint8)
