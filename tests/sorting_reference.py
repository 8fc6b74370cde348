"""Sorting networks from textbooks, and soft sorting and its loss in loops: what the tests of sorting compare with."""

from __future__ import annotations

import itertools
import math

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NETWORKS = ("bitonic", "odd-even")


SWAPS = ("cauchy", "logistic", "logistic_phi")


EVERY = list(itertools.product(NETWORKS, SWAPS))


FLOOR = 1e-20  # of what the loss takes logarithms of


def textbook(network, count):
    """Layers of `(low, high)`.

    Bitonic: in a block the first layer compares wires with their mirror images and later ones at half the distance, and the
    smaller value always goes to the lower wire. So the smallest values stay on the top wires, which may then be left out. The
    form with reversed comparators does the same with all wires, but is another network when cut.
    """
    if network == "odd-even":
        return [[(i, i + 1) for i in range(layer % 2, count - 1, 2)] for layer in range(count)]
    full = 1
    while full < count:
        full *= 2
    layers, block = [], 2
    while block <= full:
        flips = [block - 1]
        while flips[-1] > 1:
            flips.append(block // 2 ** (len(flips) + 1))
        for flip in flips:
            pairs = [(i - (full - count), (i ^ flip) - (full - count)) for i in range(full) if i < i ^ flip]
            layers.append([(low, high) for low, high in pairs if low >= 0])
        block *= 2
    return layers


def share(difference, steepness, swap):
    """How much of the lower wire's value stays there, for `difference` = higher wire - lower wire."""
    if swap == "cauchy":
        return torch.atan(steepness * difference) / math.pi + 0.5
    if swap == "logistic":
        return 1 / (1 + torch.exp(-steepness * difference))
    return 1 / (1 + torch.exp(-steepness * difference / (difference.abs() + 1e-10) ** 0.25))


def reference_sort(values, steepness, network="bitonic", swap="cauchy"):
    """Comparator by comparator; `values` is `[n, r]`."""
    rows, count = values.shape
    wires = list(values.unbind(1))
    columns = list(torch.eye(count, dtype=values.dtype).expand(rows, count, count).unbind(2))
    for low, high in itertools.chain.from_iterable(textbook(network, count)):
        a, b = wires[low], wires[high]
        stays = share(b - a, steepness, swap)
        wires[low], wires[high] = stays * a + (1 - stays) * b, (1 - stays) * a + stays * b
        a, b, stays = columns[low], columns[high], stays[:, None]
        columns[low], columns[high] = stays * a + (1 - stays) * b, (1 - stays) * a + stays * b
    return torch.stack(wires, 1), torch.stack(columns, 2)


def reference_loss(student, teacher, weights, how):
    """Row by row, entry by entry; the teacher is a constant."""
    network, swap = how["network"], how["swap"]
    _, ours = reference_sort(student, how["steepness"], network, swap)
    _, theirs = reference_sort(teacher.detach(), how["teacher_steepness"], network, swap)
    count = student.shape[1]
    ranks = range(count)[how.get("ranks", slice(None))]
    total = torch.zeros((), dtype=student.dtype)
    for row, weight in enumerate(weights):
        for j in ranks:
            for i in range(count):
                p, q = ours[row, i, j], theirs[row, i, j]
                total = total - weight * q * p.clamp(min=FLOOR).log() / len(ranks)
                if how.get("both"):
                    total = total - weight * p * q.clamp(min=FLOOR).log() / len(ranks)
    return total


def normal(*shape, seed=0, dtype=torch.float64, scale=1.0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def cosines(*shape, seed=0, dtype=torch.float64):
    """What the loss sorts: similarities of about 1/8."""
    return normal(*shape, seed=seed, dtype=dtype, scale=0.125)


def shuffled(rows, count, seed=0, dtype=torch.float64):
    """Rows of 0 ... count-1 in random order: no ties, and far from any."""
    generator = torch.Generator().manual_seed(1000 * seed + count)
    return torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)]).to(dtype)


def exactly(values):
    return torch.tensor(values, dtype=torch.float64)


def problem(rows, count, seed=0, dtype=torch.float64):
    """Student, teacher and weights; weights have no common value."""
    weights = torch.rand(rows, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64) + 0.1
    return cosines(rows, count, seed=seed, dtype=dtype), cosines(rows, count, seed=seed + 1, dtype=dtype), weights.to(dtype)


def options(**changed):
    return {"steepness": 20.0, "teacher_steepness": 30.0, "network": "bitonic", "swap": "cauchy"} | changed


def value_and_gradient(loss, student):
    student = student.clone().requires_grad_(True)
    result = loss(student)
    return result.detach(), torch.autograd.grad(result, student)[0]


class Meter(TorchDispatchMode):
    """Bytes of the tensors alive beyond `known`, at most and now: also those that a function keeps on its own."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive, self.peak, self.bound = {}, 0, 0

    def now(self):
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.bound = sum(size for _, size in self.alive.values())
        return self.bound

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in self.alive:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.bound += storage.nbytes()
        if self.bound > self.peak:  # nothing freed since the last count, the peak would grow: count again
            self.peak = max(self.peak, self.now())
        return result
