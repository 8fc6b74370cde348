"""Lloyd's iterations for all restarts of several clusterings in the same passes, on CPU or GPU.

On a GPU the host never waits for work that it has just queued. It begins to copy which restarts are done and which clusters are
empty, queues the sums of the clusters behind these copies, and only then reads them (`HostCopy`). Each clustering has matrix
products of its own, whose shapes follow from its own restarts alone. So it ends the same whatever is fitted beside it.

Points may be dealt out to several processes (`DealtPoints`). Then each process assigns its own rows and adds its own columns; the
nearest centroids, the inertia and the means are joined, so all processes decide alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.dealt_points import DealtPoints, whole
from densebench.numerics.host_copy import HostCopy, is_asynchronous
from densebench.numerics.segment_sums import lengths_of, segment_sums, sums_by_index

BLOCK = 2**21  # scores computed at once on a CPU, few enough for its caches
GPU_BLOCK = 2**24  # on a GPU: few launches, and 64 MiB, most of which its cache holds
GATHERED = 2**29  # numbers of points that are sorted by cluster at once


@dataclass(frozen=True)
class Clusters:
    """Centroids, the inertia of the points that they were fitted on, and the number of iterations."""

    centroids: Float[Tensor, "k d"]
    inertia: float
    iterations: int


@dataclass(frozen=True)
class Start:
    """The start of one clustering: its points and the first centroids of its restarts, both less `centre`."""

    points: Float[Tensor, "n d"] | DealtPoints
    centroids: Float[Tensor, "r k d"]
    centre: Float[Tensor, "d"]


def lloyd(starts: Sequence[Start], *, iterations: int, tolerance: float, spherical: bool) -> list[Clusters]:
    """Return the best restart of each clustering by inertia. All clusterings have equally many points and clusters.

    A restart ends when its inertia falls by less than the share `tolerance`, and costs nothing from then on.
    """
    running = _Running(starts, spherical)
    best = [Clusters(start.centroids[0], torch.inf, 0) for start in starts]
    for iteration in range(iterations + 1):
        nearest, inertia = running.assigned()
        done = (running.last - inertia <= tolerance * inertia) | (iteration == iterations)
        copied = HostCopy(torch.stack([inertia, done.double()]))
        ahead = running.means(nearest) if is_asynchronous(nearest) else None
        values, ended = copied.value().tolist()
        for row, (owner, value) in enumerate(zip(running.owner, values, strict=True)):
            if ended[row] and value < best[owner].inertia:
                best[owner] = Clusters(running.centroids[row] + starts[owner].centre, value, iteration)
        kept = [row for row, end in enumerate(ended) if not end]
        if not kept:
            break
        nearest = running.keep(kept, done, nearest, inertia)
        if ahead is None:
            found, empty = running.means(nearest)
            running.move(found, nearest, empty.value())
        else:
            running.move(_rows(ahead[0], kept, done), nearest, ahead[1].value()[kept])
    return best


class _Running:
    """The restarts that still run, one a row: centroids, the number of the clustering that owns each, last inertia."""

    def __init__(self, starts: Sequence[Start], spherical: bool) -> None:
        self.each, self.spherical = [whole(start.points) for start in starts], spherical
        self.points = Points([points.columns for points in self.each])
        self.owner = [number for number, start in enumerate(starts) for _ in start.centroids]
        self.centroids = torch.cat([start.centroids for start in starts])
        self.clusters = self.centroids.shape[1]
        squares = [points.summed(points.rows.square().sum(dtype=torch.float64)) for points in self.each]
        self.squares = torch.stack([squares[owner] for owner in self.owner])
        self.last = torch.full_like(self.squares, torch.inf)

    def assigned(self) -> tuple[Int[Tensor, "a n"], Float[Tensor, "a"]]:
        """Return the nearest centroid of every point, and the inertia, for each restart."""
        owners = dict.fromkeys(self.owner)
        bounds = [(self.owner.index(owner), self.owner.count(owner)) for owner in owners]
        parts = [
            assign(self.each[owner].rows, self.centroids[first : first + count])
            for owner, (first, count) in zip(owners, bounds, strict=True)
        ]
        nearest, gain = parts[0] if len(parts) == 1 else (torch.cat(part) for part in zip(*parts, strict=True))
        alike = self.each[0]  # all are dealt out alike
        if alike.deal.size > 1:
            nearest = alike.joined(nearest.to(torch.int32)).long()  # half as many bytes
        return nearest, (self.squares - alike.summed(gain)).clamp(min=0)

    def means(self, nearest: Int[Tensor, "a n"]) -> tuple[Float[Tensor, "a k d"], HostCopy]:
        """Return the mean of the points of each cluster, and which are empty, from the nearest centroids: see `Members.means`."""
        found, empty = Members(self.points, self.owner, nearest, self.clusters).means()
        return self.each[0].by_columns.joined(found), empty

    def keep(self, kept: list[int], done: Tensor, nearest: Tensor, inertia: Tensor) -> Int[Tensor, "a n"]:
        """Keep only some restarts, with this inertia; return their nearest centroids."""
        self.owner = [self.owner[row] for row in kept]
        self.centroids, self.squares = _rows(self.centroids, kept, done), _rows(self.squares, kept, done)
        self.last = _rows(inertia, kept, done)
        return _rows(nearest, kept, done)

    def move(self, means: Float[Tensor, "a k d"], nearest: Int[Tensor, "a n"], empty: Tensor) -> None:
        """Take the means as centroids. empty: which clusters are empty, on the host; they get other centroids (`refill`)."""
        for row, owner in enumerate(self.owner):
            if bool(empty[row].any()):
                refill(self.each[owner], nearest[row].clone(), means[row], empty[row].nonzero()[:, 0].tolist())
        self.centroids = F.normalize(means, dim=2) if self.spherical else means


def _rows(values: Tensor, kept: list[int], done: Tensor) -> Tensor:
    """Return the rows that are not done, in their order. kept: the same rows as numbers on the host, for how many they are."""
    if len(kept) == len(values):
        return values
    return values.index_select(0, done.to(torch.uint8).argsort(stable=True)[: len(kept)])


class Points:
    """The points of several clusterings, equally many each, or this process's columns of them.

    rows: those of all, one after the other, or once where all are the same.
    """

    def __init__(self, each: Sequence[Float[Tensor, "n d"]]) -> None:
        self.each, self.shared = each, all(points is each[0] for points in each)
        self.rows = each[0] if self.shared or not is_asynchronous(each[0]) else torch.cat(list(each))

    def index(self, order: Int[Tensor, "a n"], owner: Sequence[int]) -> Int[Tensor, "a n"]:
        """Return the rows in `rows` of the points in `order`, which numbers those of restart r from r n to r n + n - 1."""
        count = order.shape[1]
        restart = torch.arange(len(order), device=order.device)
        if self.shared:
            return order - count * restart[:, None]
        of_restart = torch.cat([order.new_full((owner.count(number),), number) for number in dict.fromkeys(owner)])
        return order - count * (restart - of_restart)[:, None]


class Members:
    """The points of each cluster in several restarts. owner[r]: the number of the clustering that restart r belongs to.

    counts: the number of points of each cluster.
    """

    def __init__(self, points: Points, owner: Sequence[int], nearest: Int[Tensor, "a n"], clusters: int) -> None:
        self.points, self.owner, self.nearest = points, owner, nearest
        restarts = len(nearest)
        if is_asynchronous(nearest):
            first = torch.arange(0, restarts * clusters, clusters, device=nearest.device, dtype=torch.int32)
            keys, order = (nearest.to(torch.int32) + first[:, None]).flatten().sort(stable=True)
            self.order, self.counts = order.view(nearest.shape), lengths_of(keys, restarts * clusters).view(restarts, clusters)
        else:
            flat = nearest + clusters * torch.arange(restarts)[:, None]
            self.counts = torch.bincount(flat.flatten(), minlength=restarts * clusters).view(restarts, clusters)

    def means(self) -> tuple[Float[Tensor, "a k d"], HostCopy]:
        """Return the mean of the points of every cluster, 0 for an empty one, and which are empty, on its way to the host.

        The copy begins before the sums are queued.
        """
        empty = HostCopy(self.counts == 0)
        return self.sums() / self.counts.clamp(min=1)[:, :, None], empty

    def sums(self) -> Float[Tensor, "a k d"]:
        """Return the sum of the points of every cluster, added in a fixed order."""
        (restarts, clusters), (count, width) = self.counts.shape, self.points.each[0].shape
        if not is_asynchronous(self.nearest):
            pairs = zip(self.owner, self.nearest, strict=True)
            return torch.stack([sums_by_index(self.points.each[owner], index, clusters) for owner, index in pairs])
        if not width:  # a process that got no column
            return self.points.each[0].new_zeros(restarts, clusters, 0)
        index, parts, size = self.points.index(self.order, self.owner), [], max(1, GATHERED // (count * width))
        for start in range(0, restarts, size):
            rows = self.points.rows.index_select(0, index[start : start + size].flatten())
            parts.append(segment_sums(rows, self.counts[start : start + size].flatten()))
        return torch.cat(parts).view(restarts, clusters, width)


def assign(points: Float[Tensor, "n d"], centroids: Float[Tensor, "r k d"]) -> tuple[Int[Tensor, "r n"], Float[Tensor, "r"]]:
    """Return the nearest centroid c of every point x, for each of r sets, and the sum over points of |x|^2 - |x - c|^2.

    |x - c|^2 = |x|^2 - (2 x.c - |c|^2),    so the nearest centroid has the greatest 2 x.c - |c|^2
    """
    restarts, clusters, _ = centroids.shape
    flat, bias = centroids.flatten(0, 1), -centroids.square().sum(2).flatten()
    if is_asynchronous(points):
        return _assign_on_gpu(points, 2 * flat, bias, restarts)
    blocks = points.split(max(1, BLOCK // (restarts * clusters)))
    scored = (torch.addmm(bias, block, flat.T, alpha=2).view(len(block), restarts, clusters).max(dim=2) for block in blocks)
    nearest = torch.empty(restarts, len(points), dtype=torch.int64, device=points.device)
    gain, start = torch.zeros(restarts, dtype=torch.float64, device=points.device), 0
    for value, index in scored:
        nearest[:, start : start + len(index)] = index.T
        gain += value.sum(0, dtype=torch.float64)
        start += len(index)
    return nearest, gain


def _assign_on_gpu(
    points: Float[Tensor, "n d"], doubled: Float[Tensor, "rk d"], bias: Float[Tensor, "rk"], restarts: int
) -> tuple[Int[Tensor, "r n"], Float[Tensor, "r"]]:
    """Return the same as `assign` by two kernels a block: a product that adds the bias as it writes, and a maximum.

    Doubled centroids give the same bits as `alpha=2`, but cuBLAS adds a bias within the product only where alpha is 1.
    """
    blocks, clusters = points.split(max(1, GPU_BLOCK // len(doubled))), len(doubled) // restarts
    scored = [torch.addmm(bias, block, doubled.T).view(len(block), restarts, clusters).max(dim=2) for block in blocks]
    value, index = (torch.cat(part) for part in zip(*scored, strict=True))
    return index.T.contiguous(), value.sum(0, dtype=torch.float64)


def means(points: Float[Tensor, "n d"], nearest: Int[Tensor, "r n"], clusters: int) -> Float[Tensor, "r k d"]:
    """Return the mean of the points of every cluster, for each of r sets; an empty cluster gets another centroid (`refill`)."""
    found, copied = Members(Points([points]), [0] * len(nearest), nearest, clusters).means()
    for row, empty in enumerate(copied.value()):
        if bool(empty.any()):
            refill(points, nearest[row].clone(), found[row], empty.nonzero()[:, 0].tolist())
    return found


def refill(
    points: Float[Tensor, "n d"] | DealtPoints,
    nearest: Int[Tensor, "n"],
    centroids: Float[Tensor, "k d"],
    empty: Sequence[int],
) -> None:
    """Put each empty cluster's centroid on the farthest point of the cluster of greatest inertia, and divide that cluster.

    Writes into `nearest` and `centroids`.
    """
    points = whole(points)
    distance = points.joined((points.rows - centroids[points.own(nearest)]).square().sum(1))
    for cluster in empty:
        worst = sums_by_index(distance[:, None], nearest, len(centroids))[:, 0].argmax()
        far = torch.where(nearest == worst, distance, -1).argmax()
        point = points[far[None]][0]  # `points[far]` would make the host wait for the number
        centroids[cluster] = point
        to_new = points.joined((points.rows - point).square().sum(1))
        closer = (nearest == worst) & (to_new < distance)
        nearest.masked_fill_(closer, cluster)
        distance = torch.where(closer, to_new, distance)
