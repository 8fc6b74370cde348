"""Which values of a parameter `make test` tries, and which ones only the slow tests do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def late(values: Iterable[Any], *soon: Any) -> list[Any]:
    """Return values of a parameter: those that are `soon` run in every test, the others are marked slow."""
    return [value if value in soon else pytest.param(value, marks=pytest.mark.slow) for value in values]


def late_rows(rows: Iterable[tuple[Any, ...]], *soon: tuple[Any, ...]) -> list[Any]:
    """Return rows of values of several parameters: those that are `soon` run in every test, the others are marked slow."""
    return [row if row in soon else pytest.param(*row, marks=pytest.mark.slow) for row in rows]
