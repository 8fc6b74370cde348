"""K-means (Lloyd) on patch features: several restarts in the same passes, on CPU or GPU.

Johnson, Douze, Jégou, Billion-scale similarity search with GPUs, 2017 (faiss) is what public protocols call; they inherit its
defaults, of which one decides much: of n points at most 256 a cluster are used for training, drawn at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.errors import UserError

Init = Literal["points", "k-means++"]
BLOCK = 2**21  # scores computed at once: few enough for the caches of a processor


@dataclass(frozen=True)
class Clusters:
    """Centroids, the inertia of the points that they were fitted on, and the number of iterations."""

    centroids: Float[Tensor, "k d"]
    inertia: float
    iterations: int


def sample(count: int, clusters: int, per_cluster: int | None, seed: int) -> Int[Tensor, "m"]:
    """Return the indices of the training points: `per_cluster` x `clusters`, drawn without replacement; None: all."""
    if per_cluster is None or count <= clusters * per_cluster:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: clusters * per_cluster]


def trained_on(points: Float[Tensor, "n d"], clusters: int, per_cluster: int | None, seed: int) -> Float[Tensor, "m d"]:
    """Return the points of `sample`. Raises ValueError where there are fewer points than clusters."""
    if clusters > len(points):
        raise ValueError(f"{clusters} clusters of {len(points)} points: give more points or fewer clusters")
    return points[sample(len(points), clusters, per_cluster, seed).to(points.device)].contiguous()


def kmeans(
    points: Float[Tensor, "n d"],
    clusters: int,
    *,
    seed: int = 0,
    restarts: int = 1,
    iterations: int = 100,
    init: Init = "points",
    per_cluster: int | None = 256,
    spherical: bool = False,
    tolerance: float = 1e-4,
) -> Clusters:
    """Return the best of several restarts by inertia, all fitted in the same passes over the points. One iteration:

        nearest  = for each point the centroid of least |point - centroid|^2
        inertia  = sum over points of |point - centroid[nearest]|^2
        centroid = mean of the points that it is nearest to

    init: distinct random points, or k-means++ (Arthur and Vassilvitskii, SODA 2007). spherical: centroids have length one, as
    those of faiss' spherical K-means; points are taken as they are. tolerance: a restart ends when its inertia falls by less than
    this share. An empty cluster begins anew within the one with the greatest inertia. Raises ValueError where there are fewer
    points than clusters.
    """
    chosen = trained_on(points, clusters, per_cluster, seed)
    centre = torch.zeros_like(chosen[0]) if spherical else chosen.mean(0)  # far from the origin distances would lose digits
    generator = torch.Generator().manual_seed(seed + 1)
    begin = first_points if init == "points" else plus_plus
    centroids = begin(chosen, clusters, restarts, generator) - centre
    chosen = chosen - centre
    if spherical:
        centroids = F.normalize(centroids, dim=2)
    last = torch.full((restarts,), torch.inf, dtype=torch.float64, device=points.device)
    best = Clusters(centroids[0], torch.inf, 0)
    squares = chosen.square().sum(dtype=torch.float64)
    for iteration in range(iterations + 1):
        nearest, gain = assign(chosen, centroids)
        inertia = (squares - gain).clamp(min=0)
        done = (last - inertia <= tolerance * inertia) | (iteration == iterations)
        for number in done.nonzero()[:, 0].tolist():
            if float(inertia[number]) < best.inertia:
                best = Clusters(centroids[number] + centre, float(inertia[number]), iteration)
        nearest, centroids, last = nearest[~done], centroids[~done], inertia[~done]
        if not len(last):
            break
        centroids = means(chosen, nearest, centroids)
        if spherical:
            centroids = F.normalize(centroids, dim=2)
    return best


def minibatch(
    points: Float[Tensor, "n d"],
    clusters: int,
    *,
    seed: int = 0,
    restarts: int = 1,
    passes: int = 100,
    init: Init = "points",
    per_cluster: int | None = 256,
    spherical: bool = False,
    tolerance: float = 1e-4,
    batch: int = 2**14,
) -> Clusters:
    """Return clusters by mini-batches (Sculley, WWW 2010): each centroid is the running mean of its points.

    It is for so many points that whole iterations take too long. The other arguments are those of `kmeans`; all restarts end
    when a pass over all batches lowers the least inertia by less than the share `tolerance`. The inertia is that of all training
    points.
    """
    chosen = trained_on(points, clusters, per_cluster, seed)
    centre = torch.zeros_like(chosen[0]) if spherical else chosen.mean(0)
    chosen = chosen - centre
    generator = torch.Generator().manual_seed(seed + 1)
    begin = first_points if init == "points" else plus_plus
    first = chosen[torch.randperm(len(chosen), generator=generator)[: max(batch, clusters)].to(points.device)]
    centroids = begin(first, clusters, restarts, generator)
    counts = torch.zeros(restarts, clusters, device=points.device)
    squares = float(chosen.square().sum(dtype=torch.float64))
    best, last, done = 0, torch.inf, 0
    while done < passes:
        centroids = F.normalize(centroids, dim=2) if spherical else centroids
        order = torch.randperm(len(chosen), generator=generator).to(points.device)
        for batch_index in order.split(batch):
            centroids, counts = running_means(chosen[batch_index], centroids, counts)
        centroids = F.normalize(centroids, dim=2) if spherical else centroids
        inertia = (squares - assign(chosen, centroids)[1]).clamp(min=0)
        best, done = int(inertia.argmin()), done + 1
        if last - float(inertia[best]) <= tolerance * float(inertia[best]):
            break
        last = float(inertia[best])
    return Clusters(centroids[best] + centre, float(inertia[best]), done)


def running_means(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "r k d"], counts: Float[Tensor, "r k"]
) -> tuple[Float[Tensor, "r k d"], Float[Tensor, "r k"]]:
    """Move each centroid to the mean of all points that it ever took, those of this batch among them."""
    total, added_counts = sums(points, assign(points, centroids)[0], centroids.shape[1])
    counts = counts + added_counts
    moved = (total - added_counts[:, :, None] * centroids) / counts.clamp(min=1)[:, :, None]
    return centroids + moved, counts


def assign(points: Float[Tensor, "n d"], centroids: Float[Tensor, "r k d"]) -> tuple[Int[Tensor, "r n"], Float[Tensor, "r"]]:
    """Return the nearest centroid c of every point x, for each of r sets, and the sum over points of |x|^2 - |x - c|^2.

    |x - c|^2 = |x|^2 - (2 x.c - |c|^2),    so the nearest centroid has the greatest 2 x.c - |c|^2
    """
    restarts, clusters, _ = centroids.shape
    flat, bias = centroids.flatten(0, 1), -centroids.square().sum(2)
    nearest = torch.empty(restarts, len(points), dtype=torch.int64, device=points.device)
    gain = torch.zeros(restarts, dtype=torch.float64, device=points.device)
    size = max(1, BLOCK // (restarts * clusters))
    for start in range(0, len(points), size):
        block = points[start : start + size]
        scores = torch.addmm(bias.flatten(), block, flat.T, alpha=2).view(len(block), restarts, clusters)
        value, index = scores.max(dim=2)
        nearest[:, start : start + size] = index.T
        gain += value.sum(0, dtype=torch.float64)
    return nearest, gain


def means(points: Float[Tensor, "n d"], nearest: Int[Tensor, "r n"], centroids: Float[Tensor, "r k d"]) -> Float[Tensor, "r k d"]:
    """Return the mean of the points of every cluster; an empty cluster gets another centroid (`refill`)."""
    total, counts = sums(points, nearest, centroids.shape[1])
    result = total / counts.clamp(min=1)[:, :, None]
    for r in (counts == 0).any(1).nonzero()[:, 0].tolist():
        refill(points, nearest[r].clone(), result[r], (counts[r] == 0).nonzero()[:, 0].tolist())
    return result


def sums(
    points: Float[Tensor, "n d"], nearest: Int[Tensor, "r n"], clusters: int
) -> tuple[Float[Tensor, "r k d"], Int[Tensor, "r k"]]:
    """Return the sum and the number of the points of every cluster, for each of r sets."""
    restarts, flat = len(nearest), nearest + clusters * torch.arange(len(nearest), device=points.device)[:, None]
    total = torch.stack([added(points, index, clusters) for index in nearest])
    return total, torch.bincount(flat.flatten(), minlength=restarts * clusters).view(restarts, clusters)


def added(values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int) -> Float[Tensor, "count d"]:
    """Return the sum of the values of every index from 0 to count - 1, added one by one in order: the same bits every time.

    On a CPU `index_add_` does so, and fastest; on a GPU it adds in any order, so K-means would end elsewhere in every run.
    """
    if values.device.type == "cpu":
        return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)
    return added_by_segments(values, index, count)


def added_by_segments(values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int) -> Float[Tensor, "count d"]:
    """Return what `added` does, on any device: values are sorted stably by index, and each index is summed in order."""
    ordered, order = index.sort(stable=True)
    lengths = torch.searchsorted(ordered, torch.arange(count + 1, device=index.device)).diff()
    return torch.segment_reduce(values[order], "sum", lengths=lengths, unsafe=True)  # unsafe: lengths are right already


def refill(
    points: Float[Tensor, "n d"], nearest: Int[Tensor, "n"], centroids: Float[Tensor, "k d"], empty: Sequence[int]
) -> None:
    """Put each empty cluster's centroid on the farthest point of the cluster of greatest inertia, and divide that cluster.

    Writes into `nearest` and `centroids`.
    """
    distance = (points - centroids[nearest]).square().sum(1)
    for cluster in empty:
        worst = added(distance[:, None], nearest, len(centroids))[:, 0].argmax()
        far = torch.where(nearest == worst, distance, -1).argmax()
        centroids[cluster] = points[far]
        to_new = (points - points[far]).square().sum(1)
        closer = (nearest == worst) & (to_new < distance)
        nearest[closer], distance[closer] = cluster, to_new[closer]


def first_points(
    points: Float[Tensor, "n d"], clusters: int, restarts: int, generator: torch.Generator
) -> Float[Tensor, "r k d"]:
    """Return first centroids that are distinct random points."""
    chosen = [torch.randperm(len(points), generator=generator)[:clusters] for _ in range(restarts)]
    return points[torch.stack(chosen).to(points.device)]


def plus_plus(points: Float[Tensor, "n d"], clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Return first centroids by k-means++: each is a point, drawn in proportion to its squared distance from those before.

    Distances are summed as integers, in units so large that no sum overflows: these are exact in whatever order a GPU adds.
    """
    original, points = points, points - points.mean(0)
    squares = points.square().sum(1)
    chosen = torch.randint(len(points), (restarts,), generator=generator).to(points.device)
    picked = [chosen]
    distance = torch.full((restarts, len(points)), torch.inf, dtype=points.dtype, device=points.device)
    for _ in range(1, clusters):
        newest = points[picked[-1]]
        to_newest = squares + newest.square().sum(1)[:, None] - 2 * newest @ points.T
        distance = torch.minimum(distance, to_newest.clamp(min=0))
        units = 2.0**62 / len(points) / distance.amax(1, keepdim=True).double().clamp(min=1e-38)
        cumulated = (distance * units).round_().long().cumsum(1)
        drawn = torch.rand(restarts, generator=generator, dtype=torch.float64).to(points.device) * cumulated[:, -1]
        chosen = torch.searchsorted(cumulated, drawn.long()[:, None], right=True)[:, 0].clamp(max=len(points) - 1)
        picked.append(chosen)
    return original[torch.stack(picked, dim=1)]


def labels(points: Float[Tensor, "n d"], clusters: Clusters) -> Int[Tensor, "n"]:
    """Return the nearest centroid of every point."""
    centre = clusters.centroids.mean(0)  # far from the origin distances would lose digits
    return assign(points - centre, (clusters.centroids - centre)[None])[0][0]


@runtime_checkable
class KMeansSettings(Protocol):
    """The settings of `cluster`: an engine, and arguments of the same names as in `kmeans`."""

    @property
    def engine(self) -> str: ...
    @property
    def init(self) -> str: ...
    @property
    def per_cluster(self) -> int | None: ...
    @property
    def iterations(self) -> int: ...
    @property
    def restarts(self) -> int: ...


def cluster(settings: KMeansSettings, points: Float[Tensor, "n d"], k: int, seed: int, *, spherical: bool = False) -> Clusters:
    """Return clusters of points by the engine that the settings name; spherical: centroids have length one.

    The inertia is that of the training points, computed in the same way for every engine.
    Raises UserError for a setting that an engine does not have.
    """
    if settings.engine == "torch":
        return kmeans(
            points, k, seed=seed, restarts=settings.restarts, iterations=settings.iterations, init=settings.init,  # type: ignore[arg-type]
            per_cluster=settings.per_cluster, spherical=spherical,
        )  # fmt: skip
    if settings.engine == "minibatch":
        return minibatch(
            points, k, seed=seed, restarts=settings.restarts, passes=settings.iterations, init=settings.init,  # type: ignore[arg-type]
            per_cluster=settings.per_cluster, spherical=spherical,
        )  # fmt: skip
    fit = _faiss if settings.engine == "faiss" else _sklearn
    chosen = points[sample(len(points), k, settings.per_cluster, seed).to(points.device)]
    array = np.ascontiguousarray(chosen.cpu().numpy())
    centroids = torch.from_numpy(fit(settings, array, k, seed, spherical)).to(points)
    clusters = Clusters(centroids, 0.0, settings.iterations)
    inertia = (chosen - centroids[labels(chosen, clusters)]).square().sum(dtype=torch.float64)
    return replace(clusters, inertia=float(inertia))


def _faiss(settings: KMeansSettings, points: np.ndarray, k: int, seed: int, spherical: bool) -> np.ndarray:
    import faiss

    if settings.init != "points":
        raise UserError(f"--init {settings.init}: faiss begins with random points; use --engine torch or sklearn")
    fitted = faiss.Kmeans(
        points.shape[1], k, niter=settings.iterations, nredo=settings.restarts, seed=seed, spherical=spherical,
        min_points_per_centroid=1, max_points_per_centroid=len(points),
    )  # fmt: skip
    fitted.train(points)
    return np.asarray(fitted.centroids)


def _sklearn(settings: KMeansSettings, points: np.ndarray, k: int, seed: int, spherical: bool) -> np.ndarray:
    from sklearn.cluster import KMeans

    if spherical:
        raise UserError("--spherical: scikit-learn has none; use --engine torch or faiss")
    init = "random" if settings.init == "points" else "k-means++"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct tokens than clusters: the score shows it
        fitted = KMeans(k, init=init, n_init=settings.restarts, max_iter=settings.iterations, random_state=seed).fit(points)
    return fitted.cluster_centers_.astype(np.float32)
