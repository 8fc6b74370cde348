"""The device, the processes that decode images, and the processes that work together on one model.

Processes that work together are started by torchrun or by `--gpus N`. In a single process every exchange is the identity.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from densebench.console import one_line
from densebench.errors import UserError
from densebench.launching import ElsewhereError, begin_together, note_failure
from densebench.numerics.partial_sums import add_parts

T = TypeVar("T")
FEW_IMAGES = 256  # below this, starting worker processes costs more than it saves
_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
BF16 = (8, 0)  # the first compute capability (Ampere) with bf16 in hardware
PATIENCE = timedelta(days=7)  # how long processes wait for one that works alone
GRACE = 5.0  # seconds in which all must fail, or end, for a failure of one of them to be that of all: see `settled`
_patient: ContextVar[dist.ProcessGroup | None] = ContextVar("patient", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_ours: ContextVar[bool] = ContextVar("ours", default=False)
_count = {"groups": 0, "outcomes": 0}
"""How often this process has joined others, and has settled with them how work ended: each time has keys of its own."""


def resolve_device(name: str) -> torch.device:
    """Return the device for auto, cpu or cuda. Raises UserError where CUDA is requested and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine or this build of torch has no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_precision(name: str, device: str) -> str:
    """Return fp32, bf16 or fp16 for the `--precision` and `--device` of a training: `auto` is what the device computes fast.

    That is bf16 on a GPU with bf16 in hardware (fp32 would take about seven times as long there), and fp32 elsewhere. fp16 is
    never chosen, since its gradients must be scaled. Raises UserError where CUDA is requested and absent.
    """
    if name != "auto":
        return name
    resolved = resolve_device(device)
    return "bf16" if resolved.type == "cuda" and torch.cuda.get_device_capability(resolved) >= BF16 else "fp32"


def resolve_workers(workers: int | None, images: int, device: torch.device | None = None) -> int:
    """Return the requested number of processes that decode; by default none for few images.

    For many images the default is one per core, at most eight, which share the cores with a network on the CPU; for a network on
    a GPU it is `decoders`.
    """
    if workers is not None:
        return workers
    if images < FEW_IMAGES:
        return 0
    return decoders() if device is not None and device.type == "cuda" else min(8, os.cpu_count() or 1)


def decoders() -> int:
    """Return how many processes decode images for one GPU: seven eighths of its share of the machine's cores, at most 24.

    The rest is for the process that feeds the GPU and for its thread that copies batches into page-locked memory. Of 16 cores 14
    decode.
    """
    share = _cores() // max(1, torch.cuda.device_count())
    return max(1, min(24, share - max(1, share // 8)))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: torch.device) -> str:
    """Return the device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


@dataclass(frozen=True)
class World:
    """Which process this is, of how many, and on which device it works."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the one that writes files and prints."""
        return self.rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started, as its environment variables say; without them, work alone.

    Where the caller's own `init_process_group` has joined them, they stay as they are. An error that leaves the block is noted
    before the others can see that this process is gone.
    """
    size, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    if _alone.get() or (size == 1 and world_size() == 1):
        yield World(0, 1, device)
        return
    if world_size() > 1:
        yield here(device)
        return
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; start fewer")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    begin_together()
    ours, patient = _ours.set(True), _patient.set(None)
    try:
        _join(device.type, rank, size)
        yield World(rank, size, device)
    except Exception as error:
        failure = _explained(error)
        note_failure(failure)
        if failure is not error:
            raise failure from error
        raise
    finally:
        _patient.reset(patient)
        _ours.reset(ours)
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(kind: str, rank: int, size: int) -> None:
    """Form the groups of the processes. Keys of earlier groups lie in the same store, so each has a prefix of its own."""
    _count["groups"] += 1
    store = dist.PrefixStore(f"densebench-{_count['groups']}", _store())
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    _patient.set(dist.new_group(backend="gloo", timeout=PATIENCE))


@functools.cache
def _store() -> dist.Store:
    """Return the store by which the processes that torchrun started find each other."""
    store, _, _ = next(dist.rendezvous("env://"))
    return store


def _explained(error: Exception) -> Exception:
    """Return the error itself, or what it means where an exchange broke since another process is gone."""
    broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    if not broken or isinstance(error, torch.cuda.OutOfMemoryError):
        return error
    return ElsewhereError(
        f"another of the processes that work together has ended; its message says why ({one_line(str(error))[:120]})"
    )


def here(device: torch.device) -> World:
    """Return the rank of this process, the number of processes that `joined` joined (else one), and its device."""
    if world_size() == 1:
        return World(0, 1, device)
    local = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    return World(dist.get_rank(), dist.get_world_size(), local)


def world_size() -> int:
    """Return how many processes work together; 1 inside `alone`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone.get() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Work in this process alone during the block: nothing waits for the others, and nothing is exchanged with them."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def rank() -> int:
    """Return the number of this process among those that work together, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def _patient_group() -> dist.ProcessGroup:
    """Return all processes as a group that waits for up to PATIENCE: that of `joined`, else a new one, made once."""
    group = _patient.get()
    if group is None:
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        _patient.set(group)
    return group


def synchronise() -> None:
    """Wait until every process has come to this point, for up to PATIENCE.

    The others wait here while the main process works alone (it saves, probes, scores). If they waited in an exchange of tensors
    instead, NCCL would end the run after ten minutes.
    """
    if world_size() > 1:
        dist.barrier(_patient_group())


def gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, equal in shape, joined along the first axis by rank, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def exchanged(parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Send a part to every process, by rank; return what each of them sends to this one. shapes: of what is returned."""
    sizes = [math.prod(shape) for shape in shapes]
    received = parts[0].new_empty(sum(sizes))
    sent = torch.cat([part.detach().flatten() for part in parts])
    dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts])
    return [part.view(shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]


def dealt(work: Sequence[T]) -> list[T]:
    """Return the parts of some work that this process does: every n-th one, from its rank on. A single process does all."""
    return list(work[rank() :: world_size()])


def consecutive(work: Sequence[T]) -> Sequence[T]:
    """Return the parts of some work that this process does where order matters: a run of neighbours, rank 0 having the first.

    All processes have about equally many; a single process does all, and some do nothing where there is less work than processes.
    """
    start, stop = (len(work) * number // world_size() for number in (rank(), rank() + 1))
    return work[start:stop]


def add_all_parts(totals: Sequence[Tensor], parts: Iterable[Sequence[Tensor]]) -> None:
    """Add the parts of all processes to the totals, in place: those of rank 0 first, then those of the next rank, and so on.

    Totals must begin alike in all processes, and end alike. With parts from `consecutive` work they are, bit for bit, what a
    single process makes of all parts in their order. The parts are computed in all processes at once, and held until then.
    """
    if world_size() == 1:
        add_parts(totals, parts)
        return
    held = list(parts)
    for turn in range(world_size()):
        if turn == rank():
            add_parts(totals, held)
        for total in totals:
            dist.broadcast(total, turn, group=None if total.is_cuda else _patient_group())


def collected(results: Sequence[T]) -> list[T]:
    """Return in every process the results of all processes, in the order of the work that `dealt` dealt out.

    They are pickled, and may be of any size; tensors should be on the CPU. The processes wait for each other for up to PATIENCE.
    """
    if world_size() == 1:
        return list(results)
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, list(results), group=_patient_group())
    return [part[index] for index in range(max(map(len, parts))) for part in parts if index < len(part)]


def in_order(own: Tensor, first: int = 0) -> Tensor:
    """Return in every process a row for each part of some work, in the order of the work that `dealt` dealt out.

    own: the rows of this process's parts, on the CPU, of the same dtype and shape of a row in all processes. Where the rows are
    of the work from its part number `first` on, that number tells whose row comes first.
    """
    if world_size() == 1:
        return own
    parts = collected([own])
    rows = own.new_empty(sum(map(len, parts)), *own.shape[1:])
    for number, part in enumerate(parts):
        rows[(number - first) % len(parts) :: len(parts)] = part
    return rows


def total(tensor: Tensor) -> Tensor:
    """Return the sum over processes, without gradient."""
    tensor = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def total_at(owner: int, tensor: Tensor) -> Tensor | None:
    """Return the sum over processes in the one whose rank is `owner`, None in the others, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    tensor = tensor.detach().clone()
    dist.reduce(tensor, owner)
    return tensor if rank() == owner else None


def from_main(work: Callable[[], T]) -> T:
    """Return in every process what `work` returns in the main one, which alone runs it; the others wait, for up to PATIENCE.

    An error there is raised in all processes, as UserError in the others.
    """
    if world_size() == 1:
        return work()
    result: list[Any] = [None, ""]
    failure: BaseException | None = None
    if rank() == 0:
        try:
            result[0] = work()
        except BaseException as error:
            failure, result[1] = error, f"the main process failed: {str(error) or type(error).__name__}"
    dist.broadcast_object_list(result, 0, group=_patient_group())
    if failure is not None:
        raise failure
    if result[1]:
        raise ElsewhereError(result[1])
    return result[0]


def share(tensors: Sequence[Tensor]) -> None:
    """Overwrite the tensors of every process with those of the main process."""
    for tensor in tensors if world_size() > 1 else ():
        dist.broadcast(tensor, 0)


def average_gradients(module: nn.Module) -> None:
    """Replace each gradient by its mean over processes, in one exchange."""
    if world_size() == 1:
        return
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def agree(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is true in any process."""
    if world_size() == 1:
        return flag
    raised = torch.tensor([float(flag)], device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return bool(raised.item())


def in_all(flag: Tensor) -> bool:
    """Return whether a flag, a bool tensor without dimensions, is true in every process. The host waits for the device once."""
    if world_size() == 1:
        return bool(flag)
    least = flag.float()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return bool(least)


def in_any(flags: Sequence[bool]) -> list[bool]:
    """Return for each flag whether it is true in any process. The hosts wait for each other, not for their devices."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(list(flags), dtype=torch.uint8)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=_patient_group())
    return [bool(flag) for flag in raised.tolist()]


def settled(failure: Exception | None) -> Exception | None:
    """Return the error by which some work failed in any process, the same one in every process; None if in none.

    failure: how this process failed. A process that has done its work waits for the others. One that has failed waits for
    GRACE: if another is still at work then, perhaps in an exchange that cannot end, the failure is raised, which ends the call.
    After a failure of all, the processes form new groups, since some may have exchanged more than others.
    """
    if world_size() == 1 or not _ours.get():
        return failure
    _count["outcomes"] += 1
    mine = None if failure is None else _explained(failure)
    own = {"failed": mine is not None, "users": isinstance(mine, UserError), "elsewhere": isinstance(mine, ElsewhereError)}
    key, store = f"outcome-{_count['outcomes']}", _store()
    store.set(f"{key}/{rank()}", json.dumps({**own, "text": str(mine) or type(mine).__name__}))
    keys, begun = [f"{key}/{number}" for number in range(world_size())], time.monotonic()
    try:
        while not store.check(keys):
            if mine is not None and time.monotonic() - begun > GRACE and not _decided(store, key, "together no more"):
                raise mine
            time.sleep(0.05)
        outcomes = [json.loads(store.get(each)) for each in keys]
        together = _decided(store, key, "together")
    except dist.DistError as error:
        raise _explained(error) from error
    failed = [number for number, outcome in enumerate(outcomes) if outcome["failed"]]
    if not failed:
        return None
    first, size = min(failed, key=lambda number: (outcomes[number]["elsewhere"], number)), world_size()
    text = f"process {first} of {size}: {outcomes[first]['text']}"
    told = (ElsewhereError if outcomes[first]["users"] else RuntimeError)(text)
    failure = mine if mine is not None and first == rank() else told
    if not together:
        raise failure
    here, kind = rank(), dist.get_backend()
    dist.destroy_process_group()
    _join("cuda" if kind == "nccl" else "cpu", here, size)
    return failure


def _decided(store: dist.Store, key: str, proposal: str) -> bool:
    """Propose whether the processes go on together after an outcome; return whether they do. The first proposal counts."""
    return bool(store.compare_set(f"{key}/decision", "", proposal) == b"together")
