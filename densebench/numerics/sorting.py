"""Differentiable sorting networks: which input ends at which rank, as a doubly stochastic matrix with gradients.

Petersen, Borgelt, Kuehne, Deussen: Differentiable Sorting Networks for Scalable Sorting and Ranking Supervision, ICML 2021, and
Monotonic Differentiable Sorting Networks, ICLR 2022 (the Cauchy swap). NeCo (Pariza et al., 2024), equations 4 to 8, sorts
similarities with them.

A network is a list of layers of comparators. A comparator mixes the two values on its wires, and with them the two columns of
the permutation matrix, by one share alpha:

    low' = alpha low + (1 - alpha) high,    high' = (1 - alpha) low + alpha high,    alpha = f(beta (high - low)).

Nothing else is computed: matrices are stored as columns `[wire, row, input]`, so a layer touches each column once, two at a time,
and a layer's own (dense) permutation matrix never exists. Columns are as wide as the block that a layer works in, not wider.
The backward pass needs the differences at the comparators, one number each, and recomputes the columns, some rows at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from densebench.errors import unknown
from densebench.numerics.sorting_networks import Layers, comparators

CHUNK_BYTES = 12 * 2**20  # of the columns of all layers: what a CPU's cache holds
ON_GPU = 64  # times as much on a GPU, where fewer and larger kernels are faster
TINY = 1e-10  # added to differences of the logistic_phi swap, as diffsort does
FLOOR = 1e-20  # smaller entries are raised to it before a logarithm

SWAPS = ("cauchy", "logistic", "logistic_phi")


def _cauchy(scaled: Tensor) -> Tensor:
    return torch.atan2(torch.ones_like(scaled), -scaled) / math.pi  # atan(x) / pi + 1/2, without loss of digits near 0


def _cauchy_slope(scaled: Tensor) -> Tensor:
    return 1 / (math.pi * (1 + scaled * scaled))


def _logistic_slope(scaled: Tensor) -> Tensor:
    return scaled.sigmoid() * (-scaled).sigmoid()


class _Swap:
    """The share f(beta d) of a comparator, and its slope by the difference d."""

    def __init__(self, name: str, steepness: float) -> None:
        if name not in SWAPS:
            raise unknown("swap", name, SWAPS, f"it is one of {', '.join(SWAPS)}")
        self.steepness, self.phi = steepness, name == "logistic_phi"
        self.share: Callable[[Tensor], Tensor] = _cauchy if name == "cauchy" else torch.sigmoid
        self.slope: Callable[[Tensor], Tensor] = _cauchy_slope if name == "cauchy" else _logistic_slope

    def shares(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of its own value that a wire keeps and the share that it gives away, each with all its digits."""
        scaled = self._scaled(difference)
        return self.share(scaled), self.share(-scaled)

    def alpha_slope(self, difference: Tensor) -> Tensor:
        """Return d alpha / d difference."""
        inner = self.steepness * self.slope(self._scaled(difference))
        size = difference.abs()
        return inner * self._flat(difference) * (1 - 0.25 * size / (size + TINY)) if self.phi else inner

    def _scaled(self, difference: Tensor) -> Tensor:
        return self.steepness * difference * (self._flat(difference) if self.phi else 1.0)

    def _flat(self, difference: Tensor) -> Tensor:
        return (difference.abs() + TINY) ** -0.25


def _mixed(a: Tensor, c: Tensor, shares: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return alpha a + (1 - alpha) c and (1 - alpha) a + alpha c."""
    keep, give = (share.view(*share.shape, *[1] * (a.ndim - share.ndim)) for share in shares)
    return (a * keep).addcmul_(c, give), (a * give).addcmul_(c, keep)


class _Stage:
    """Some layers, and how wide the columns are that they mix: as many inputs as can have reached a wire by then.

    A bitonic network sorts blocks of 2, 4, 8, ... wires, so its first layers know few inputs. A block's columns are those of its
    two halves, side by side with zeros. A wire that was left out keeps its index in the block until the last stage.
    """

    def __init__(self, layers: Layers, halves: list[int] | None, left_out: int, device: torch.device) -> None:
        """Put the index tensors on the device. halves: for each wire, 1 in the upper half of its block; None: columns stay."""
        self.layers = [tuple(torch.tensor(w, dtype=torch.long, device=device) for w in layer) for layer in layers]
        self.left_out = left_out
        self.upper = None if halves is None else torch.tensor(halves, device=device).view(-1, 1, 1)

    def widen(self, columns: Tensor) -> Tensor:
        """Return columns `[wires, n, inputs]` of halves as columns of blocks."""
        if self.upper is None:
            return columns
        wide = torch.cat([columns * (1 - self.upper), columns * self.upper], dim=2)
        return wide[..., self.left_out :].contiguous() if self.left_out else wide

    def narrow(self, grad: Tensor) -> Tensor:
        """Return the gradient with respect to columns of halves, given that with respect to columns of blocks."""
        if self.upper is None:
            return grad
        low, high = F.pad(grad, (self.left_out, 0)).chunk(2, dim=2)
        return torch.where(self.upper > 0, high, low)


@functools.cache
def _stages(network: str, count: int, device: torch.device) -> tuple[_Stage, ...]:
    """Return the network in stages, with its index tensors on the device, where they stay."""
    layers = comparators(network, count)
    if network == "odd-even":
        return (_Stage(layers, None, 0, device),)
    depth, stages = math.ceil(math.log2(count)), []
    left_out = 2**depth - count
    for block in range(1, depth + 1):
        halves = [wire >> (block - 1) & 1 for wire in range(left_out, 2**depth)]
        part = layers[block * (block - 1) // 2 : block * (block + 1) // 2]
        stages.append(_Stage(part, halves, left_out if block == depth else 0, device))
    return tuple(stages)


class _Sorter:
    """A network at work on `values` [n, r]: differences at the comparators, then columns, then gradients."""

    def __init__(self, count: int, network: str, swap: str, steepness: float, device: torch.device) -> None:
        self.count, self.swap, self.stages = count, _Swap(swap, steepness), _stages(network, count, device)
        self.layers = [layer for stage in self.stages for layer in stage.layers]

    def differences(self, values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return sorted values [r, n], and per layer high - low at its comparators [pairs, n]."""
        wires, differences = values.T.clone(), []
        for low, high in self.layers:
            a, c = wires[low], wires[high]
            differences.append(c - a)
            wires[low], wires[high] = _mixed(a, c, self.swap.shares(differences[-1]))
        return wires, differences

    def columns(self, differences: list[Tensor], rows: int, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """Return the matrix as columns [rank, n, input], and (if `keep`) per layer high - low of columns at its comparators."""
        like, apart, remaining = differences[0], [], iter(differences)
        if self.stages[0].upper is None:
            columns = torch.eye(self.count, dtype=like.dtype, device=like.device)[:, None].repeat(1, rows, 1)
        else:
            columns = like.new_ones(self.count, rows, 1)
        for stage in self.stages:
            columns = stage.widen(columns)
            for low, high in stage.layers:
                a, c = columns.index_select(0, low), columns.index_select(0, high)
                if keep:
                    apart.append(c - a)
                a, c = _mixed(a, c, self.swap.shares(next(remaining)))
                columns.index_copy_(0, low, a).index_copy_(0, high, c)
        return columns, apart

    def pull(self, apart: list[Tensor], differences: list[Tensor], grad: Tensor, grad_sorted: Tensor) -> Tensor:
        """Return the gradient of values [n, r] from those of columns [rank, n, input] (overwritten) and sorted values [r, n]."""
        wires, remaining = grad_sorted.clone(), reversed(list(zip(apart, differences, strict=True)))
        for stage in reversed(self.stages):
            for low, high in reversed(stage.layers):
                delta, difference = next(remaining)
                shares, slope = self.swap.shares(difference), self.swap.alpha_slope(difference)
                g, h = grad.index_select(0, low), grad.index_select(0, high)
                x, y = wires[low], wires[high]
                push = ((h - g).mul_(delta).sum(dim=2) + difference * (y - x)) * slope  # no product that may be TF32
                g, h = _mixed(g, h, shares)
                grad.index_copy_(0, low, g).index_copy_(0, high, h)
                x, y = _mixed(x, y, shares)
                wires[low], wires[high] = x - push, y + push
            grad = stage.narrow(grad)
        return wires.T

    def parts(self, values: Tensor) -> list[slice]:
        """Return the rows in chunks, such that the columns of all layers of one take at most CHUNK_BYTES (more on a GPU)."""
        width, numbers = 1, 4 * self.count**2
        for stage in self.stages:
            width = self.count if stage.upper is None else min(2 * width, self.count)
            numbers += width * sum(len(low) for low, _ in stage.layers)
        size = max(1, CHUNK_BYTES * (ON_GPU if values.is_cuda else 1) // (numbers * values.dtype.itemsize))
        return [slice(start, start + size) for start in range(0, len(values), size)]


class _SoftSort(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sorter: _Sorter) -> tuple[Tensor, Tensor]:
        wires, differences = sorter.differences(values)
        matrix = torch.empty(len(values), sorter.count, sorter.count, dtype=values.dtype, device=values.device)
        for part in sorter.parts(values):
            matrix[part] = sorter.columns([d[:, part] for d in differences], len(values[part]), keep=False)[0].permute(1, 2, 0)
        ctx.sorter = sorter
        ctx.save_for_backward(torch.cat(differences))
        return wires.T.contiguous(), matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        sorter: _Sorter = ctx.sorter
        differences = ctx.saved_tensors[0].split([len(low) for low, _ in sorter.layers])
        grad_sorted, grad_matrix = grads
        parts = []
        for part in sorter.parts(grad_sorted):
            chunk = [d[:, part] for d in differences]
            apart = sorter.columns(chunk, len(grad_sorted[part]), keep=True)[1]
            grad = grad_matrix[part].permute(2, 0, 1).contiguous()
            parts.append(sorter.pull(apart, chunk, grad, grad_sorted[part].T))
        return torch.cat(parts), None


def soft_sort(
    values: Float[Tensor, "*n r"], steepness: float, *, network: str = "bitonic", swap: str = "cauchy"
) -> tuple[Float[Tensor, "*n r"], Float[Tensor, "*n r r"]]:
    """Return the sorted values, ascending, and the relaxed permutation matrix P with values @ P = sorted.

    P[i, j] is the share of input i at rank j; rows and columns sum to 1. As steepness grows P becomes the permutation of
    argsort. swap: "cauchy" atan(beta d) / pi + 1/2, "logistic" 1 / (1 + exp(-beta d)), "logistic_phi" the logistic of
    beta d / |d|^(1/4), which underflows to 0 for steep networks. Saved for the backward pass: one number a comparator.

    Raises UserError for an unknown network or swap, or fewer than two values.
    """
    count = values.shape[-1]
    sorter = _Sorter(count, network, swap, steepness, values.device)
    with torch.autocast(values.device.type, enabled=False):
        ordered, matrix = _SoftSort.apply(values.reshape(-1, count), sorter)  # type: ignore[no-untyped-call]
    return ordered.view(values.shape), matrix.view(*values.shape, count)


class _OrderLoss(torch.autograd.Function):
    """`order_loss` chunk by chunk, with the gradient taken in the forward pass, so that no matrix outlives its chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        weights: Tensor,
        student_sorter: _Sorter,
        teacher_sorter: _Sorter,
        ranks: slice,
        both: bool,
    ) -> Tensor:
        loss, gradient = student.new_zeros(()), torch.empty_like(student)
        for part in student_sorter.parts(student):
            values, weight = student[part], weights[part]
            target = teacher_sorter.columns(teacher_sorter.differences(teacher[part])[1], len(values), keep=False)[0][ranks]
            wires, differences = student_sorter.differences(values)
            columns, apart = student_sorter.columns(differences, len(values), keep=True)
            shares = columns[ranks]
            scale = (weight / len(shares))[:, None]
            grad = torch.zeros_like(columns)
            grad[ranks] = torch.where(shares > FLOOR, -target / shares.clamp(min=FLOOR), 0.0) * scale
            loss -= (target * shares.clamp(min=FLOOR).log() * scale).sum()
            if both:
                likely = target.clamp(min=FLOOR).log()
                grad[ranks] -= likely * scale
                loss -= (shares * likely * scale).sum()
            gradient[part] = student_sorter.pull(apart, differences, grad, torch.zeros_like(wires))
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None, None, None, None, None


def order_loss(
    student: Float[Tensor, "n r"],
    teacher: Float[Tensor, "n r"],
    weights: Float[Tensor, " n"],
    *,
    steepness: float,
    teacher_steepness: float,
    network: str = "bitonic",
    swap: str = "cauchy",
    ranks: slice = slice(None),
    both: bool = False,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the student's permutation matrices with the teacher's (NeCo, section 3).

        p_s = soft_sort(student, steepness)[1][:, :, ranks]              # [n r ranks]
        p_t = soft_sort(teacher, teacher_steepness)[1][:, :, ranks]      # a constant
        cross_entropy = -(p_t * p_s.clamp(min=1e-20).log()).sum(1).mean(1)
        return (weights * cross_entropy).sum()

    both: add the same with the roles exchanged. The gradient reaches `student` only.

    Raises UserError for an unknown network or swap, or fewer than two values.
    """
    count = student.shape[1]
    student_sorter = _Sorter(count, network, swap, steepness, student.device)
    teacher_sorter = _Sorter(count, network, swap, teacher_steepness, student.device)
    with torch.autocast(student.device.type, enabled=False):
        return _OrderLoss.apply(student, teacher.detach(), weights, student_sorter, teacher_sorter, ranks, both)  # type: ignore[no-untyped-call, no-any-return]
