"""Tiny runs of the protocols that cluster or search for neighbours, to be made in one process and in several."""

from __future__ import annotations

import kmeans_by_loops
import toy_boxes
import unsupervised_runs
from drawn_parts import NOISY

from densebench.evals.bbox_knn import BboxKnn
from densebench.evals.kmeans import KMeans
from densebench.evals.unsupervised.protocol import Unsupervised

FEW = {"image_size": None, "seeds": 2, "clusters": (0, 9), "mask_size": 18}
OWN = {
    "timet": {"grid_size": 9},
    "neco": {"per_cluster": 10},
    "leopart-exact": {"whole_batches": 3},
    "full": {"image_size": None, "mask_size": None},
}
LOOSE = {**unsupervised_runs.LOOSE, "seeds": 2, "restarts": 2, "per_cluster": 20}


def of_kmeans(preset, **given):
    given = {**FEW, **({} if preset == "full" else {"pca": 5}), **OWN.get(preset, {}), **given}
    return kmeans_by_loops.evaluate(kmeans_by_loops.random_features(), kmeans_by_loops.DATA, preset, **given)


def of_unsupervised(preset, **given):
    return unsupervised_runs.evaluate(NOISY, preset=preset, **{**LOOSE, **given})


def of_boxes(preset, **given):
    return toy_boxes.score(preset=preset, **given)


RUNS = {
    **{f"kmeans/{preset}": (of_kmeans, preset, {}) for preset in KMeans.presets},
    **{f"kmeans/{engine}": (of_kmeans, "leopart", {"engine": engine}) for engine in ("minibatch", "faiss", "sklearn")},
    "kmeans/k-means++": (of_kmeans, "leopart", {"init": "k-means++", "spherical": True}),
    **{f"unsupervised/{preset}": (of_unsupervised, preset, {}) for preset in Unsupervised.presets},
    "unsupervised/quick": (of_unsupervised, "label-free", {"seeds": 1, "restarts": 1, "foreground_clusters": 10}),
    "unsupervised/faiss": (of_unsupervised, "neco", {"engine": "faiss", "mask_size": "none"}),
    **{f"bbox-knn/{preset}": (of_boxes, preset, {}) for preset in BboxKnn.presets},
    "bbox-knn/faiss-ivf": (of_boxes, "flsl", {"engine": "faiss-ivf", "neighbours": (1, 3)}),
}


def scores_of(name):
    """The scores of a run, as JSON values."""
    run, preset, given = RUNS[name]
    return [score.json() for score in run(preset, **given)]


def exact(scores):
    """Scores without the inertia, whose sum over points is rounded in another order, and these inertias."""
    details = [dict(score.get("details") or {}) for score in scores]
    inertias = [about.pop("inertia", 0.0) for about in details]
    return [{**score, "details": about} for score, about in zip(scores, details, strict=True)], inertias
