"""The simulated device, for the duration of a block."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from simulated_cuda import torch_cuda
from simulated_cuda.host_memory import host
from simulated_cuda.modes import listening
from simulated_cuda.report import Report, current
from simulated_cuda.streams import streams


@contextmanager
def simulate() -> Iterator[Report]:
    """Simulate a CUDA device in the block, and yield its report, which is complete at the end."""
    importlib.import_module("torch._dynamo")  # it lists functions of torch.cuda at import: before they are replaced
    current.report = report = Report()
    host.forget()
    streams.forget()
    with ExitStack() as stack:
        for replace in (
            torch_cuda.replace_torch_cuda,
            torch_cuda.replace_pinning,
            torch_cuda.replace_precision,
            torch_cuda.replace_compile,
            torch_cuda.replace_moving,
            torch_cuda.replace_grouping,
            _replace_threads,
        ):
            replace(stack)
        stack.enter_context(listening())
        yield report
        streams.check_freed()
        host.arrive()


def _replace_threads(stack: ExitStack) -> None:
    """Simulate the device in threads that start during the block, too."""
    run = threading.Thread.run

    def run_listening(self: threading.Thread) -> None:
        with listening():
            run(self)

    stack.enter_context(mock.patch.object(threading.Thread, "run", run_listening))
