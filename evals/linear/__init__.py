"""Linear probes: fitted exactly, trained by SGD, or through MMSegmentation."""

from densebench.evals.linear.logistic import Linear
from densebench.evals.linear.mmseg import LinearMmseg
from densebench.evals.linear.probes import LinearProbes

__all__ = ["Linear", "LinearMmseg", "LinearProbes"]
