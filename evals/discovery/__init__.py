"""Objects without labels: LOST and TokenCut on the patches of any backbone."""

from densebench.evals.discovery.protocol import Discovery

__all__ = ["Discovery"]
