"""What a wheel takes along is listed by hand: the list has every folder that holds code."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_lists_every_folder_of_code():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {path: name for name, path in setuptools["package-dir"].items()}
    folders = [file.parent.relative_to(ROOT) for path in places for file in (ROOT / path).rglob("__init__.py")]
    imported = {".".join((places[folder.parts[0]], *folder.parts[1:])) for folder in folders}
    assert imported == set(setuptools["packages"])
