"""The column `setting` of published numbers: items of the form NAME=VALUE, separated by semicolons.

Some say how the number was evaluated: `fraction=1/128`, `K=300`, `K=GT` (as many clusters as classes), `layers=4`,
`memory=1.02M`, `alpha=0.10`. All others say how the backbone was pretrained, such as the ablated value `lambda_pos=2.0`, or are
remarks without a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ABLATION = " (ablation)"
"""What the name of a protocol ends with in tables of ablations: the protocol is the same, the pretraining another one."""
OF_EVALUATION = ("fraction", "K", "k", "layers", "memory", "masks", "alpha")
"""The items that say how a number was evaluated."""
OF_ABLATION = ("fraction", "layers")
"""Those of an ablation, where K is a number of clusters or neighbours of the pretraining."""
SETTINGS: Mapping[str, tuple[str, ...]] = {"memory": ("memory_size",), "masks": ("score_size", "mask_size")}
"""The items that are settings of protocols, and what these call them."""
SUFFIXES = {"": 1, "k": 1_000, "M": 1_000_000}


def items(setting: str) -> dict[str, str]:
    """Return the items of a setting by name, in their order; a remark has an empty value."""
    parts = (part.partition("=") for part in setting.split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in parts}


def text(parts: Mapping[str, str]) -> str:
    """Return items as text, for readers."""
    return "; ".join(f"{name}={value}" if value else name for name, value in parts.items())


def joined(parts: Mapping[str, str]) -> str:
    """Return items as a file of published numbers has them."""
    return text(parts).replace("; ", ";")


def plain(protocol: str) -> str:
    """Return the name of a protocol without the mark of an ablation."""
    return protocol.removesuffix(ABLATION)


def of_evaluation(protocol: str, name: str) -> bool:
    """Return whether an item of a number of a protocol says how it was evaluated."""
    return name in (OF_ABLATION if protocol.endswith(ABLATION) else OF_EVALUATION)


def same(printed: str, value: Any) -> bool:
    """Return whether a value is what a paper prints: equal as text, or as a number to the digits that are printed.

    "1/128" is the fraction 128, "1.02M" any number from 1,015,000 to 1,025,000, "100x100" the side 100.
    """
    plain_text = ("none" if value is None else str(value)).casefold()
    if printed.casefold() == plain_text:
        return True
    number, printed_number = _number(plain_text), _number(printed)
    if number is None or printed_number is None:
        return False
    width = printed_number[1] if printed[-1:] in ("k", "M") else 0.0
    return abs(number[0] - printed_number[0]) <= width


def _number(printed: str) -> tuple[float, float] | None:
    """Return a printed number, and half a unit of its last digit; None for what is no number."""
    square = re.fullmatch(r"(\d+)x\1", printed)
    printed = square[1] if square else printed.removeprefix("1/") if re.fullmatch(r"1/\d+", printed) else printed
    match = re.fullmatch(r"(-?\d+)(\.\d+)?([kM]?)", printed)
    if match is None:
        return None
    scale, decimals = SUFFIXES[match[3]], len(match[2] or ".") - 1
    return float(match[1] + (match[2] or "")) * scale, 0.5 * 10**-decimals * scale
