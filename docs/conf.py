"""How the documentation is built: pages written by hand, and those that generate.py writes from the catalogue."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import docstrings  # noqa: E402
import generate  # noqa: E402

project = "densebench"
author = "the densebench authors"
version = release = importlib.metadata.version("densebench")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "generated/parts"]
html_theme = "furo"
html_title = f"densebench {release}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True

generate.write(FOLDER / "generated")


def setup(app: Any) -> None:
    """Let docstrings, which are written as Markdown, be read as such."""
    app.connect("autodoc-process-docstring", docstrings.to_restructured_text)
