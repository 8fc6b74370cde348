"""Looking at backbones without labels: pictures of their features, and label-free figures, on one page.

`densebench.look(...)` is a call of this package: a function of the same name would be hidden by it once it is imported.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """A package that is called as its main function is."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from densebench.look.looking import look

        return look(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
