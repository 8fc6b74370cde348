"""Semantic correspondence of keypoints by frozen features."""

from densebench.evals.correspondence.protocol import Correspondence

__all__ = ["Correspondence"]
