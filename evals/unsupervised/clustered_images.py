"""The images of train and of the scored split, which are clustered together: tokens, attention masks and label maps.

Of several processes each holds the images that `dealt` gives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from densebench.evals.unsupervised.communities import Edge
from densebench.evaluation.labels import LabelSpace
from densebench.numerics.dealt_points import DealtPoints
from densebench.numerics.foreground import jaccards, mean_shares, shares_inside
from densebench.numerics.kmeans import Clusters, labels
from densebench.processes import dealt, in_order
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class ClusteredImages:
    """Tokens, attention masks and label maps of this process's n images: those of train, then those of the scored split.

    side: side in px of the maps that are compared. train: the number of these images from train; first: the number of images from
    train in all processes. truth: label maps of all n images, or of the scored ones only.
    """

    tokens: DealtPoints
    grid: tuple[int, int]
    side: int
    train: int
    first: int
    attention: Bool[Tensor, "n side side"]
    truth: tuple[UInt8[Tensor, "side side"], ...]
    space: LabelSpace

    def maps(self, clusters: Clusters) -> Int[Tensor, "n gh gw"]:
        """Return the index of the nearest cluster of every token."""
        return labels(self.tokens.rows, clusters).view(len(self.attention), *self.grid).cpu()

    def in_train(self, values: Shaped[Tensor, "own *value"]) -> Shaped[Tensor, "all *value"]:
        """Return the values of all images from train, in order, from those of this process's."""
        return in_order(values)

    def in_scored(self, values: Shaped[Tensor, "own *value"]) -> Shaped[Tensor, "all *value"]:
        """Return the values of all scored images, in order, from those of this process's."""
        return in_order(values, self.first)

    def in_both(self, values: Shaped[Tensor, "own *value"]) -> Shaped[Tensor, "all *value"]:
        """Return the values of all images, those of train first, from those of this process's."""
        return in_order(values)

    def own(self, values: Shaped[Tensor, "all *value"]) -> Shaped[Tensor, "own *value"]:
        """Return the values of this process's images from those of all images, those of train first."""
        return values[dealt(range(len(values)))]

    def precisions(self, large: Int[Tensor, "n side side"], k: int) -> list[Float[Tensor, "k"]]:
        """Return the precision of each of k clusters in the attention masks of train, and in those of the scored split."""
        (train, inside), (scored, inside_scored) = self.halves(large)
        shares = self.in_train(shares_inside(train, inside, k)), self.in_scored(shares_inside(scored, inside_scored, k))
        return [mean_shares(of_half) for of_half in shares]

    def halves(self, maps: Tensor) -> list[tuple[Tensor, Bool[Tensor, "half side side"]]]:
        """Return the maps of train and those of the scored split, each with the attention masks of its images."""
        return [(maps[part], self.attention[part]) for part in (slice(self.train), slice(self.train, None))]

    def pixels(self) -> Int[Tensor, "cells"]:
        """Return the number of pixels that each token of an image has in the enlarged map, divided by their common divisor."""
        cells = self.grid[0] * self.grid[1]
        times = torch.bincount(enlarged(torch.arange(cells).view(1, *self.grid), self.side).flatten(), minlength=cells)
        return times // max(1, math.gcd(*times.tolist()))

    def labelled(self) -> Bool[Tensor, "n side side"]:
        """Return which pixels are not background by the label maps; void counts as foreground, as in the reference."""
        background = (self.space.dataset.background or 0) + (self.space.other != "off")
        truth = torch.stack(self.truth) if self.truth else torch.zeros(0, self.side, self.side, dtype=torch.uint8)
        return truth != background

    def scored_truth(self) -> tuple[UInt8[Tensor, "side side"], ...]:
        """Return the label maps of the scored images."""
        return self.truth[len(self.truth) - self.scored :]

    @property
    def scored(self) -> int:
        """The number of scored images."""
        return len(self.attention) - self.train

    def foreground_scores(self, mask: Bool[Tensor, "all gh gw"], point: Point) -> list[Score]:
        """Return the foreground IoU in %, the mean over the scored images, of the attention masks and of `mask` (CBFE).

        mask: of all images, those of train first.
        """
        labelled = self.labelled()
        truth = labelled[len(labelled) - self.scored :]
        masks = {"attention": self.attention, "cbfe": enlarged(self.own(mask), self.side)}
        of_images = {name: self.in_scored(jaccards(of_all[self.train :], truth)) for name, of_all in masks.items()}
        ious = {name: round(100 * float(values.double().mean()), 4) for name, values in of_images.items()}
        return [Score("foreground_iou", name, iou, axes=dict(point), direction="higher") for name, iou in ious.items()]


def enlarged(maps: Tensor, side: int) -> Tensor:
    """Return maps `[n h w]` resized to `[n side side]` by nearest neighbours."""
    rows, columns = (
        F.interpolate(torch.arange(n)[None, None].float(), side, mode="nearest")[0, 0].long() for n in maps.shape[1:]
    )
    return maps[:, rows[:, None], columns]


@dataclass(frozen=True)
class Fine:
    """The foreground mask, and fine clusters of it (`parts`, whose last index is background) and of all patches (`everything`).

    mask: of all images. parts, everything: of this process's. threshold: the least precision of a foreground cluster. edges,
    all_edges: pairs of clusters that lie side by side.
    """

    threshold: float
    mask: Bool[Tensor, "all gh gw"]
    parts: Int[Tensor, "n gh gw"]
    edges: list[Edge]
    everything: Int[Tensor, "n gh gw"]
    all_edges: list[Edge]
