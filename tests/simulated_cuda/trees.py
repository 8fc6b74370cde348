"""Tensors among the arguments of an operation, also in lists and dictionaries. torch's own `pytree` is ten times slower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            if not isinstance(entry, int | float | str):
                yield from tensors_in(entry)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return a value in which every tensor of a kind is replaced by what `change` makes of it."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)([changed(entry, kind, change) for entry in value])
    if type(value) is dict:
        return {name: changed(entry, kind, change) for name, entry in value.items()}
    if isinstance(value, tuple):  # one whose fields have names
        return tree_map_only(kind, change, value)
    return value
