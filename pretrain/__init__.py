"""Pretraining methods, one file each: `densebench ls methods`. Modules without a Pretrainer are shared algorithms.

The package is also the function: `densebench.pretrain("cribo", data=["scenes"])` is `densebench.training.run.pretrain`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, method: str, **options: Any) -> Path:
        from densebench.training.run import pretrain

        return pretrain(method, **options)


sys.modules[__name__].__class__ = _Callable
