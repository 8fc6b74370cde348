"""Importing MMSegmentation, from OpenMMLab or from its maintained fork, and reading the checkpoints of mmengine safely.

OpenMMLab's mmsegmentation 1.2.2 stands beside mmcv-lite and mmengine. The fork, onedl-mmsegmentation with onedl-mmcv and
onedl-mmengine, has the same import names, so that only one of the two families can be installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import warnings
from contextlib import AbstractContextManager
from functools import cache
from types import ModuleType
from typing import Any

from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

COMPILED = "mmcv._ext"
FAMILIES = (("mmsegmentation", "mmengine", "mmcv-lite", "mmcv"), ("onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv"))


def family() -> str:
    """Return the names and versions of the installed distributions of MMSegmentation, mmengine and mmcv, in one line.

    Raises UserError where distributions of both families are installed: they overwrite each other's files.
    """
    versions = [{name: version for name in names if (version := _version(name)) is not None} for names in FAMILIES]
    if all(versions):
        both = ", ".join(name for installed in versions for name in installed)
        raise UserError(f"{both} share their files: uninstall all of them, then install one family (mmsegmentation or onedl-...)")
    return ", ".join(f"{name} {version}" for installed in versions for name, version in installed.items()) or "none"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class _Absent(ModuleType):
    """A stub of mmcv's compiled operators, which mmcv-lite lacks. Some heads import them; none used here calls one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_arguments: Any, **_more: Any) -> None:
            raise RuntimeError(f"the compiled operator {name} of mmcv is not installed (mmcv-lite has none)")

        return absent


@cache
def import_openmmlab() -> None:
    """Import mmseg's models, transforms and metrics. Raises UserError where they cannot be imported.

    The stub of mmcv's operators is removed after the import, since mmengine checks later whether the operators exist.
    """
    make_importable()
    stubbed = COMPILED not in sys.modules and not _is_compiled()
    if stubbed:
        sys.modules[COMPILED] = _Absent(COMPILED)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the fork prints while it is imported
            warnings.simplefilter("ignore")
            for name in ("mmseg.models", "mmseg.datasets.transforms", "mmseg.evaluation", "mmengine.runner"):
                importlib.import_module(name)
    except ImportError as error:
        remedy = (
            "install the system's OpenGL and GLib (libgl1, libglib2.0-0), or opencv-python-headless in place of opencv-python"
        )
        raise UserError(f"MMSegmentation cannot be imported ({error}); where OpenCV lacks a library, {remedy}") from error
    finally:
        if stubbed:
            del sys.modules[COMPILED]


def _is_compiled() -> bool:
    return importlib.util.find_spec(COMPILED) is not None


def readable_checkpoints() -> AbstractContextManager[Any]:
    """Return a context in which torch.load with weights_only also reads mmengine's checkpoints, which hold HistoryBuffers.

    A pickled HistoryBuffer refers to its statistics (such as `HistoryBuffer.mean`) by getattr, which is allowed for these only.
    """
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    core: Any = importlib.import_module("numpy._core.multiarray")
    parts: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, core._reconstruct, core.scalar]
    parts.append((_statistic, "builtins.getattr"))
    kinds = [type(np.dtype(name)) for name in ("int32", "int64", "float32", "float64", "bool")]
    return torch.serialization.safe_globals([*parts, *kinds])


def _statistic(owner: Any, name: str) -> Any:
    """Return a statistic of HistoryBuffer, instead of getattr. Raises ValueError for any other owner or name."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current", "statistics"):
        raise ValueError(f"the checkpoint names {owner!r}.{name}, which is not a statistic of a history")
    return getattr(owner, name)
