"""The search for the objects of many pictures: those of equal grids together, on the device, then each one's connected part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densebench.console import progress
from densebench.costs import measured
from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.evals.discovery.findings import Finding, found, without_graph
from densebench.evals.discovery.graphs import centred, cosines, products
from densebench.evals.discovery.lost import lost
from densebench.evals.discovery.tokencut import tokencut
from densebench.evals.discovery.views import Patches
from densebench.features.extract import Features
from densebench.numerics.device_copy import joined_on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.processes import collected, dealt

BYTES = {"cpu": 2**28, "cuda": 2**32}  # of the matrices of pictures that are cut together: bounds memory and changes no result
OF_PAIR = 32  # bytes that a pair of patches takes: cosines, weights, the scaled weights, edges

Marked = TypeVar("Marked")


@dataclass(frozen=True)
class Request:
    """What is looked for: see the options of the protocol. taus: one None for LOST. miss: degenerate graphs count as misses."""

    method: str
    taus: tuple[float | None, ...]
    centre: str
    binary: bool
    candidates: int
    miss: bool


@dataclass(frozen=True)
class _Queued:
    """A batch at one tau, whose work is queued: masks [b n], seeds [b], densities, eigengaps and what is drawn."""

    items: Sequence[Item]
    tau: float | None
    finite: HostCopy
    masks: HostCopy
    seeds: HostCopy
    densities: HostCopy
    eigengaps: HostCopy | None
    drawn: HostCopy


class Finder:
    """Finds one object in each picture. drawn: the names of pictures whose map is kept to be drawn."""

    def __init__(
        self, request: Request, features: Features, patches: Mapping[str, Patches], device: torch.device, drawn: frozenset[str]
    ) -> None:
        self.request, self.features, self.patches, self.device, self.drawn = request, features, patches, device, drawn

    def all(
        self, items: Sequence[Item], marked: Callable[[Item, Finding], Marked]
    ) -> dict[float | None, list[tuple[Finding, Marked]]]:
        """Return for each tau what was found in every picture, and what `marked` makes of it, in the order of the pictures.

        Batches are dealt out to processes: each is cut in the company in which one process cuts it. Raises UserError naming the
        first picture of which a feature is not finite.
        """
        batches = list(self.batches(items))
        own = dealt(batches)
        results: list[dict[tuple[float | None, str], tuple[Finding, Marked]]] = [{} for _ in own]
        numbers = {item.name: number for number, batch in enumerate(own) for item in batch}
        with progress("objects", sum(map(len, own)) * len(self.request.taus)) as bar:
            for tau, item, finding in self._found(own):
                results[numbers[item.name]][tau, item.name] = finding, marked(item, finding)
                bar.advance()
        merged = {key: value for of_batch in collected(results) for key, value in of_batch.items()}
        return {tau: [merged[tau, item.name] for item in items] for tau in self.request.taus}

    def batches(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield the pictures of equal grids together, as many as BYTES allow."""
        by_grid: dict[tuple[int, int], list[Item]] = {}
        for item in items:
            where = self.patches[item.name]
            by_grid.setdefault((where.rows, where.columns), []).append(item)
        for (rows, columns), alike in by_grid.items():
            size = max(1, BYTES[self.device.type] // (OF_PAIR * max(1, rows * columns) ** 2))
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _found(self, batches: Sequence[Sequence[Item]]) -> Iterator[tuple[float | None, Item, Finding]]:
        """Yield what was found: batch by batch, tau by tau, picture by picture."""
        for queued in one_late((step for batch in batches for step in self._queued(batch)), self.device):
            check_finite(queued)
            masks, seeds = queued.masks.value().numpy(), queued.seeds.value().tolist()
            densities, drawn = queued.densities.value().tolist(), queued.drawn.value().numpy()
            gaps = [None] * len(seeds) if queued.eigengaps is None else queued.eigengaps.value().tolist()
            for number, item in enumerate(queued.items):
                where = self.patches[item.name]
                grid = (where.rows, where.columns)
                if where.rows * where.columns < 2:
                    yield queued.tau, item, without_graph(where, self.request.miss)
                    continue
                mask = masks[number].reshape(grid)
                one = found(mask, seeds[number], densities[number], gaps[number], where, self.request.miss)
                kept = drawn[number].reshape(grid).astype(np.float32) if item.name in self.drawn else None
                yield queued.tau, item, replace(one, drawn=kept)

    def _queued(self, items: Sequence[Item]) -> list[_Queued]:
        """Queue the work on a batch, for each tau."""
        with torch.inference_mode(), measured("objects", self.device, images=len(items)):
            features = self._tokens(items)
            finite = HostCopy(features.isfinite().flatten(1).all(1))
            features = centred(features.nan_to_num(0, 0, 0), self.request.centre)  # what is not finite is refused, not cut
            pairs = (products if self.request.method == "lost" else cosines)(features)
            return [self._cut(items, pairs, tau, finite) for tau in self.request.taus]

    def _tokens(self, items: Sequence[Item]) -> Float[Tensor, "b n d"]:
        """Return the features of the patches that take part, of pictures of one grid, float32."""
        where = self.patches[items[0].name]
        grids = [self.features[item][: where.rows, : where.columns].flatten(0, 1) for item in items]
        return joined_on_device(grids, self.device).unflatten(0, (len(items), -1)).float()

    def _cut(self, items: Sequence[Item], pairs: Float[Tensor, "b n n"], tau: float | None, finite: HostCopy) -> _Queued:
        if pairs.shape[1] < 2:
            empty = HostCopy(torch.zeros(len(items), dtype=torch.int64, device=self.device))
            return _Queued(items, tau, finite, empty, empty, empty, None, empty)
        if tau is None:
            grown = lost(pairs, self.request.candidates)
            mask, seed, density, degree = map(HostCopy, (grown.mask, grown.seed, grown.density, grown.degree))
            return _Queued(items, tau, finite, mask, seed, density, None, degree)
        cut = tokencut(pairs, tau, self.request.binary)
        parts = (cut.mask, cut.seed, cut.density, cut.eigengap, cut.vector)
        mask, seed, density, gap, vector = map(HostCopy, parts)
        return _Queued(items, tau, finite, mask, seed, density, gap, vector)


def check_finite(queued: _Queued) -> None:
    """Raise UserError naming the first picture whose features are not finite numbers."""
    for item, finite in zip(queued.items, queued.finite.value().tolist(), strict=True):
        if not finite:
            raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")
