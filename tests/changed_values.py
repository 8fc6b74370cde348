"""JSON values with one part replaced or removed, and a check that a file which holds them is read or refused in one line."""

from __future__ import annotations

import copy
import json
import os

import pytest

from densebench.errors import UserError

ODD = [None, True, -1, 1.5, 10**30, float("nan"), "x", "", "../evil", "a\0b", [], {}, [[]], {"a": 1}, "\ud800"]
GONE = object()


def paths(value, path=()):
    """Yield the path to every part of a JSON value, from the top; of a list the first entry, of a short one also the last."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1 if len(value) < 5 else 0} if value else ()):
            yield from paths(value[index], (*path, index))


def changed(value, path, odd):
    """Return the value with another one at a path, or with none there."""
    if not path:
        return odd
    value = copy.deepcopy(value)
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    if odd is GONE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = odd
    return value


def every_change(content):
    for path in paths(content):
        for odd in [*ODD, *([GONE] if path else [])]:
            yield path, odd, changed(content, path, odd)


def check_all(content, path, use):
    """Use a file with every change; return how many changes were refused."""
    refused = 0
    for count, (where, odd, value) in enumerate(every_change(content), 1):
        path.write_text(json.dumps(value))
        os.utime(path, ns=(count * 10**9, count * 10**9))
        try:
            use()
        except UserError as error:
            assert "\n" not in str(error), (where, odd)
            refused += 1
        except Exception as error:
            pytest.fail(f"{'/'.join(map(str, where))} = {odd!r} raises {type(error).__name__}: {error}")
    return refused
