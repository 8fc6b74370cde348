"""Other engines: one index a subset in faiss or ScaNN."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics.search.neighbours import Metric, Neighbours, top
from densebench.numerics.search.plain import PlainSearch, check_range


class SubsetIndex:
    """One subset's index in faiss or ScaNN. Queries for which it finds fewer than k rows are searched exactly."""

    def __init__(self, engine: str, memory: Tensor, rows: Tensor, metric: Metric) -> None:
        self.rows, self.metric = rows.to(memory.device), metric
        self.memory = memory[self.rows].float()
        build = {"faiss": _faiss_flat, "faiss-ivf": faiss_ivf, "scann": _scann}[engine]
        self.find = build(self.memory.cpu().numpy(), metric)

    def search(self, queries: Tensor, k: int) -> Neighbours:
        index = torch.from_numpy(self.find(np.ascontiguousarray(queries.float().cpu().numpy()), k)).to(self.memory.device)
        short = (index < 0).any(1).nonzero()[:, 0]
        if len(short):
            index[short] = self._exactly(queries[short].to(self.memory.device), k)
        keys = self.memory[index]
        query = queries.float().to(keys.device)[:, None]
        score = (query * keys).sum(-1) if self.metric == "dot" else -(query - keys).square().sum(-1)
        score, order = top(score, k)
        return Neighbours(score, self.rows[index.gather(1, order)])

    def _exactly(self, queries: Tensor, k: int) -> Tensor:
        whole = torch.tensor([len(self.memory)]), torch.ones(1, 1, dtype=torch.bool)
        found = PlainSearch(self.memory, *whole, self.metric).search(queries, k)
        check_range(found.score)
        return found.index[0]


SCANN_LEAST = 16  # it quantises into 16 centres, which as many rows must train
Find = Callable[[np.ndarray, int], np.ndarray]


def _library(name: str, remedy: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of their generated bindings
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the search engine {name} cannot be imported ({error}); {remedy}") from error


def _faiss_flat(memory: np.ndarray, metric: Metric) -> Find:
    faiss: Any = _library("faiss", "pip install faiss-cpu, or use --engine exact")
    index = (faiss.IndexFlatIP if metric == "dot" else faiss.IndexFlatL2)(memory.shape[1])
    index.add(memory)
    return lambda queries, k: index.search(queries, k)[1]


def faiss_ivf(memory: np.ndarray, metric: Metric) -> Find:
    """Return a search by inverted lists: 4 sqrt(m), as faiss advises, of at least 39 training points each; 32 are searched."""
    faiss: Any = _library("faiss", "pip install faiss-cpu, or use --engine exact")
    lists = max(1, min(int(4 * len(memory) ** 0.5), len(memory) // 39))
    kind = faiss.METRIC_INNER_PRODUCT if metric == "dot" else faiss.METRIC_L2
    index = faiss.index_factory(memory.shape[1], f"IVF{lists},Flat", kind)
    index.train(memory)
    index.add(memory)
    index.nprobe = min(32, lists)
    return lambda queries, k: index.search(queries, k)[1]


def _scann(memory: np.ndarray, metric: Metric) -> Find:
    """Return a search with the settings of open-hummingbird-eval (its documented 4 dimensions per block are 2 in effect).

    512 leaves, of which 32 are searched; in a small memory one leaf per hundred rows, of which a sixteenth, at least four.
    """
    scann: Any = _library("scann", "it runs on Linux x86-64 with Python below 3.14; use --engine exact or faiss")
    if len(memory) < SCANN_LEAST:
        raise UserError(f"the search engine scann takes {SCANN_LEAST} rows or more, not {len(memory)}; use --engine exact")
    leaves = max(1, min(512, len(memory) // 100))
    searched = min(leaves, max(4, leaves // 16))

    @functools.cache
    def built(k: int) -> Any:
        builder = scann.scann_ops_pybind.builder(memory, k, "dot_product" if metric == "dot" else "squared_l2")
        tree = builder.tree(num_leaves=leaves, num_leaves_to_search=searched, training_sample_size=len(memory))
        return tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(max(120, k)).build()

    def find(queries: np.ndarray, k: int) -> np.ndarray:
        rows, scores = built(k).search_batched_parallel(queries)
        return np.where(np.isfinite(scores), rows.astype(np.int64), -1)

    return find
