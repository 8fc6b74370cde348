"""Nearest neighbours: an exact search in bounded memory, of many subsets of one memory at once; faiss and ScaNN as other engines.

On a CPU the plain search multiplies in float32 (`plain`). On a GPU a first pass in low precision bounds every score (`bounds`,
`candidates`), and the few rows that may be nearest are scored in float32, which proves the answer (`two_pass`).
"""

from densebench.numerics.search.neighbours import Metric, Neighbours, merged_top, recall, top
from densebench.numerics.search.prepared import ENGINES, EXACT_ENGINES, Search, nearest

__all__ = ["ENGINES", "EXACT_ENGINES", "Metric", "Neighbours", "Search", "merged_top", "nearest", "recall", "top"]
