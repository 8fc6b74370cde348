"""JSON files that were written earlier, read back: the values have the requested shape, or one line says what is wrong.

Anything may have happened to a file since. So nesting, numbers and texts are bounded, and every field has one type.
"""

from __future__ import annotations

import math
import re
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json

LARGEST = 1e30  # of a number; its square is finite, and it fits into float32
MOST = 2**63 - 1  # of an integer, so that it fits into a column of a table

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Integer = Annotated[int, Field(strict=True, ge=-MOST, le=MOST)]
Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, StringConstraints(strict=True, max_length=100_000)]
Word = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=100_000)]
"""A text that is not empty."""


class ShapeError(ValueError):
    """A file is not what it should be. The text completes "the file ..."."""


def load(path: Path) -> Any:
    """Return the values of a JSON file. Raises ShapeError where it cannot be read or is a pipe, which would wait for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ShapeError("is not a file")
        return parse(path.read_bytes())
    except OSError as error:
        raise ShapeError(f"cannot be read ({error.strerror})") from error


def parse(content: bytes) -> Any:
    """Return the values of UTF-8 JSON. Raises ShapeError for anything else, more than 200 nested levels and lone surrogates."""
    try:
        return from_json(content, cache_strings="keys")
    except ValueError as error:
        raise ShapeError(f"is not JSON ({error})") from error


def check(value: Any, shape: TypeAdapter[Any]) -> None:
    """Raise ShapeError, which names the field, where JSON values do not have a shape, or hold NUL or numbers out of bounds."""
    try:
        shape.validate_python(value)
    except ValidationError as error:
        raise ShapeError(_words(error)) from error
    _check_bounds(value, ())


def field(path: tuple[Any, ...]) -> str:
    """Return the dotted name of a field, such as scores.3.value; a key that is not a plain word is quoted."""
    return ".".join(str(part) if isinstance(part, int) or re.fullmatch(r"[\w-]{1,40}", part) else short(part) for part in path)


def short(value: Any) -> str:
    """Return a value as one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, say
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def _words(error: ValidationError) -> str:
    """Return the first flaw that pydantic found, in words; if fields are missing, all of them."""
    flaws = error.errors(include_url=False, include_context=False)
    if missing := [field(flaw["loc"]) for flaw in flaws if flaw["type"] == "missing"]:
        return f"lacks {', '.join(missing[:10])}"
    first = flaws[0]
    wanted = re.sub(r"^(Input|String|List|Dictionary|Data|Tuple) ", "it ", first["msg"])
    if not first["loc"]:
        return f"is {short(first['input'])}: {wanted}"
    return f"has {field(first['loc'])} {short(first['input'])}: {wanted}"


def _check_bounds(value: Any, path: tuple[Any, ...]) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ShapeError(f"has {field(path)} {short(value)}: it should hold no NUL")
    elif isinstance(value, dict):
        for key, element in value.items():
            if "\0" in key:
                raise ShapeError(f"has {field((*path, key))}: a name should hold no NUL")
            _check_bounds(element, (*path, key))
    elif isinstance(value, list):
        for index, element in enumerate(value):
            _check_bounds(element, (*path, index))
    elif isinstance(value, int) and abs(value) > MOST:
        raise ShapeError(f"has {field(path)} {short(value)}: it should be an integer of at most 63 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ShapeError(f"has {field(path)} {short(value)}: it should be finite")
