"""Docstrings are plain text with Markdown's backticks; Sphinx reads reStructuredText. This translates one into the other."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(`[^`]*`)")
SPECIAL = re.compile(r"([\\*|_])")
ITEM = re.compile(r"(-|\d+\.) ")


def to_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring, as Sphinx's event `autodoc-process-docstring` wants it."""
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", "\n".join(lines)) if block.strip()]
    lines[:] = [line for block in blocks for line in (*_translated(block), "")]


def _translated(block: list[str]) -> list[str]:
    """Translate a paragraph, a list or an indented block of code."""
    if all(line.startswith("    ") for line in block):
        return ["::", "", *block]
    parts: list[list[str]] = [[]]
    for line in block:
        if ITEM.match(line):
            parts.append([])
        parts[-1].append(line.strip())
    return [line for part in parts if part for line in (_escaped(" ".join(part)), "")]


def _escaped(text: str) -> str:
    """Return a text in which only code, and the mark of a list's item, has a meaning."""
    mark = match.group() if (match := ITEM.match(text)) else ""
    pieces = CODE.split(text.removeprefix(mark))
    escaped = (
        f"\\ ``{piece[1:-1]}``\\ " if CODE.fullmatch(piece) and len(piece) > 2 else SPECIAL.sub(r"\\\1", piece)
        for piece in pieces
    )
    return mark + "".join(escaped).strip().removeprefix("\\ ").removesuffix("\\")
