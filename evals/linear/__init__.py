"""Linear probes: fitted exactly, trained by SGD, through MMSegmentation, or on features upsampled to pixels."""

from densebench.evals.linear.logistic import Linear
from densebench.evals.linear.mmseg import LinearMmseg
from densebench.evals.linear.probes import LinearProbes
from densebench.evals.linear.upsampled import LinearUpsampled

__all__ = ["Linear", "LinearMmseg", "LinearProbes", "LinearUpsampled"]
