"""What may go wrong with an annotation file, in one line that says what to do."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

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


class _Builder(ET.TreeBuilder):
    """A builder that refuses a document type, which could make the parser expand entities without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares a document type {name}")


def parse_xml(path: Path) -> ET.Element:
    """Return the root of an XML file. Raises ET.ParseError where it is none, ValueError where it declares a document type."""
    check_ordinary(path)
    return ET.fromstring(path.read_bytes(), ET.XMLParser(target=_Builder()))
