"""K-means by several engines, with the same meaning of every setting."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics.kmeans import Clusters, kmeans, labels, minibatch, sample


class Settings(Protocol):
    """The settings of K-means: see those of the same names in `kmeans`."""

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


def cluster(settings: Settings, points: Float[Tensor, "n d"], k: int, seed: int, *, spherical: bool = False) -> Clusters:
    """Cluster points; spherical: centroids of length one.

    The inertia is that of the tokens that were trained on, the same measure for every engine.
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
    find = _faiss if settings.engine == "faiss" else _sklearn
    chosen = points[sample(len(points), k, settings.per_cluster, seed).to(points.device)]
    array = np.ascontiguousarray(chosen.cpu().numpy())
    centroids = torch.from_numpy(find(settings, array, k, seed, spherical)).to(points)
    found = Clusters(centroids, 0.0, settings.iterations)
    inertia = (chosen - centroids[labels(chosen, found)]).square().sum(dtype=torch.float64)
    return replace(found, inertia=float(inertia))


def _faiss(settings: Settings, points: np.ndarray, k: int, seed: int, spherical: bool) -> np.ndarray:
    import faiss

    if settings.init != "points":
        raise UserError(f"--init {settings.init}: faiss begins with random points; use --engine torch or sklearn")
    found = faiss.Kmeans(
        points.shape[1], k, niter=settings.iterations, nredo=settings.restarts, seed=seed, spherical=spherical,
        min_points_per_centroid=1, max_points_per_centroid=len(points),
    )  # fmt: skip
    found.train(points)
    return np.asarray(found.centroids)


def _sklearn(settings: Settings, points: np.ndarray, k: int, seed: int, spherical: bool) -> np.ndarray:
    from sklearn.cluster import KMeans

    if spherical:
        raise UserError("--spherical: scikit-learn has none; use --engine torch or faiss")
    init = "random" if settings.init == "points" else "k-means++"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct tokens than clusters: the score says it
        found = KMeans(k, init=init, n_init=settings.restarts, max_iter=settings.iterations, random_state=seed).fit(points)
    return found.cluster_centers_.astype(np.float32)
