"""Importing MMSegmentation beside mmcv-lite, and reading the checkpoints of mmengine safely."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from contextlib import AbstractContextManager
from functools import cache
from types import ModuleType
from typing import Any

from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

COMPILED = "mmcv._ext"


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
        with warnings.catch_warnings():
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
