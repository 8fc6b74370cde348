"""Libraries that ask once, when they are imported, what device there is: told anew for the simulated one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from densebench.torchvision_ops import make_importable


@contextmanager
def libraries_on(device: str) -> Iterator[None]:
    """Let MMEngine work on a device in the block, and torchvision pool regions without asking for a compiler."""
    make_importable()
    regions = importlib.import_module("torchvision.ops.roi_align")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(regions, "is_compile_supported", lambda kind: True, create=True))
        if importlib.util.find_spec("mmengine"):
            stack.enter_context(mock.patch.object(importlib.import_module("mmengine.device.utils"), "DEVICE", device))
        yield
