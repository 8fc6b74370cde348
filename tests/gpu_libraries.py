"""Libraries that go by the device, told of the simulated one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from densebench.torchvision_ops import make_importable


@contextmanager
def libraries_on(device: str) -> Iterator[None]:
    """Let MMEngine work on a device in the block, and torchvision pool regions without asking whether it has a compiler."""
    make_importable()
    regions = importlib.import_module("torchvision.ops.roi_align")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(regions, "is_compile_supported", lambda kind: True, create=True))
        if importlib.util.find_spec("mmengine"):
            stack.enter_context(mock.patch.object(importlib.import_module("mmengine.device.utils"), "DEVICE", device))
        yield


@contextmanager
def one_way_of_suppressing() -> Iterator[None]:
    """Let torchvision suppress boxes class by class in the block, as the CPU does from 1,000 boxes on and a GPU from 25,000.

    For fewer it moves the boxes of each class away from the others', and by rounding other boxes survive.
    """
    make_importable()
    boxes = importlib.import_module("torchvision.ops.boxes")
    with mock.patch.object(boxes, "_batched_nms_coordinate_trick", boxes._batched_nms_vanilla):
        yield
