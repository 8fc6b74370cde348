"""torchvision beside a CPU build of torch: its compiled operators cannot load, and importing it (hence timm) fails.

The registry's torchvision is built for CUDA. Declaring the two operators that its Python code names makes it importable. The
operators that detection needs, non-maximum suppression and RoI align, run in plain torch instead; the others are left out.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
from functools import cache, wraps
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # declarations live as long as the process


@cache
def make_importable() -> Any:
    """Import torchvision, declaring its missing operators first if that is what stops it.

    Returns the library of declarations, or None where nothing was needed.
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
    _replace(library)
    _declared.append(library)
    if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":  # one process says it
        logging.getLogger("densebench").warning(
            "torchvision is not built for this torch: its compiled operators are left out; non-maximum suppression and RoI align "
            "run in plain torch"
        )
    return library


def _replace(library: Any) -> None:
    """Register the functions in plain torch that torchvision then calls for its missing operators.

    `nms` is registered as the operator itself. The guard of nms and the Python version of RoI align are replaced under their
    names in torchvision's own modules.
    """
    from densebench.numerics.nms import suppress
    from densebench.numerics.roi_align import align

    library.impl("nms", suppress, "CompositeExplicitAutograd")
    boxes, regions = (sys.modules[f"torchvision.ops.{name}"] for name in ("boxes", "roi_align"))
    boxes._assert_has_ops = lambda: None  # type: ignore[attr-defined]

    @wraps(regions._roi_align)  # type: ignore[attr-defined]
    def pooled(maps: Any, rois: Any, scale: float, rows: int, columns: int, *how: Any) -> Any:
        return align(maps, rois, scale, (rows, columns), *how)

    regions._roi_align = pooled  # type: ignore[attr-defined]
