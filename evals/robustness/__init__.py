"""What is left of a segmentation score when the scored images are corrupted."""

from densebench.evals.robustness.protocol import Robustness

__all__ = ["Robustness"]
