"""In-context dense nearest-neighbour retrieval."""

from densebench.evals.incontext.protocol import InContext

__all__ = ["InContext"]
