"""Geometric correspondence: the same point in two pictures of one surface, found by frozen features."""

from densebench.evals.geometric_correspondence.homography import Homography
from densebench.evals.geometric_correspondence.views import Views

__all__ = ["Homography", "Views"]
