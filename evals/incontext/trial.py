"""A small part of search and votes, on random features and labels, by which a dry run estimates how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.datasets.dataset import Item
from densebench.evals.incontext.memory import Layout, Memory, Scaling
from densebench.evals.incontext.voting import Voter, Voting
from densebench.evaluation.labels import LabelSpace
from densebench.features.extract import Extraction
from densebench.numerics.device_copy import on_device
from densebench.numerics.segmentation import confusion_matrices, counted_pairs

ROWS = 50_000  # rows of the random memory that is searched; the time of an exact search is proportional to the rows
FEW_ROWS = 1_000  # rows of the memory of a vote, whose time does not depend on them


@dataclass(frozen=True)
class Trial:
    """What a run searches: queries, rows of the memory, and how many memories of how many subsets there are."""

    queries: Extraction
    space: LabelSpace
    voting: Voting
    scaling: Scaling
    rows: int
    memories: int
    subsets: int
    neighbours: int
    device: torch.device

    def search(self, items: Sequence[Item]) -> float:
        """Search the patches of some images in a random memory; return the share of all searches that this is."""
        rows = min(self.rows, max(ROWS, self.neighbours))
        voter = self.voter(rows)
        found = voter.search.search(voter.queries([self.grid(item) for item in items]), min(self.neighbours, rows))
        found.index.cpu()
        return len(items) / len(self.queries.items) * rows / self.rows / self.memories

    def votes(self, items: Sequence[Item]) -> float:
        """Label some images by a small random memory, and count what is right; return the share of all votes that this is."""
        rows = max(FEW_ROWS, self.neighbours)
        shapes = [self.queries.view.shape(*self.queries.dataset.image_size(item)) for item in items]
        maps = self.voter(rows).label_maps([self.grid(item) for item in items], shapes, self.neighbours)
        for item, of_subsets in zip(items, maps, strict=True):
            truth = self.queries.view.label(self.space.read_truth(item), self.queries.dataset.image_digest(item))  # type: ignore[union-attr]
            counts = counted_pairs(of_subsets, on_device(truth, self.device), self.voting.classes + 1)
            confusion_matrices(counts.cpu(), self.voting.classes + 1)
        return len(items) / len(self.queries.items) / self.memories

    def grid(self, item: Item) -> Float[Tensor, "gh gw d"]:
        """Return random features of an image."""
        height, width = self.queries.view.shape(*self.queries.dataset.image_size(item))
        stride = self.queries.backbone.stride
        return torch.randn(height // stride, width // stride, self.queries.backbone.dim)

    def voter(self, rows: int) -> Voter:
        """Return a random memory of so many rows, all of which each subset holds."""
        features = torch.nn.functional.normalize(torch.randn(rows, self.queries.backbone.dim), dim=1)
        labels = torch.rand(rows, self.voting.classes)
        if self.voting.labels == "pixels":
            labels = torch.zeros(rows, self.queries.backbone.stride**2, dtype=torch.uint8)
        layout = Layout(torch.tensor([rows]), torch.tensor([rows]), torch.ones(self.subsets, 1, dtype=torch.bool))
        index = torch.zeros(rows, dtype=torch.int32)
        return Voter(Memory(features, labels, torch.ones(rows), index, index, [], layout, self.scaling), self.voting, self.device)
