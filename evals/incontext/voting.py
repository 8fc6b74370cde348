"""Voting: the nearest neighbours of a query in the memory become a label for each of its pixels, and pixels are counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from densebench.console import progress
from densebench.costs import measured
from densebench.datasets.dataset import IGNORED, Item
from densebench.evals.incontext.memory import Memory
from densebench.evals.incontext.shards import PartSearch, SharedSearch, joined_norms, labels_at, share_of_views
from densebench.evals.incontext.votes import attend, cosines, segments, unfold_pixels, vote, vote_pixels
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.protocol import Run
from densebench.features.extract import Features
from densebench.features.shared_store import see_all
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics.device_copy import joined_on_device, on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.patch_labels import majority_labels, patch_counts
from densebench.numerics.search import EXACT_ENGINES, Metric, Search, recall
from densebench.numerics.segmentation import confusion_matrices, counted_pairs
from densebench.processes import collected, from_main, rank, synchronise, world_size
from densebench.results.score import Point

QUERIES = 4096  # patches searched at once: bounds the memory of the search and changes no result
RECALL_QUERIES = 1024
KEEP_EVERY = 30.0  # seconds between writes of the work in progress


@dataclass(frozen=True)
class Voting:
    """How neighbours vote: the settings of the same names, and the number of classes (void is one of them where pixels vote)."""

    labels: str
    weighting: str
    temperature: float
    engine: str
    classes: int


class Voter:
    """A memory on a device, ready to be searched: features in, label maps out."""

    def __init__(self, memory: Memory, voting: Voting, device: torch.device) -> None:
        self.memory, self.voting, self.device = memory, voting, device
        self.scaling = memory.scaling.to(device)
        self.metric: Metric = "dot" if memory.scaling.metric == "cosine" else "l2"
        self.rows, self.norms, self.labels = (on_device(part, device) for part in (memory.features, memory.norms, memory.labels))
        self.first = int(memory.layout.rows[: memory.views.start or 0].sum())
        self.is_shared = world_size() > 1
        if self.is_shared:
            parts = [share_of_views(memory.layout.rows, number, world_size()) for number in range(world_size())]
            self.norms = joined_norms(self.norms, [int(memory.layout.rows[views].sum()) for views in parts])
        self.search = self._search(voting.engine)

    def _search(self, engine: str) -> Search | SharedSearch:
        layout = self.memory.layout
        if self.is_shared:
            return SharedSearch(PartSearch(self.rows, layout.part(self.memory.views), self.metric), self.first)
        return Search(self.rows, layout.segments, layout.members, engine=engine, metric=self.metric)

    def queries(self, grids: Sequence[Float[Tensor, "_ _ d"]]) -> Float[Tensor, "n d"]:
        """Return the scaled patches of several images, image by image in row-major order."""
        return self.scaling.queries(joined_on_device([grid.flatten(0, 1) for grid in grids], self.device).float())

    def label_maps(
        self, grids: Sequence[Float[Tensor, "_ _ d"]], shapes: Sequence[tuple[int, int]], k: int
    ) -> Iterator[UInt8[Tensor, "subsets h w"]]:
        """Yield the label maps of each image, one for every subset, by the k nearest neighbours of its patches.

        Processes that share the memory all ask for the same images.
        """
        votes = self.votes(grids, k, None)
        assert votes is not None, "all get them"
        yield from self.maps(votes, grids, shapes)

    def votes(self, grids: Sequence[Float[Tensor, "_ _ d"]], k: int, owner: int | None) -> list[Tensor] | None:
        """Return for every subset what the k nearest neighbours of each patch say: scores of classes, or labels of pixels.

        Processes that share the memory all ask for the same images. owner: the one that gets the answer, the others get None;
        None: all get it.
        """
        queries = self.queries(grids)
        flop = 2.0 * len(queries) * self.memory.features.numel() if self.voting.engine == "exact" else 0.0
        with measured("search", self.device, flop=flop):
            neighbours = self.search.search(queries, k)
        votes = [self._vote(queries, *subset, owner) for subset in zip(neighbours.score, neighbours.index, strict=True)]
        return None if owner not in (None, rank()) else [vote for vote in votes if vote is not None]

    def maps(
        self, labels: Sequence[Tensor], grids: Sequence[Float[Tensor, "_ _ d"]], shapes: Sequence[tuple[int, int]]
    ) -> Iterator[UInt8[Tensor, "subsets h w"]]:
        """Yield the label maps of each image from the votes of its patches, subset by subset."""
        start = 0
        for gh, gw, shape, images in self._equal(grids, shapes):
            span = slice(start, start := start + images * gh * gw)
            of_images = torch.stack([rows[span] for rows in labels]).unflatten(1, (images, gh * gw))
            if self.voting.labels == "pixels":
                maps = unfold_pixels(of_images, gh, gw)
            else:
                maps = segments(of_images.flatten(0, 1).unflatten(1, (gh, gw)), *shape).unflatten(0, (-1, images))
            yield from maps.unbind(1)

    def _equal(
        self, grids: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, tuple[int, int], int]]:
        """Yield rows and columns of a grid, a shape, and how many consecutive images have both; on a CPU each image alone."""
        sizes = [(int(grid.shape[0]), int(grid.shape[1]), shape) for grid, shape in zip(grids, shapes, strict=True)]
        if self.device.type == "cpu":
            yield from ((*size, 1) for size in sizes)
            return
        for size, equal in itertools.groupby(sizes):
            yield (*size, sum(1 for _ in equal))

    def _vote(
        self, queries: Float[Tensor, "q d"], score: Float[Tensor, "q k"], index: Int[Tensor, "q k"], owner: int | None
    ) -> Tensor | None:
        labels, at = self.labels, index
        if self.is_shared:
            sent = labels_at(owner, index, self.labels, self.first)
            if sent is None:
                return None
            labels, at = sent, torch.arange(index.numel(), device=index.device).view_as(index)
        if self.voting.labels == "pixels":
            return vote_pixels(at, labels).clamp(max=self.voting.classes)
        if self.voting.weighting == "equal":
            return vote(at, labels)
        cosine = cosines(score, queries.norm(dim=1), self.norms[index], self.metric)
        return attend(cosine, at, labels, self.voting.temperature)

    def fallbacks(self) -> int | None:
        """Return how many queries were searched by the plain search, for want of a proof; None where there is one pass."""
        counts = [count for count in collected([self.search.fallbacks]) if count is not None]
        return sum(counts) if counts else None

    def recall(self, queries: Queries, k: int) -> list[float | None]:
        """Return, for each subset, the recall@k of an approximate engine against exact search, on a sample of the patches.

        None where the engine is exact.
        """
        if self.voting.engine in EXACT_ENGINES:
            return [None] * len(self.memory.layout.members)
        sample = queries.items[:: max(1, len(queries.items) // 16)]
        rows = self.queries([queries.features[item] for item in sample])
        rows = rows[torch.linspace(0, len(rows) - 1, min(RECALL_QUERIES, len(rows))).long()]
        found, truth = self.search.search(rows, k).index, self._search("exact").search(rows, k).index
        return [round(recall(f, t), 4) for f, t in zip(found, truth, strict=True)]


@dataclass(frozen=True)
class Queries:
    """The scored images, their features, and the truth that their label maps are compared with."""

    items: Sequence[Item]
    view: View
    patch: int
    """The side of the square of pixels that a feature is of."""
    features: Features
    space: LabelSpace
    classes: int
    """The number of classes that are counted; void is the last of them where neighbours can vote for it."""
    score_at: str

    def of(self, items: Sequence[Item], features: Features) -> Queries:
        """Return the same for other images with their features."""
        return replace(self, items=items, features=features)

    def scored_shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of the label map that is scored, of an image of some width and height."""
        if self.score_at == "native":
            return height, width
        rows, columns = self.view.shape(width, height)
        patch = self.patch if self.score_at == "patch" else 1
        return rows // patch, columns // patch

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map of an image at the resolution that is scored."""
        label = self.space.read_truth(item)
        if self.score_at == "native":
            return torch.from_numpy(label)
        pixels = self.view.label(label, self.space.dataset.image_digest(item))
        if self.score_at == "view":
            return pixels
        patch = self.patch
        counts = patch_counts(pixels, patch, self.space.classes)
        winner = torch.where(counts.any(1), majority_labels(counts).argmax(1), IGNORED)
        return winner.to(torch.uint8).view(pixels.shape[0] // patch, pixels.shape[1] // patch)

    def batches(self, items: Sequence[Item]) -> Iterator[list[tuple[Item, Float[Tensor, "_ _ d"]]]]:
        """Yield images with their features in order, in batches that end once they have QUERIES patches."""
        batch: list[tuple[Item, Tensor]] = []
        patches = 0
        for item in items:
            grid = self.features[item]
            batch.append((item, grid))
            patches += grid.shape[:2].numel()
            if patches >= QUERIES:
                yield batch
                batch, patches = [], 0
        if batch:
            yield batch

    def confusions(self, voter: Voter, items: Sequence[Item], k: int) -> Iterator[tuple[Item, Int[Tensor, "subsets c c"]]]:
        """Label images in batches, and yield the confusion matrices of each: one for every subset.

        Of several processes, which all call this with the same images, each labels every n-th batch. On a GPU the counts of a
        batch are read once the next batch is queued.
        """
        for batch, counts in one_late(self._counted(voter, items, k), voter.device):
            yield from zip(batch, confusion_matrices(counts.value(), self.classes), strict=True)

    def _counted(self, voter: Voter, items: Sequence[Item], k: int) -> Iterator[tuple[list[Item], HostCopy]]:
        """Yield batches of images with the rows of `counted_pairs` of each, on their way to the host."""
        batches, own = self.batches(items), rank()
        while together := list(itertools.islice(batches, world_size())):
            votes = [voter.votes([grid for _, grid in batch], k, owner) for owner, batch in enumerate(together)]
            if own < len(together):
                yield self._counts(voter, together[own], votes[own] or [])

    def _counts(self, voter: Voter, batch: list[tuple[Item, Tensor]], votes: list[Tensor]) -> tuple[list[Item], HostCopy]:
        """Return the images of a batch with the rows of `counted_pairs` of each."""
        truths = [self.truth(item) for item, _ in batch]
        shapes = [(int(truth.shape[0]), int(truth.shape[1])) for truth in truths]
        maps = voter.maps(votes, [grid for _, grid in batch], shapes)
        pixels = joined_on_device([truth.flatten() for truth in truths], voter.device)
        of_images = zip(maps, pixels.split([truth.numel() for truth in truths]), strict=True)
        counts = [counted_pairs(labels.flatten(1), truth, self.classes) for labels, truth in of_images]
        return [item for item, _ in batch], HostCopy(torch.stack(counts))

    def count(self, voter: Voter, k: int, points: Sequence[Point], run: Run) -> Counts:
        """Return the confusion matrices of all images; the work in progress is saved, so that a killed run resumes from it.

        Processes that share the work exchange their results by the folder in which it is saved.
        """
        counts = Counts(len(points), self.classes)
        with run.workspace(digest([list(points), k, voter.metric], 8), world_size()) as folder:
            store = Store(folder, {"points": [dict(point) for point in points]})
            known = from_main(lambda: {item.name for item in self.items if item.name in store})
            self._count(voter, k, [item for item in self.items if item.name not in known], counts, store)
            see_all(store, {item.name for item in self.items})
            for item in self.items:
                if item.name not in counts:
                    counts.restore(item.name, store[item.name].clone())
            synchronise()  # no process removes the folder before all have read it
        return counts

    def _count(self, voter: Voter, k: int, left: Sequence[Item], counts: Counts, store: Store) -> None:
        """Count the images that are left, or this process's part of them, and save the counts now and then."""
        unsaved: dict[str, Tensor] = {}
        saved = time.monotonic()
        with progress("search and scoring", len(left)) as bar:
            for item, confusions in self.confusions(voter, left, k):
                unsaved[item.name] = counts.add(item.name, confusions)
                bar.advance()
                if time.monotonic() - saved > KEEP_EVERY:
                    store.add(unsaved)
                    unsaved, saved = {}, time.monotonic()
        if unsaved and world_size() > 1:
            store.add(unsaved)
