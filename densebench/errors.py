"""The one error that a user can cause, and the one way in which a user ends a run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user gave is wrong: one line that names the value, the limit and the remedy. Exit status 2."""


class Stopped(Exception):  # noqa: N818
    """The user stopped a run; its state is saved. The text says how to resume. Exit status 130."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the machine or a GPU is out of memory, without importing torch."""
    phrases = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "array is too big")
    return isinstance(error, MemoryError) or any(words in str(error) for words in phrases)


def unknown(kind: str, name: str, known: Iterable[str], remedy: str) -> UserError:
    """Return the error for a name that is not in a list: it offers the nearest known name, else the remedy alone."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}{remedy}")
