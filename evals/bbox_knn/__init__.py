"""k nearest neighbours aligned with boxes."""

from densebench.evals.bbox_knn.protocol import BboxKnn

__all__ = ["BboxKnn"]
