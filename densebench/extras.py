"""Optional packages: each serves one thing, and is installed by an extra of densebench."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from densebench.console import one_line
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
    """Import and return a module of an optional package. Raises UserError, with a line that installs it, where that fails.

    purpose: what needs the package, for the message.
    """
    package = module.partition(".")[0]
    check_installed(package, purpose)
    try:
        return importlib.import_module(module)
    except ImportError as error:  # it was built for another numpy, or lacks a library of the system
        why = f"{purpose} needs {package}, which cannot be imported ({one_line(str(error))})"
        raise UserError(f"{why}: pip install --force-reinstall 'densebench[{EXTRAS[package]}]'") from error


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
