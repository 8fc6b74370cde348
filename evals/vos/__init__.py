"""Video object segmentation."""

from densebench.evals.vos.protocol import Vos

__all__ = ["Vos"]
