"""Points that several processes cluster together: each holds some of the rows, and for sums some of the columns of all rows.

Products, which take most of the time, are computed row by row, each process for its own rows. Sums are computed column by column:
a process adds all rows of its columns, in the order in which one process adds them. So in floating-point arithmetic too the
sums, and with them the clusters, are the same in any number of processes. (Partial sums over rows, added up at the end, would
round otherwise; some point would lie on the other side of a border, and from there on the clusters would differ.)

Rows and columns are dealt out in runs whose lengths suit a processor's vectors, so that in every process the last rows and
columns, which are computed otherwise, are those that are the last in one process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from densebench.numerics.device_copy import on_device
from densebench.processes import exchanged, gather, rank, total, world_size

T = TypeVar("T")
ROWS = 64  # rows in a run of training points
COLUMNS = 16  # columns in a run: float32 numbers in the widest vector of a CPU
MEANS = 64  # columns in a run for a mean: torch adds those of four vectors together in another order than single ones


@dataclass(frozen=True)
class Deal:
    """Things in an order, numbered from 0 to count - 1, and dealt out to `size` processes in runs of `run` things."""

    count: int
    run: int
    size: int

    @property
    def most(self) -> int:
        """The greatest number of things that a process can get: that of whole runs."""
        return -(-self.count // (self.run * self.size)) * self.run

    def of(self, rank: int) -> Int[Tensor, "m"]:
        """Return the numbers of the things that a process gets, in order."""
        local = torch.arange(self.most)
        numbers = (local // self.run * self.size + rank) * self.run + local % self.run
        return numbers[numbers < self.count]

    def place(self, numbers: Int[Tensor, "i"]) -> tuple[Int[Tensor, "i"], Int[Tensor, "i"]]:
        """Return for each thing the process that gets it, and its place among the things of that process."""
        runs = numbers // self.run
        return runs % self.size, runs // self.size * self.run + numbers % self.run

    def ordered(self, parts: Shaped[Tensor, "size *rest most"]) -> Shaped[Tensor, "*rest count"]:
        """Return the values of all things in their order, from those of each process, filled up to `most`."""
        runs = parts.unflatten(-1, (-1, self.run)).movedim(0, -2)
        return runs.flatten(-3)[..., : self.count]

    def assembled(self, parts: Sequence[Shaped[Tensor, "*rest _"]]) -> Shaped[Tensor, "*rest count"]:
        """Return the values of all things in their order, from those of each process."""
        values = parts[0].new_empty(*parts[0].shape[:-1], self.count)
        for number, part in enumerate(parts):
            values[..., self.of(number)] = part
        return values

    def joined(self, values: Shaped[Tensor, "*rest m"]) -> Shaped[Tensor, "*rest count"]:
        """Return in every process the values of all things, in their order, from those of this process's things."""
        if self.size == 1:
            return values
        return self.ordered(gather(F.pad(values, (0, self.most - values.shape[-1]))[None]))


@dataclass(frozen=True, eq=False)
class DealtPoints:
    """Points of which every process holds those that `deal` gives it. In a single process `rows` are all of them.

    Whatever exchanges something (`columns`, an index, `take`, `joined`, `mean`) must be called by all processes, in one order.
    """

    rows: Float[Tensor, "m d"]
    deal: Deal
    _received: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.deal.count

    @functools.cached_property
    def numbers(self) -> Int[Tensor, "m"]:
        """The numbers of this process's rows among all points, on their device."""
        return on_device(self.deal.of(rank()), self.rows.device)

    def on(self, device: torch.device) -> DealtPoints:
        """Return the points on a device."""
        return DealtPoints(on_device(self.rows, device), self.deal)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.rows.shape[1]

    @property
    def by_columns(self) -> Deal:
        """How columns are dealt out."""
        return Deal(self.width, COLUMNS, self.deal.size)

    @property
    def columns(self) -> Float[Tensor, "n c"]:
        """This process's columns of all points, in the order of the points; received once."""
        return self._once("columns", lambda: self._received_columns(self.by_columns))

    @property
    def in_even_runs(self) -> DealtPoints:
        """The same points, dealt out in runs that suit a processor's vectors, and contiguous; received once."""
        if self.deal.size == 1 or self.deal.run % COLUMNS == 0:
            return self if self.rows.is_contiguous() else DealtPoints(self.rows.contiguous(), self.deal)
        return self._once("in even runs", lambda: self.take(torch.arange(len(self))))

    def _once(self, name: str, receive: Callable[[], T]) -> T:
        """Return what `receive` returned at the first call. (`cached_property` would hold a lock while processes wait.)"""
        if name not in self._received:
            self._received[name] = receive()
        return self._received[name]

    def __getitem__(self, numbers: Int[Tensor, "*i"]) -> Float[Tensor, "*i d"]:
        """Return in every process the points of these numbers, which are the same in all processes."""
        if self.deal.size == 1:
            return self.rows[numbers]
        owner, place = self.deal.place(numbers.flatten())
        found = self.rows.new_zeros(len(place), self.width)
        if len(self.rows):
            mine = self.rows.index_select(0, place.clamp(max=len(self.rows) - 1))
            found = torch.where((owner == rank())[:, None], mine, found)
        return total(found).view(*numbers.shape, self.width)

    def own(self, values: Shaped[Tensor, "n"]) -> Shaped[Tensor, "m"]:
        """Return those of a value for every point that belong to this process's rows."""
        return values if self.deal.size == 1 else values.index_select(0, self.numbers)

    def joined(self, values: Shaped[Tensor, "*rest m"]) -> Shaped[Tensor, "*rest n"]:
        """Return in every process a value for every point, from those of this process's rows."""
        return self.deal.joined(values)

    def summed(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Return the sum over processes, added in the order of their ranks, so that it is the same in all of them."""
        return values if self.deal.size == 1 else gather(values[None]).sum(0)

    def greatest(self, values: Float[Tensor, "r m"]) -> Float[Tensor, "r"]:
        """Return the greatest value of all points in each of r rows, from those of this process's rows, which are 0 at least."""
        own = values.amax(1) if values.shape[1] else values.new_zeros(len(values))
        return own if self.deal.size == 1 else gather(own[None]).amax(0)

    def mean(self) -> Float[Tensor, "d"]:
        """Return the mean of all points."""
        deal = Deal(self.width, MEANS, self.deal.size)
        return deal.joined(self._received_columns(deal).mean(0))

    def less(self, centre: Float[Tensor, "d"]) -> DealtPoints:
        """Return the points less a vector."""
        return DealtPoints(self.rows - centre, self.deal)

    def take(self, numbers: Int[Tensor, "i"]) -> DealtPoints:
        """Return the points of these numbers (on the CPU, the same in all processes), in their order and dealt out evenly."""
        size = self.deal.size
        if size == 1:
            return DealtPoints(self.rows[on_device(numbers, self.rows.device)], Deal(len(numbers), ROWS, 1))
        deal = Deal(len(numbers), ROWS, size)
        return DealtPoints(self._sent([numbers[deal.of(other)] for other in range(size)]), deal)

    def to_one(self, numbers: Int[Tensor, "i"], receiver: int) -> Float[Tensor, "i_or_0 d"]:
        """Return the points of these numbers in one process, and no point in the others."""
        return self._sent([numbers if other == receiver else numbers[:0] for other in range(self.deal.size)])

    def _received_columns(self, deal: Deal) -> Float[Tensor, "n c"]:
        """Return the columns of all points that `deal` gives to this process."""
        if deal.size == 1:
            return self.rows
        sent = [self.rows.index_select(1, on_device(deal.of(other), self.rows.device)) for other in range(deal.size)]
        numbers, width = [self.deal.of(other) for other in range(deal.size)], len(deal.of(rank()))
        got = exchanged(sent, [(len(of_rank), width) for of_rank in numbers])
        columns = self.rows.new_empty(len(self), width)
        return columns.index_copy_(0, on_device(torch.cat(numbers), columns.device), torch.cat(got))

    def _sent(self, wanted: Sequence[Int[Tensor, "_"]]) -> Float[Tensor, "i d"]:
        """Return what this process wants. wanted: the numbers of the points that each process wants."""
        device, me = self.rows.device, rank()
        places = [self.deal.place(numbers) for numbers in wanted]
        sent = [self.rows.index_select(0, on_device(place[owner == me], device)) for owner, place in places]
        owner = places[me][0]
        got = exchanged(sent, [(int((owner == other).sum()), self.width) for other in range(self.deal.size)])
        order = on_device(owner.argsort(stable=True), device)
        return self.rows.new_empty(len(owner), self.width).index_copy_(0, order, torch.cat(got))


def whole(points: Float[Tensor, "n d"] | DealtPoints) -> DealtPoints:
    """Return points that this process alone holds, all of them, as dealt out to one process; dealt points as they are."""
    return points if isinstance(points, DealtPoints) else DealtPoints(points, Deal(len(points), ROWS, 1))


def dealt_rows(rows: Float[Tensor, "m d"], count: int, run: int) -> DealtPoints:
    """Return `count` points that were dealt out in runs of `run`, such as those of one image; rows: those of this process."""
    return DealtPoints(rows, Deal(count, run, world_size()))
