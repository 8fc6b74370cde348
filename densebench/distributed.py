"""Several processes, one model: started by torchrun or by `--gpus N`. In a single process every function is the identity."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from densebench.errors import UserError


@dataclass(frozen=True)
class World:
    """Which process this is, of how many, and on which device it works."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started (its environment variables tell), or be alone."""
    size, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; start fewer")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    patient = _patient.set(dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield World(rank, size, device)
    finally:
        _patient.reset(patient)
        dist.destroy_process_group()


def here(device: torch.device) -> World:
    """Where we are among the processes that were joined; alone where none were."""
    if world_size() == 1:
        return World(0, 1, device)
    local = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    return World(dist.get_rank(), dist.get_world_size(), local)


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
PATIENCE = timedelta(days=7)  # how long processes wait for one that works alone
_patient: ContextVar[dist.ProcessGroup | None] = ContextVar("patient", default=None)


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def synchronise() -> None:
    """Wait until every process is here, for up to PATIENCE.

    The others wait here while the main process works alone (it saves, probes, scores): waiting in an exchange of tensors, NCCL
    would end the run after ten minutes.
    """
    if world_size() > 1:
        dist.barrier(_patient.get())


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, equal in shape, joined along the first axis in the order of ranks. Carries no gradient."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def total(tensor: Tensor) -> Tensor:
    """The sum over processes. Carries no gradient."""
    tensor = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def share(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's tensors."""
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
    """Whether the flag is true in any process."""
    if world_size() == 1:
        return flag
    seen = torch.tensor([float(flag)], device=device)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen.item())


def launch(gpus: int, arguments: Sequence[str]) -> int:
    """Run `densebench` with these arguments in `gpus` processes of this machine, as torchrun does; returns the exit status."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", "-m", "densebench"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.run([*torchrun, *arguments], env=environment, check=False).returncode
