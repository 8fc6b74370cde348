"""The segmentation score when the scored images are corrupted, and what share of the clean score that is."""

from densebench.evals.robustness.protocol import Robustness

__all__ = ["Robustness"]
