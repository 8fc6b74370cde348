"""Optional packages: each serves one thing, and is installed by an extra of densebench."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from densebench.errors import UserError

EXTRAS = {
    "infomap": "infomap",
    "networkx": "communities",
    "pycocotools": "coco",
    "simplejpeg": "fast",
    "tensorboard": "tensorboard",
    "transformers": "hf",
}
"""Package -> the extra that installs it."""


def require(module: str, purpose: str) -> Any:
    """Import and return a module of an optional package. Raises UserError, with the line that installs it, where it is missing.

    purpose: what needs the package, for the message.
    """
    check_installed(module.partition(".")[0], purpose)
    return importlib.import_module(module)


def is_installed(package: str) -> bool:
    """Return whether an optional package is installed. Imports nothing."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module of this name in `sys.modules` has no spec; it is there
        return True


def check_installed(package: str, purpose: str) -> None:
    """Raise UserError, with the line that installs it, where an optional package is missing. Imports nothing."""
    if not is_installed(package):
        raise UserError(f"{purpose} needs {package}, which is not installed: pip install 'densebench[{EXTRAS[package]}]'")
