"""Self-distillation over prototypes: cross-entropy between a teacher's and a student's distribution, and the teacher's centre.

Source: DINO (Caron et al., ICCV 2021), equations 1 to 4; CrOC, equations 3 to 6; CrIBo, equations 5 to 10.

The distributions have up to 65,536 entries. They exist for a few rows at a time: gradients are taken chunk by chunk in the
forward pass (the loss is a scalar, so the backward pass only scales them). Callers leave out rows without weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densebench.processes import gather, total

CHUNK_BYTES = 64 * 2**20  # most bytes of an array of logits
ON_GPU = 4  # times CHUNK_BYTES on a GPU: every chunk reads and writes all prototypes and their gradients, by a dozen kernels


def _rows_at_once(row_bytes: int, device: torch.device) -> int:
    """Return how many rows, or groups of rows, make a chunk. row_bytes: the bytes of the logits of each."""
    return max(1, CHUNK_BYTES * (ON_GPU if device.type == "cuda" else 1) // row_bytes)


class _Distil(torch.autograd.Function):
    """`distil` chunk by chunk, with the gradients to student and student_prototypes taken in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        student_prototypes: Tensor,
        teacher: Tensor,
        teacher_prototypes: Tensor,
        mix: Tensor,
        centre: Tensor,
        student_temp: float,
        teacher_temp: float,
    ) -> Tensor:
        _, student_rows, width = student.shape
        teacher_rows, count = teacher.shape[1], student_prototypes.shape[0]
        rows = _rows_at_once(4 * count * (student_rows + teacher_rows), student.device)
        loss = student.new_zeros(())
        grad_student, grad_prototypes = student.new_zeros(student.shape), torch.zeros_like(student_prototypes)
        for z_s, z_t, weights, out in zip(
            student.split(rows), teacher.split(rows), mix.split(rows), grad_student.split(rows), strict=True
        ):
            target = torch.addmm(-centre, z_t.reshape(-1, width), teacher_prototypes.T)
            target = target.div_(teacher_temp).softmax(dim=1).view(-1, teacher_rows, count)
            target = torch.bmm(weights, target)  # [rows, student_rows, K]: the weighted target of each student row
            logits = (z_s.reshape(-1, width) @ student_prototypes.T).div_(student_temp).view(-1, student_rows, count)
            norm = logits.logsumexp(dim=2, keepdim=True)
            mass = weights.sum(dim=2, keepdim=True)
            loss += (mass * norm).sum() - (target * logits).sum()
            slope = logits.sub_(norm).exp_().mul_(mass).sub_(target).div_(student_temp).view(-1, count)
            torch.mm(slope, student_prototypes, out=out.view(-1, width))
            grad_prototypes.addmm_(slope.T, z_s.reshape(-1, width))
        ctx.save_for_backward(grad_student, grad_prototypes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_student, grad_prototypes = ctx.saved_tensors
        return grads[0] * grad_student, grads[0] * grad_prototypes, None, None, None, None, None, None


def distil(
    student: Float[Tensor, "groups s e"],
    student_prototypes: Float[Tensor, "k e"],
    teacher: Float[Tensor, "groups t e"],
    teacher_prototypes: Float[Tensor, "k e"],
    mix: Float[Tensor, "groups s t"],
    centre: Float[Tensor, " k"],
    student_temp: float,
    teacher_temp: float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy between teacher and student rows of each group, weighted by `mix` and summed.

        target = softmax((teacher @ teacher_prototypes.T - centre) / teacher_temp)     # [g t k], a constant
        log_p = log_softmax(student @ student_prototypes.T / student_temp)             # [g s k]
        cross_entropy = -einsum("gtk,gsk->gst", target, log_p)
        return (mix * cross_entropy).sum()

    student, teacher: unit vectors of the bottleneck. mix[g, s, t]: the weight of the pair of student row s with teacher row t,
    such as 1/count for a mean, 0 for a pair that does not count. Gradients reach `student` and `student_prototypes`, exactly;
    none reach the teacher. Groups whose `mix` is 0 cost as much as others: leave them out (finding them here would make the host
    wait for the GPU).
    """
    with torch.autocast(student.device.type, enabled=False):
        return _Distil.apply(  # type: ignore[no-untyped-call, no-any-return]
            student, student_prototypes, teacher, teacher_prototypes, mix, centre, student_temp, teacher_temp
        )


class _Volume(torch.autograd.Function):
    """`volume` in two passes over the rows, with the gradients taken in the second."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        rows = _rows_at_once(student.itemsize * len(prototypes), student.device)
        mass = student.new_zeros(len(prototypes))
        for z in student.split(rows):
            mass += (z @ prototypes.T).div_(temperature).softmax(dim=1).sum(dim=0)
        mean = total(mass) / total(mass.new_full((), len(student)))
        level = mean.clamp(min=torch.finfo(mean.dtype).tiny).log() + 1
        grad_student, grad_prototypes = torch.empty_like(student), torch.zeros_like(prototypes)
        for z, out in zip(student.split(rows), grad_student.split(rows), strict=True):
            share = (z @ prototypes.T).div_(temperature).softmax(dim=1)
            slope = share * (level - (share @ level)[:, None]) / (temperature * len(student))
            torch.mm(slope, prototypes, out=out)
            grad_prototypes.addmm_(slope.T, z)
        ctx.save_for_backward(grad_student, grad_prototypes)
        return torch.special.xlogy(mean, mean).sum() + math.log(len(prototypes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_student, grad_prototypes = ctx.saved_tensors
        return grads[0] * grad_student, grads[0] * grad_prototypes, None


def volume(student: Float[Tensor, "n e"], prototypes: Float[Tensor, "k e"], temperature: float) -> Float[Tensor, ""]:
    """Return the KL divergence of the mean assignment to prototypes from uniform, over all processes (FLSL, equation 9, term 2).

        p = softmax(student @ prototypes.T / temperature).mean(0)
        return (p * p.log()).sum() + log(len(prototypes))

    It is 0 where all prototypes get the same share, and ln K where one gets everything. Gradients reach both arguments; their
    average over processes is the gradient of the divergence over all rows.
    """
    with torch.autocast(student.device.type, enabled=False):
        return _Volume.apply(student, prototypes, temperature)  # type: ignore[no-untyped-call, no-any-return]


@torch.no_grad()
def balance(
    teacher: Float[Tensor, "n e"], prototypes: Float[Tensor, "k e"], temperature: float, iterations: int
) -> Float[Tensor, " k"]:
    """Return the centre that spreads rows evenly over prototypes: the logarithms of Sinkhorn-Knopp's column scaling.

    softmax((teacher @ prototypes.T - centre) / temperature) is the plan after `iterations` iterations, each of which scales
    columns to 1/K and then rows, over all processes. As in SwAV (Caron et al., NeurIPS 2020), but rows are also scaled once
    before the first columns, so that confident rows count no more than others. For 0 iterations the centre is 0.
    """
    centre = prototypes.new_zeros(len(prototypes))
    rows = _rows_at_once(teacher.itemsize * len(prototypes), teacher.device)
    number = total(centre.new_full((), len(teacher)))
    with torch.autocast(teacher.device.type, enabled=False):
        for _ in range(iterations):
            parts = [
                torch.addmm(-centre, z, prototypes.T).div_(temperature).log_softmax(dim=1).logsumexp(dim=0)
                for z in teacher.split(rows)
            ]
            mass = gather(torch.stack(parts).logsumexp(dim=0)[None]).logsumexp(dim=0)
            centre += temperature * (mass - number.log() + math.log(len(prototypes)))
    return centre


class Centre(nn.Module):
    """The moving mean of the teacher's logits, subtracted from them against collapse (DINO, equation 4).

    The mean of logits is the logit of the mean vector, so only one vector is projected. The vectors of a step are summed, and
    enter the centre with `commit`, after the loss that used its old value.
    """

    value: Tensor

    def __init__(self, count: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(count))
        self._sums: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def see(self, teacher: Float[Tensor, "*n e"], rows: Float[Tensor, "*n"] | None = None) -> None:
        """Add teacher vectors to the sum for the next `commit`. rows: their weights (1 for a valid row, 0 for padding)."""
        flat = teacher.detach().float().reshape(-1, teacher.shape[-1])
        weights = flat.new_ones(len(flat)) if rows is None else rows.float().reshape(-1)
        with torch.autocast(flat.device.type, enabled=False):
            self._sums.append((weights @ flat, weights.sum()))

    @torch.no_grad()
    def commit(self, prototypes: Float[Tensor, "k e"]) -> None:
        """Set the centre to m * centre + (1 - m) * mean logits of the vectors of all processes since the last commit."""
        if not self._sums:
            return
        vector, count = (torch.stack(parts).sum(dim=0) for parts in zip(*self._sums, strict=True))
        self._sums.clear()
        vector, count = total(vector), total(count)
        mean = prototypes.detach().float() @ (vector / count.clamp(min=1.0))
        self.value.copy_(torch.where(count > 0, torch.lerp(mean, self.value, self.momentum), self.value))

    def discard(self) -> None:
        """Forget the vectors of the step, because its loss or a gradient was not finite."""
        self._sums.clear()


@torch.no_grad()
def entropy(
    vectors: Float[Tensor, "n e"], prototypes: Float[Tensor, "k e"], centre: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, ""]:
    """Return the mean entropy of the teacher's distributions in nats: ln K where uniform, 0 where each is a single prototype."""
    with torch.autocast(vectors.device.type, enabled=False):
        logits = ((vectors.float() @ prototypes.float().T - centre) / temperature).log_softmax(dim=1)
    return -(logits.exp() * logits).sum(dim=1).mean()
