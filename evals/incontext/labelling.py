"""A filled memory that labels images without truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from densebench.datasets.dataset import Dataset, Item
from densebench.evals.incontext.votes import unfold_pixels
from densebench.evals.incontext.voting import Queries, Voter
from densebench.evaluation.labelling import At, Learned
from densebench.features.extract import Features
from densebench.numerics.class_scores import best_classes


@dataclass(frozen=True)
class LearnedMemory(Learned):
    """A memory and how it is searched. queries: the view and the resolution that is scored; images and features are replaced."""

    voter: Voter
    neighbours: int
    queries: Queries

    def label_maps(
        self, images: Dataset, items: Sequence[Item], at: At = "image", features: Features | None = None
    ) -> Iterator[tuple[Item, UInt8[Tensor, "h w"]]]:
        """Yield each image with its label map, as `Learned.label_maps` says."""
        queries = self.queries.of(items, self.features(images, items) if features is None else features)
        for batch in queries.batches(items):
            grids, sizes = [grid for _, grid in batch], [images.image_size(item) for item, _ in batch]
            if at == "scored":
                maps = self.voter.label_maps(grids, [queries.scored_shape(*size) for size in sizes], self.neighbours)
                yield from ((item, labels[0].cpu()) for (item, _), labels in zip(batch, maps, strict=True))
            else:
                scores = self.scores(grids)
                for (item, _), (width, height), grid in zip(batch, sizes, scores, strict=True):
                    yield item, labelled(grid, height, width).cpu()

    def scores(self, grids: Sequence[Float[Tensor, "_ _ d"]]) -> Iterator[Float[Tensor, "c rows columns"]]:
        """Yield the scores of the classes for each image: of its patches, or, where pixels vote, of every pixel of its view."""
        voter = self.voter
        if voter.voting.labels == "pixels":
            for grid in grids:
                index = voter.search.search(voter.queries([grid]), self.neighbours).index[0]
                shares = pixel_shares(index, voter.labels, voter.voting.classes)
                yield unfold_pixels(shares, int(grid.shape[0]), int(grid.shape[1]))
            return
        votes = voter.votes(grids, self.neighbours, None)
        assert votes is not None, "one process gets them"
        areas = [int(grid.shape[0] * grid.shape[1]) for grid in grids]
        for grid, rows in zip(grids, votes[0].split(areas), strict=True):
            yield rows.T.unflatten(1, (int(grid.shape[0]), int(grid.shape[1])))

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map of an image at the resolution that is scored."""
        return self.queries.truth(item)


def labelled(scores: Float[Tensor, "c gh gw"], height: int, width: int) -> UInt8[Tensor, "height width"]:
    """Return the label map of an image. Classes that score zero everywhere cannot win and are left out of the work."""
    active = scores.flatten(1).amax(1).nonzero()[:, 0]
    if len(active) == 0:  # all that the neighbours show is void
        return torch.zeros(height, width, dtype=torch.uint8, device=scores.device)
    return active.to(torch.uint8)[best_classes(scores[active], height, width).long()]


def pixel_shares(index: Int[Tensor, "q k"], pixels: UInt8[Tensor, "m p"], classes: int) -> Float[Tensor, "c q p"]:
    """Return for each class and pixel of a patch the share of the k neighbours that show it there; void counts for no class."""
    shares = torch.zeros(classes + 1, len(index), pixels.shape[1], device=index.device)
    for neighbours in index.T:
        shown = pixels[neighbours].long().clamp(max=classes)
        shares.scatter_add_(0, shown[None], shares.new_ones(()).expand_as(shown)[None])
    return shares[:classes] / index.shape[1]
