"""The same work on many files, in threads, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from densebench.console import progress

THREADS = 4

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Sequence[S], label: str) -> list[T]:
    """Return what `work` gives for each item, in order; `label` names the progress line."""
    results = []
    with ThreadPoolExecutor(THREADS) as pool, progress(label, len(items)) as bar:
        for result in pool.map(work, items):
            results.append(result)
            bar.advance()
    return results
