"""What replaces torch.cuda, torch.accelerator, autocast and a few functions of torch while the device is simulated."""

from __future__ import annotations

import time
import types
import weakref
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from simulated_cuda.host_memory import host
from simulated_cuda.report import OVERLAPPED, WAIT, current
from simulated_cuda.streams import MAIN, streams
from simulated_cuda.tensors import DEVICE, Cuda, waited
from simulated_cuda.trees import tensors_in

MEMORY = 139 * 2**30


class Event:
    """A point in the queue of a stream."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._timed, self._known, self._time = enable_timing, dict[int, int](), None

    def record(self, stream: Any = None) -> None:
        """Note what was queued until now, on the current stream or the one that is given."""
        self._known, self._time = streams.now(None if stream is None else stream.number), time.perf_counter()

    def synchronize(self) -> None:
        """Wait for what was queued before the event."""
        current.report.note(OVERLAPPED, "Event.synchronize")
        self.query()

    def query(self) -> bool:
        """Return that all is done."""
        streams.wait(None, self._known)
        host.arrive(self._known)
        return True

    def wait(self, stream: Any = None) -> None:
        """Let a stream, by default the current one, wait for what was queued before the event."""
        streams.wait(streams.current if stream is None else stream.number, self._known)

    def elapsed_time(self, later: Event) -> float:
        """Return the host's milliseconds between two events. Raises RuntimeError where one was not made or recorded for it."""
        if not (self._timed and later._timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self._time is None or later._time is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return 1000 * (later._time - self._time)


class Stream:
    """A queue of the device. Work is done in the order of the calls; what would race is refused (`streams`)."""

    device = DEVICE

    def __init__(self, *_: Any, number: int | None = None, **__: Any) -> None:
        self.number = streams.make() if number is None else number

    def wait_stream(self, stream: Any) -> None:
        """Wait for what was queued on another stream."""
        streams.wait(self.number, streams.now(stream.number))

    def wait_event(self, event: Any) -> None:
        """Wait for what was queued before an event."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event at the end of the queue."""
        event = event or Event()
        event.record(self)
        return event

    def is_capturing(self) -> bool:
        """Return that no graph is being recorded."""
        return False

    def query(self) -> bool:
        """Return that all is done."""
        known = streams.now(self.number)
        streams.wait(None, known)
        host.arrive(known)
        return True

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        with self:
            waited(WAIT, "Stream.synchronize")

    def __enter__(self) -> Stream:
        streams.entered.append(self.number)
        return self

    def __exit__(self, *_: Any) -> None:
        streams.entered.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.number == self.number

    def __hash__(self) -> int:
        return self.number


DEFAULT_STREAM = Stream(number=MAIN)


def _synchronise(*_: Any) -> None:
    """Wait for all streams."""
    streams.wait_for_all()
    waited(WAIT, "torch.cuda.synchronize")
    host.arrive()


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _fakes() -> dict[str, Any]:
    """Return what replaces the functions of torch.cuda, for a machine with one device."""
    properties = types.SimpleNamespace(name="simulated", major=9, minor=0, total_memory=MEMORY, multi_processor_count=132)
    values = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_initialized": True, "get_device_capability": (9, 0),
        "get_device_name": "simulated CUDA", "is_bf16_supported": True, "get_device_properties": properties,
        "memory_allocated": 0, "max_memory_allocated": 0, "max_memory_reserved": 0, "memory_reserved": 0,
        "mem_get_info": (MEMORY, MEMORY), "is_current_stream_capturing": False,
        "get_rng_state": torch.get_rng_state(), "get_rng_state_all": [torch.get_rng_state()],
    }  # fmt: skip
    silent = (
        "_lazy_init _lazy_call init empty_cache manual_seed manual_seed_all set_device set_rng_state set_rng_state_all "
        "reset_peak_memory_stats"
    )
    return {
        **{name: _constant(value) for name, value in {**values, **dict.fromkeys(silent.split())}.items()},
        "synchronize": _synchronise,
        "Event": Event,
        "Stream": Stream,
        "current_stream": lambda *_: Stream(number=streams.current),
        "default_stream": _constant(DEFAULT_STREAM),
        "stream": lambda stream: stream or nullcontext(),
    }


def replace_torch_cuda(stack: ExitStack) -> None:
    """Let torch.cuda and torch.accelerator report one device."""
    accelerator = {"is_available": True, "current_accelerator": torch.device("cuda"), "device_count": 1}
    accelerator |= {"current_device_index": 0, "set_device_index": None}
    ours = _fakes()
    fakes = {name: _constant(value) for name, value in accelerator.items()}
    fakes |= {name: ours[name] for name in ("current_stream", "synchronize")}
    stack.enter_context(mock.patch.multiple(torch.cuda, **ours))
    stack.enter_context(mock.patch.multiple(torch.accelerator, **fakes))


def replace_pinning(stack: ExitStack) -> None:
    """Let memory of the host be page-locked, in every thread."""

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        return self if host.is_locked(self) else host.lock(self.clone())

    stack.enter_context(mock.patch.object(Tensor, "pin_memory", pin_memory))
    stack.enter_context(mock.patch.object(Tensor, "is_pinned", lambda self, device=None: host.is_locked(self)))


def replace_precision(stack: ExitStack) -> None:
    """Let autocast take "cuda"."""
    begin = torch.amp.autocast_mode.autocast.__init__

    def begin_on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, "cpu" if torch.device(device_type).type == "cuda" else device_type, *args, **kwargs)

    stack.enter_context(mock.patch.object(torch.amp.autocast_mode.autocast, "__init__", begin_on_cpu))


def replace_compile(stack: ExitStack) -> None:
    """Let `torch.compile` return what it is given."""
    stack.enter_context(mock.patch.object(torch, "compile", lambda model=None, **_: model or (lambda function: function)))
    stack.enter_context(mock.patch.object(torch.nn.Module, "compile", _constant(None)))


def replace_moving(stack: ExitStack) -> None:
    """Let optimisers follow parameters that move to the device: there they stay the same tensors, here they become others."""
    apply, add, optimisers = torch.nn.Module._apply, torch.optim.Optimizer.add_param_group, weakref.WeakSet()

    def added(self: torch.optim.Optimizer, group: Any) -> None:
        optimisers.add(self)
        add(self, group)

    def applied(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        before = dict(self._parameters)
        found = apply(self, *args, **kwargs)
        changed = {id(old): self._parameters[name] for name, old in before.items() if old is not self._parameters[name]}
        for group in (group for optimiser in optimisers if changed for group in optimiser.param_groups):
            group["params"] = [changed.get(id(parameter), parameter) for parameter in group["params"]]
        return found

    stack.enter_context(mock.patch.object(torch.optim.Optimizer, "add_param_group", added))
    stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", applied))
    for put in (torch.__future__.set_overwrite_module_params_on_conversion, torch._C._set_only_lift_cpu_tensors):
        put(True)
        stack.callback(put, False)


def replace_grouping(stack: ExitStack) -> None:
    """Let optimisers group tensors by the device that Python sees."""
    grouped = torch._C._group_tensors_by_device_and_dtype

    def group(lists: Any, *more: Any) -> Any:
        there = any(isinstance(value, Cuda) for value in tensors_in(lists))
        return {(DEVICE if there else device, dtype): part for (device, dtype), part in grouped(lists, *more).items()}

    stack.enter_context(mock.patch("torch._C._group_tensors_by_device_and_dtype", group))
