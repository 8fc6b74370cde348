"""Scoring: every validation image is labelled by every subset of the memory in one pass, and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from densebench.evals.incontext import retrieval
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from densebench.console import progress
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.bank import Bank, Unit, fill, lay_out
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import IGNORED, LabelSpace
from densebench.evaluation.memory import majority_labels, patch_counts, standard_scores
from densebench.evaluation.protocol import Run
from densebench.features.extract import Features
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics import segmentation as metrics
from densebench.numerics.search import EXACT_ENGINES, Metric, Search, recall
from densebench.results.score import Point, Score

if TYPE_CHECKING:
    from densebench.evals.incontext.protocol import InContext

QUERIES = 4096  # at once; bounds the memory of the search and changes nothing else
KEEP_EVERY = 30.0  # seconds between writes of the work in progress
HOLDOUT = 10  # one in so many training images chooses k and the distance
RECALL_QUERIES = 1024


@dataclass(frozen=True)
class Task:
    """What does not change from subset to subset."""

    options: InContext
    dataset: Dataset
    space: LabelSpace
    images: Sequence[Item]
    view: View
    queries: Features
    device: torch.device
    run: Run

    @property
    def patch(self) -> int:
        """Side of a patch in px."""
        return self.view.stride

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that are counted. Neighbours that vote pixel by pixel can vote for void, which is never right (CAPI)."""
        return (*self.space.names, "void") if self.options.labels == "pixels" else self.space.names

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """What the prediction is compared with, at the resolution that is scored."""
        label = self.space.read_truth(item)
        if self.options.score_at == "native":
            return torch.from_numpy(label)
        seen = self.view.label(label, self.dataset.image_digest(item))
        if self.options.score_at == "view":
            return seen
        counts = patch_counts(seen, self.patch, self.space.classes)
        winner = torch.where(counts.any(1), majority_labels(counts).argmax(1), IGNORED)
        return winner.to(torch.uint8).view(seen.shape[0] // self.patch, seen.shape[1] // self.patch)


class Reader:
    """A filled memory that can be asked: queries in, label maps out."""

    def __init__(self, task: Task, bank: Bank, metric: str, standard: tuple[Tensor, Tensor] | None) -> None:
        self.task, self.bank = task, bank
        self.standard = None if standard is None else (standard[0].to(task.device), standard[1].to(task.device))
        self.metric: Metric = "dot" if metric == "cosine" else "l2"
        self.norms, self.labels = bank.norms.to(task.device), bank.labels.to(task.device)
        self.engine = task.options.engine
        self.search = self._search(self.engine)

    def _search(self, engine: str) -> Search:
        layout = self.bank.layout
        rows = self.bank.features.to(self.task.device)
        return Search(rows, layout.segments, layout.members, engine=engine, metric=self.metric)

    def prepare(self, grid: Tensor) -> Tensor:
        """Patches as the search takes them: standardised if the memory is, of length 1 for cosines."""
        rows = grid.flatten(0, 1).float().to(self.task.device)
        if self.standard is not None:
            rows = standard_scores(rows, self.standard)
        return rows if self.metric == "l2" else unit_length(rows)

    def label_maps(self, grids: Sequence[Tensor], shapes: Sequence[tuple[int, int]], k: int) -> Iterator[Tensor]:
        """For each image, the label maps `[subsets h w]` by its k nearest neighbours."""
        queries = torch.cat([self.prepare(grid) for grid in grids])
        found = self.search.search(queries, k)
        labelled = [self._label(queries, *subset) for subset in zip(found.score, found.index, strict=True)]
        start = 0
        for grid, shape in zip(grids, shapes, strict=True):
            span = slice(start, start := start + grid.shape[0] * grid.shape[1])
            yield torch.stack([self._map(rows[span], grid.shape[0], grid.shape[1], shape) for rows in labelled])

    def _label(self, queries: Tensor, score: Tensor, index: Tensor) -> Tensor:
        options = self.task.options
        if options.labels == "pixels":
            return retrieval.vote_pixels(index, self.labels).clamp(max=self.task.space.classes)
        if options.weighting == "equal":
            return retrieval.vote(index, self.labels)
        cosine = retrieval.cosines(score, queries.norm(dim=1), self.norms[index], self.metric)
        return retrieval.attend(cosine, index, self.labels, options.temperature)

    def _map(self, rows: Tensor, gh: int, gw: int, shape: tuple[int, int]) -> UInt8[Tensor, "h w"]:
        if self.task.options.labels == "pixels":
            return retrieval.unfold_pixels(rows, gh, gw)
        return retrieval.segment(rows.view(gh, gw, -1), *shape)

    def recall(self, k: int) -> list[float | None]:
        """Recall@k of an approximate engine against exact search, for each subset, on a sample of the queries."""
        if self.engine in EXACT_ENGINES:
            return [None] * len(self.bank.layout.members)
        every = max(1, len(self.task.images) // 16)
        rows = torch.cat([self.prepare(self.task.queries[item]) for item in self.task.images[::every]])
        rows = rows[torch.linspace(0, len(rows) - 1, min(RECALL_QUERIES, len(rows))).long()]
        found, truth = self.search.search(rows, k).index, self._search("exact").search(rows, k).index
        return [round(recall(f, t), 4) for f, t in zip(found, truth, strict=True)]


def unit_length(rows: Tensor) -> Tensor:
    """Rows divided by their length; rows of zeros stay zeros."""
    return torch.nn.functional.normalize(rows, dim=1)


class Retriever:
    """One memory for a group of subsets, and the pass over the validation images."""

    def __init__(
        self, task: Task, units: Sequence[Unit], subsets: Bool[Tensor, "s units"], features: dict[View, Features]
    ) -> None:
        self.task, self.units, self.subsets, self.features = task, units, subsets, features

    def scores(self, points: Sequence[Point], details: Sequence[dict[str, Any]]) -> Iterator[Score]:
        """Yield the scores of every point of the group."""
        options, run = self.task.options, self.task.run
        k, metric, chosen = options.neighbours[0], options.metric[0], {}
        if len(options.neighbours) * len(options.metric) > 1:
            with run.stage("selection"):
                k, metric = self.select()
                chosen = {"neighbours": k, "metric": metric}
        with run.stage("memory"):
            reader = self.reader(self.subsets, metric)
            recalls = reader.recall(k)
            chosen |= {"engine": options.engine} if options.engine != "exact" else {}
        with run.stage("search"):
            counts = self.count(reader, self.task.images, k, points)
        with run.stage("metrics"):
            names = [item.name for item in self.task.images]
            for s, point in enumerate(points):
                more = {} if recalls[s] is None else {"recall": recalls[s]}
                about = {**details[s], "patches": reader.bank.layout.sizes()[s], **chosen, **more}
                found = counts.scores(names, s, self.task.names, options.absent, point, about)  # type: ignore[arg-type]
                yield from sorted(found, key=lambda score: (score.metric, score.variant) == ("miou", options.variant))
        if options.visualise and run.pictures is not None:
            from densebench.evals.incontext.pictures import draw

            draw(reader, k, run.pictures, points)

    def reader(self, subsets: Bool[Tensor, "s units"], metric: str) -> Reader:
        """Fill the memory that the subsets need."""
        options = self.task.options
        layout = lay_out(self.units, subsets, options.memory_size)
        standard = self.statistics(subsets) if options.standardise else None

        def transform(rows: Tensor) -> Tensor:
            if standard is not None:
                rows = standard_scores(rows, standard)
            if metric == "l2":
                return rows
            return rows / rows.norm(dim=0).clamp(min=1e-12) if options.memory_norm == "patches" else unit_length(rows)

        return Reader(self.task, fill(self.units, layout, self.features, transform, options.row_dtype), metric, standard)

    def statistics(self, subsets: Bool[Tensor, "s units"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature over all patches of the subset's images."""
        total = squares = torch.zeros(())
        rows = 0
        for unit, inside in zip(self.units, subsets.any(0).tolist(), strict=True):
            if inside:
                grid = self.features[unit.view][unit.item].flatten(0, 1).double()
                total, squares, rows = total + grid.sum(0), squares + grid.square().sum(0), rows + len(grid)
        mean = total / rows
        return mean.float(), (squares / rows - mean.square()).clamp(min=0).sqrt().float()

    def select(self) -> tuple[int, str]:
        """Choose k and the distance by mIoU on a tenth of the subset's images, the rest being the memory."""
        options = self.task.options
        images = sorted({u.item.name for u, inside in zip(self.units, self.subsets.any(0).tolist(), strict=True) if inside})
        if len(images) < 2:
            raise UserError(f"choosing among --neighbours {options.neighbours} takes two training images; give one number")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        held_out = {images[i] for i in order[: max(1, len(images) // HOLDOUT)].tolist()}
        rest = self.subsets & torch.tensor([unit.item.name not in held_out for unit in self.units])
        asked = list({unit.item.name: unit.item for unit in self.units if unit.item.name in held_out}.values())
        view = self.units[0].view
        task = replace(self.task, images=asked, view=view, queries=self.features[view])
        best = (-1.0, options.neighbours[0], options.metric[0])
        for metric in options.metric:
            reader = Retriever(task, self.units, rest, self.features).reader(rest, metric)
            for k in options.neighbours:
                if k <= min(reader.bank.layout.sizes()):
                    confusion = torch.stack([found[0] for _, found in self.confusions(reader, asked, k)]).sum(0)
                    value = float(metrics.mean_iou(metrics.iou(metrics.tallies(confusion)), "skip"))
                    best = max(best, (value, k, metric), key=lambda entry: entry[0])
        return best[1], best[2]

    def count(self, reader: Reader, images: Sequence[Item], k: int, points: Sequence[Point]) -> Counts:
        """Count all images, keeping the work in progress on disk, so that a killed run goes on from there."""
        counts = Counts(len(points), len(self.task.names))
        with self.task.run.workspace(digest([list(points), k, reader.metric], 8)) as folder:
            store = Store(folder, {"points": [dict(point) for point in points]})
            for item in images:
                if item.name in store:
                    counts.restore(item.name, store[item.name].clone())
            left = [item for item in images if item.name not in counts]
            unsaved: dict[str, Tensor] = {}
            saved = time.monotonic()
            with progress("search and scoring", len(left)) as bar:
                for item, confusions in self.confusions(reader, left, k):
                    unsaved[item.name] = counts.add(item.name, confusions)
                    bar.advance()
                    if time.monotonic() - saved > KEEP_EVERY:
                        store.add(unsaved)
                        unsaved, saved = {}, time.monotonic()
        return counts

    def confusions(self, reader: Reader, images: Sequence[Item], k: int) -> Iterator[tuple[Item, Int[Tensor, "s c c"]]]:
        """Label images in batches of about QUERIES patches and count each one's pixels for every subset."""
        task = reader.task
        for batch in batches(images, task.queries):
            truths = [task.truth(item) for item in batch]
            shapes = [(int(truth.shape[0]), int(truth.shape[1])) for truth in truths]
            maps = reader.label_maps([task.queries[item] for item in batch], shapes, k)
            for item, truth, labelled in zip(batch, truths, maps, strict=True):
                there = truth.to(labelled.device)
                yield item, torch.stack([metrics.confusion_matrix(one, there, len(task.names)) for one in labelled])


def batches(images: Sequence[Item], features: Features) -> Iterator[list[Item]]:
    """Images in order, in runs that have QUERIES patches or just above."""
    batch: list[Item] = []
    patches = 0
    for item in images:
        batch.append(item)
        patches += features[item].shape[:2].numel()
        if patches >= QUERIES:
            yield batch
            batch, patches = [], 0
    if batch:
        yield batch
