"""The tables that come with densebench: one TOML file each, package data beside this file."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable

ENDING = ".toml"


def shipped() -> dict[str, str]:
    """Return the title of every shipped table by its name, in natural order: neco-8 before neco-10. Nothing heavy is imported."""
    return {name: _title(file) for name, file in shipped_files().items()}


def shipped_files() -> dict[str, Traversable]:
    """Return the file of every shipped table by its name, in natural order."""
    folder = files("densebench.tables").joinpath("shipped")
    found = {file.name.removesuffix(ENDING): file for file in _listed(folder) if file.name.endswith(ENDING)}
    return {name: found[name] for name in sorted(found, key=_natural)}


def _listed(folder: Traversable) -> list[Traversable]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _title(file: Traversable) -> str:
    return str(tomllib.loads(file.read_text(encoding="utf-8")).get("title", ""))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by their words and numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
