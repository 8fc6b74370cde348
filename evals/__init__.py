"""Evaluation protocols, a file or a folder each: `densebench ls protocols`."""

from __future__ import annotations

from typing import Any, Final

PROBE: Final[tuple[str, dict[str, Any]]] = ("incontext", {"fractions": (1,)})
"""The protocol, with its options, that scores a backbone while it is trained (`--probe`) and the points of a sweep."""
