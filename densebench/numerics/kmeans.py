"""K-means (Lloyd) on patch features: several restarts, and on a GPU several clusterings, in the same passes.

Johnson, Douze, Jégou, Billion-scale similarity search with GPUs, 2017 (faiss) is what public protocols call; they inherit its
defaults, of which one decides much: of n points at most 256 a cluster are used for training, drawn at random.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics.dealt_points import DealtPoints, whole
from densebench.numerics.device_copy import on_device
from densebench.numerics.device_memory import free_bytes
from densebench.numerics.first_centroids import first_points, plus_plus, sample, trained_on
from densebench.numerics.host_copy import HostCopy, is_asynchronous
from densebench.numerics.lloyd import Clusters, Members, Points, Start, assign, lloyd
from densebench.processes import collected, rank

Init = Literal["points", "k-means++"]
Problem = tuple[Tensor | DealtPoints, int, int]
"""The points [n d], the number of clusters, and the seed. Points that are dealt out are clustered by all processes together."""


def kmeans(
    points: Float[Tensor, "n d"] | DealtPoints,
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
    return next(
        kmeans_each(
            [(points, clusters, seed)], restarts=restarts, iterations=iterations, init=init, per_cluster=per_cluster,
            spherical=spherical, tolerance=tolerance,
        )
    )  # fmt: skip


def kmeans_each(
    problems: Iterable[Problem],
    *,
    restarts: int = 1,
    iterations: int = 100,
    init: Init = "points",
    per_cluster: int | None = 256,
    spherical: bool = False,
    tolerance: float = 1e-4,
) -> Iterator[Clusters]:
    """Yield what `kmeans` returns for each problem, in order, as soon as it is known; `problems` is read no further than needed.

    On a CPU problems are fitted one after the other. On a GPU consecutive problems with equally many points and clusters are
    fitted in the same passes, as many as a quarter of its free memory holds; so give those of one K in a row.
    """
    for group in grouped(problems, per_cluster, restarts):
        starts: list[Start] = []
        before = None
        for points, clusters, seed in group:
            chosen = trained_on(points, clusters, per_cluster, seed)
            again = chosen.rows is before
            centre, centred = (starts[-1].centre, starts[-1].points) if again else _centred(chosen, spherical)
            generator = torch.Generator().manual_seed(seed + 1)
            begin = first_points if init == "points" else plus_plus
            centroids = begin(chosen, clusters, restarts, generator) - centre
            starts.append(Start(centred, F.normalize(centroids, dim=2) if spherical else centroids, centre))
            before = chosen.rows
        yield from lloyd(starts, iterations=iterations, tolerance=tolerance, spherical=spherical)


def _centred(points: DealtPoints, spherical: bool) -> tuple[Float[Tensor, "d"], DealtPoints]:
    """Return the mean of the points (0 for spherical K-means), and the points less the mean.

    Distances between points far from the origin would lose digits.
    """
    centre = points.rows.new_zeros(points.width) if spherical else points.mean()
    return centre, points.less(centre)


def grouped(problems: Iterable[Problem], per_cluster: int | None, restarts: int) -> Iterator[list[Problem]]:
    """Yield groups of problems that are fitted in the same passes; on a CPU each problem alone, since its caches hold no more.

    On a GPU a group has consecutive problems with equally many points and clusters, and takes at most `memory_budget`.
    """
    group: list[Problem] = []
    held, kind = 0, (0, 0)
    for problem in problems:
        points, clusters = whole(problem[0]), problem[1]
        count = len(points) if per_cluster is None else min(len(points), clusters * per_cluster)
        # Points twice, then keys, order and nearest centroids, sorted and not.
        size = count * (8 * points.width // points.deal.size + 48 * restarts)
        if group and ((count, clusters) != kind or held + size > memory_budget(points)):
            yield group
            group, held = [], 0
        group, held, kind = [*group, problem], held + size, (count, clusters)
        if not is_asynchronous(points.rows):
            yield group
            group, held = [], 0
    if group:
        yield group


def memory_budget(points: DealtPoints) -> int:
    """Return the bytes that a group of problems may take: a quarter of the free memory of the points' GPU, the least of all."""
    free = free_bytes(points.rows.device) // 4
    return free if points.deal.size == 1 else min(collected([free]))


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

    Use it where there are so many points that whole iterations take too long. The other arguments are those of `kmeans`; all
    restarts end when a pass over all batches lowers the least inertia by less than the share `tolerance`. The inertia is that of
    all training points.
    """
    centre, centred = _centred(trained_on(points, clusters, per_cluster, seed), spherical)
    chosen = centred.rows
    generator = torch.Generator().manual_seed(seed + 1)
    begin = first_points if init == "points" else plus_plus
    first = chosen[torch.randperm(len(chosen), generator=generator)[: max(batch, clusters)].to(points.device)]
    centroids = begin(first, clusters, restarts, generator)
    counts = torch.zeros(restarts, clusters, device=points.device)
    squares = chosen.square().sum(dtype=torch.float64)
    order, last, done = _order(chosen, generator), torch.inf, 0
    while True:
        centroids = F.normalize(centroids, dim=2) if spherical else centroids
        for batch_index in order.split(batch):
            centroids, counts = running_means(chosen[batch_index], centroids, counts)
        centroids = F.normalize(centroids, dim=2) if spherical else centroids
        copied, done = HostCopy((squares - assign(chosen, centroids)[1]).clamp(min=0)), done + 1
        order = _order(chosen, generator) if done < passes else order  # drawn while a GPU computes this pass
        values = copied.value()
        best, inertia = int(values.argmin()), float(values.min())
        if done >= passes or last - inertia <= tolerance * inertia:
            return Clusters(centroids[best] + centre, inertia, done)
        last = inertia


def _order(points: Float[Tensor, "n d"], generator: torch.Generator) -> Int[Tensor, "n"]:
    """Return the points' indices in a random order, on their device."""
    order = torch.randperm(len(points), generator=generator)
    return on_device(order, points.device)


def running_means(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "r k d"], counts: Float[Tensor, "r k"]
) -> tuple[Float[Tensor, "r k d"], Float[Tensor, "r k"]]:
    """Return centroids moved to the mean of all points that they ever took, this batch included, and how many these are."""
    nearest, _ = assign(points, centroids)
    taken = Members(Points([points]), [0] * len(nearest), nearest, centroids.shape[1])
    counts = counts + taken.counts
    moved = (taken.sums() - taken.counts[:, :, None] * centroids) / counts.clamp(min=1)[:, :, None]
    return centroids + moved, counts


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


def cluster(
    settings: KMeansSettings, points: Float[Tensor, "n d"] | DealtPoints, k: int, seed: int, *, spherical: bool = False
) -> Clusters:
    """Return clusters of points by the engine that the settings name; spherical: centroids have length one.

    The inertia is that of the training points, computed in the same way for every engine.
    Raises UserError for a setting that an engine does not have.
    """
    return next(cluster_each(settings, [(points, k, seed)], spherical=spherical))


def cluster_each(settings: KMeansSettings, problems: Iterable[Problem], *, spherical: bool = False) -> Iterator[Clusters]:
    """Yield what `cluster` returns for each problem, in order; on a GPU several are fitted at once (`kmeans_each`).

    Several processes to which points are dealt out work on each problem together by the engine "torch"; by any other engine each
    process solves a problem alone (`_alone`), and clusters come when as many problems are solved as there are processes.
    """
    if settings.engine == "torch":
        yield from kmeans_each(
            problems, restarts=settings.restarts, iterations=settings.iterations, init=settings.init,  # type: ignore[arg-type]
            per_cluster=settings.per_cluster, spherical=spherical,
        )  # fmt: skip
        return
    remaining = iter(problems)
    for first in remaining:
        size = whole(first[0]).deal.size
        yield from _alone(settings, [first, *itertools.islice(remaining, size - 1)], spherical, size)


def _alone(settings: KMeansSettings, problems: Sequence[Problem], spherical: bool, size: int) -> list[Clusters]:
    """Return the clusters of at most `size` problems, each solved by one process of `size`, which gets the training points."""
    if size == 1:
        (points, k, seed), per_cluster = problems[0], settings.per_cluster
        return [_solved(settings, trained_on(points, k, per_cluster, seed).rows, k, seed, spherical)]
    own = []
    for number, (points, k, seed) in enumerate(problems):
        points = whole(points)
        chosen = points.to_one(sample(len(points), k, settings.per_cluster, seed), number)
        if number == rank():
            own.append((chosen, k, seed))
    solved = [_solved(settings, chosen, k, seed, spherical) for chosen, k, seed in own]
    device = whole(problems[0][0]).rows.device
    found = collected([replace(clusters, centroids=clusters.centroids.cpu()) for clusters in solved])
    return [replace(clusters, centroids=clusters.centroids.to(device)) for clusters in found]


def _solved(settings: KMeansSettings, chosen: Float[Tensor, "m d"], k: int, seed: int, spherical: bool) -> Clusters:
    """Return the clusters of training points by mini-batches or by a library."""
    if settings.engine == "minibatch":
        return minibatch(
            chosen, k, seed=seed, restarts=settings.restarts, passes=settings.iterations, init=settings.init,  # type: ignore[arg-type]
            per_cluster=None, spherical=spherical,
        )  # fmt: skip
    fit = _faiss if settings.engine == "faiss" else _sklearn
    array = np.ascontiguousarray(chosen.cpu().numpy())
    centroids = torch.from_numpy(fit(settings, array, k, seed, spherical)).to(chosen)
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
