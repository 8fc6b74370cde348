"""Video object segmentation by label propagation."""

from densebench.evals.vos.protocol import Vos

__all__ = ["Vos"]
