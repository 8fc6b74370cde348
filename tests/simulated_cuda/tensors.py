"""A tensor that says it is on cuda:0, and how an operation on such tensors is carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from simulated_cuda.checks import check_generator, check_operation, writes
from simulated_cuda.counting import count_operation, is_view, queues
from simulated_cuda.host_memory import host
from simulated_cuda.report import QUEUED, TO_HOST, WAIT, current
from simulated_cuda.streams import streams
from simulated_cuda.tables import WITHOUT_KERNEL
from simulated_cuda.trees import changed, tensors_in

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")


class Cuda(Tensor):
    """A tensor on the simulated device; `held` is an ordinary tensor with its data."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, data: Tensor) -> Cuda:
        layout = {"strides": data.stride(), "storage_offset": data.storage_offset(), "dtype": data.dtype, "layout": data.layout}
        made = Tensor._make_wrapper_subclass(cls, data.size(), **layout, device=CPU, requires_grad=False)
        made.held = data.detach() if data.requires_grad else data
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, Cuda):
            raise RuntimeError("Attempted to call `variable.set_data(tensor)`, but they have incompatible tensor type")
        self.held = other.held

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"cuda({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Cuda:
        copied = Cuda(self.held.clone()).requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), copied)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first.")

    numpy = __dlpack__ = __array__

    def pin_memory(self, *_: Any) -> Any:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def is_pinned(self, *_: Any) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def share_memory_(self) -> Cuda:
        return self

    def get_device(self) -> int:
        return 0

    def record_stream(self, stream: Any) -> None:
        """Let the allocator keep the memory until the stream has come to its present end."""
        streams.hold(self.held, stream.number)

    def cuda(self, *_: Any, **__: Any) -> Cuda:
        return self

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.to(CPU)

    def tolist(self) -> Any:
        if streams.watched:
            streams.use([self.held], [], [])
        waited(WAIT, "tolist")
        return self.held.tolist()

    def new_tensor(self, values: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        made = torch.tensor(values, dtype=dtype or self.dtype, requires_grad=requires_grad)
        return made.to(DEVICE if device is None else device)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, non_blocking = requested(args, kwargs)
        if device is None or device.type == "cuda":
            same = dtype in (None, self.dtype) and not kwargs.get("copy")
            return self if same else torch.ops.aten._to_copy(self, dtype=dtype or self.dtype)
        with current.state.leaving():
            return torch.ops.aten._to_copy(self, dtype=dtype or self.dtype, device=CPU, non_blocking=non_blocking)


def requested(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.device | None, torch.dtype | None, bool]:
    """Return the device and type that `Tensor.to` is called with, None where they stay, and whether it need not wait."""
    other = next((value for value in [*args, *kwargs.values()] if isinstance(value, Tensor)), None)
    if other is not None:
        return other.device, other.dtype, bool(kwargs.get("non_blocking"))
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
    return device, dtype, non_blocking


def waited(kind: str, operation: str) -> None:
    """Count a wait for all that was queued, after which the copies to the host are there."""
    if not current.state.checks:
        current.report.note(kind, operation)
    known = streams.now()
    streams.wait(None, known)
    host.arrive(known)


def operate(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Carry out one aten operation: check it, count it, compute it on the CPU, wrap what belongs on the device."""
    name = func._schema.name.partition("::")[2]
    tensors = list(tensors_in((args, kwargs)))
    there = [tensor for tensor in tensors if isinstance(tensor, Cuda)]
    on_device = _belongs_on_device(name, kwargs, tensors, there)
    if not there and not on_device:
        return func(*args, **kwargs)
    if on_device:
        check_generator(kwargs.get("generator"))
    check_operation(func, name, args, dict(kwargs), tensors)
    kind = count_operation(func, name, args, kwargs, on_device)
    watched = streams.watched and not is_view(func)
    if watched:
        into = [own.held for own in _into(func, args, kwargs) if isinstance(own, Cuda)]
        streams.use([tensor.held for tensor in there], into, [])
    if kind in (WAIT, TO_HOST):
        waited(kind, name)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    result = _computed(func, name, args, kwargs, tensors, on_device)
    if kind == QUEUED and on_device:
        host.send(args[0] if name == "_to_copy" else args[1])
    returns = func._schema.returns
    if watched and on_device and not (returns and writes(returns[0])):
        made = list(tensors_in([result]))
        streams.use([], [] if name in WITHOUT_KERNEL else made, made)
    if returns and writes(returns[0]):
        return _written(func, args, kwargs)
    if not on_device:
        return result
    aliases = bool(returns and there) and returns[0].alias_info is not None and not there[0].is_inference()
    with torch.inference_mode(False) if aliases else nullcontext():  # views of ordinary tensors stay ordinary
        return changed(result, Tensor, lambda value: value if isinstance(value, Cuda) else Cuda(value))


def _belongs_on_device(name: str, kwargs: Mapping[str, Any], tensors: list[Tensor], there: list[Cuda]) -> bool:
    """Return whether the result of an operation is on the device."""
    if there:
        return not (name == "_to_copy" and current.state.leaves)
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
        return True
    return not tensors and current.state.makes_cuda


def _computed(func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor], on_device: bool) -> Any:
    """Return what an operation gives on the CPU; a queued copy to the host only begins."""
    plain = [changed(part, Cuda, lambda tensor: tensor.held) for part in (args, kwargs)]
    to_host = not args or not isinstance(args[0], Cuda) if name == "copy_" else name == "_to_copy" and not on_device
    if not (to_host and queues(name, args, kwargs)):
        return func(*plain[0], **plain[1])
    target = plain[0][0] if name == "copy_" else host.lock(func(*plain[0], **plain[1]))
    value = plain[0][1] if name == "copy_" else target
    host.begin(target, value.expand(target.shape))
    return target


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the arguments that an operation has written into, as it returns them."""
    found = _into(func, args, kwargs)
    return found[0] if len(func._schema.returns) == 1 else tuple(found)


def _into(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the arguments that an operation writes into."""
    own = enumerate(func._schema.arguments)
    return [args[i] if i < len(args) else kwargs.get(argument.name) for i, argument in own if writes(argument)]
