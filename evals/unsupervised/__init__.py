"""Fully unsupervised segmentation."""

from densebench.evals.unsupervised.protocol import Unsupervised

__all__ = ["Unsupervised"]
