"""Libraries that go by the device, told of the simulated one, and to take the same way on both."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from densebench.torchvision_ops import make_importable


@contextmanager
def libraries_on(device: str) -> Iterator[None]:
    """Let MMEngine, which looks for a device when it is imported, work on one in the block, and torchvision take one way.

    torchvision asks whether the device has a compiler before it pools regions, and suppresses boxes class by class on the CPU
    from 1,000 boxes on, elsewhere from 25,000: other boxes survive by rounding.
    """
    make_importable()
    regions, boxes = (importlib.import_module(f"torchvision.ops.{name}") for name in ("roi_align", "boxes"))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(regions, "is_compile_supported", lambda kind: True, create=True))
        stack.enter_context(mock.patch.object(boxes, "_batched_nms_coordinate_trick", boxes._batched_nms_vanilla))
        if importlib.util.find_spec("mmengine"):
            stack.enter_context(mock.patch.object(importlib.import_module("mmengine.device.utils"), "DEVICE", device))
        yield
