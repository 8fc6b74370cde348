"""Detection with a fine-tuned backbone."""

from densebench.evals.detection.protocol import Detection

__all__ = ["Detection"]
