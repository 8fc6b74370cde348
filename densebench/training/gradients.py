"""The mean of gradients over processes, by all-reduces that overlap with the backward pass.

The backward pass reaches the last layers first. So parameters are divided into buckets from the last one backwards, and a bucket
is all-reduced as soon as all of its gradients are computed. Every process begins the same all-reduces in the same order, whatever
the order in which its gradients are computed, and no other collective runs meanwhile. So the processes cannot deadlock, and the
sums do not depend on timing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from densebench.processes import in_any, world_size

BUCKET_BYTES = 25 * 2**20  # as torch's DistributedDataParallel: large enough for the bandwidth, small enough to overlap


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    absent: set[int] = field(default_factory=set)  # indices of the parameters whose gradients are not computed yet
    flat: Tensor | None = None  # the gradients that are all-reduced
    work: Any = None


class GradientMean:
    """Replaces the gradients of some parameters by their means over processes.

    Call `begin` before the backward pass and `finish` after it; with several micro-batches a step, `begin` before the backward
    pass of the last one, so that the sums over micro-batches are all-reduced once. A parameter without a gradient counts as zero
    where another process has one, and keeps none where no process has one. A value that is not finite in one process is not
    finite in the mean. A loss scale that is common to all processes may be divided out afterwards. In one process nothing is
    done.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._buckets: list[_Bucket] = []
        self._sent, self._begun = 0, False
        if world_size() > 1:
            self._buckets = [_Bucket(part) for part in _buckets(list(parameters), bucket_bytes)]
        for bucket in self._buckets:
            for index, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(lambda _, b=bucket, i=index: self._ready(b, i))

    def begin(self) -> None:
        """All-reduce buckets from now on, as their gradients are computed."""
        self._begun = True
        for bucket in self._buckets:
            bucket.absent = set(range(len(bucket.parameters)))

    def finish(self) -> None:
        """All-reduce the other buckets, and wait until all gradients are means; on a GPU its stream waits, not the host."""
        if not self._buckets:
            return
        while self._sent < len(self._buckets):
            self._send()
        parameters = [parameter for bucket in self._buckets for parameter in bucket.parameters]
        present = iter(in_any([parameter.grad is not None for parameter in parameters]))
        for bucket in self._buckets:
            self._receive(bucket, present)
        self._sent, self._begun = 0, False

    def _ready(self, bucket: _Bucket, index: int) -> None:
        """Note that a gradient is computed, and all-reduce the buckets whose turn it is."""
        if not self._begun:
            return
        bucket.absent.discard(index)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].absent:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        bucket = self._buckets[self._sent]
        grads = [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in bucket.parameters]
        bucket.flat = torch.cat([grad.flatten() for grad in grads])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self._sent += 1

    @torch.no_grad()
    def _receive(self, bucket: _Bucket, present: Iterable[bool]) -> None:
        """Wait for a bucket, and write its means into the gradients.

        present: whether each parameter has a gradient in any process.
        """
        assert bucket.flat is not None
        bucket.work.wait()
        bucket.flat /= world_size()
        means = bucket.flat.split([parameter.numel() for parameter in bucket.parameters])
        had: list[Tensor] = []
        received: list[Tensor] = []
        for parameter, mean, has in zip(bucket.parameters, means, present, strict=False):
            if not has:
                continue
            if parameter.grad is None:
                parameter.grad = mean.view_as(parameter).clone()
            else:
                had.append(parameter.grad)
                received.append(mean.view_as(parameter))
        if had:
            torch._foreach_copy_(had, received)
        bucket.flat = bucket.work = None


def _buckets(parameters: list[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """Return the parameters that are trained, from the last to the first, in lists of one dtype and at most `most` bytes.

    A parameter that is larger has a list of its own.
    """
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed([parameter for parameter in parameters if parameter.requires_grad]):
        if not buckets or size + parameter.nbytes > most or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.nbytes
    return buckets
