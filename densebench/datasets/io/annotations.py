"""What may go wrong with an annotation file, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densebench.errors import UserError

MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading a JSON of another shape may raise."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn an OSError of the block into a UserError: `remedy` is for a file that is missing."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {remedy}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


@contextmanager
def reading_coco(path: Path, remedy: str, kind: str) -> Iterator[None]:
    """Do as `reading`, and turn what a JSON of another shape raises into a UserError; kind: such as "panoptic"."""
    try:
        with reading(path, remedy):
            yield
    except MALFORMED as error:
        raise UserError(f"{path} is no COCO {kind} file ({type(error).__name__}: {error}); fetch it again") from error
