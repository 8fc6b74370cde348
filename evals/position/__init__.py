"""Position read from features: see `protocol`."""

from densebench.evals.position.protocol import Position

__all__ = ["Position"]
