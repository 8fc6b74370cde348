"""torchvision beside a CPU build of torch: its compiled operators cannot load, and importing it (hence timm) dies.

The registry's torchvision is built for CUDA. Declaring the two operators that its Python code names is enough for everything that
is used here; calling them would still fail, and nothing here does.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
from functools import cache
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def make_importable() -> Any:
    """Import torchvision, declaring its missing operators first if that is what stops it.

    Returns the library of declarations, which must live as long as the process, or None where nothing was needed.
    """
    try:
        importlib.import_module("torchvision")
        return None
    except ImportError:
        return None  # timm says what it needs
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    importlib.import_module("torchvision")
    if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":  # it is said once
        logging.getLogger("densebench").warning("torchvision is not built for this torch: its compiled operators are left out")
    return library
