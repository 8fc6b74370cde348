"""The images of train and of the scored split, which are clustered together: tokens, attention masks and label maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from densebench.evals.unsupervised.communities import Edge
from densebench.evaluation.labels import LabelSpace
from densebench.numerics.foreground import jaccard
from densebench.numerics.kmeans import Clusters, labels
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class ClusteredImages:
    """Tokens, attention masks and label maps of n images: those of train, then those of the scored split.

    side: side in px of the maps that are compared. train: the number of images from train. truth: label maps of all images, or of
    the scored ones only.
    """

    tokens: Float[Tensor, "t d"]
    grid: tuple[int, int]
    side: int
    train: int
    attention: Bool[Tensor, "n side side"]
    truth: tuple[UInt8[Tensor, "side side"], ...]
    space: LabelSpace

    def maps(self, clusters: Clusters) -> Int[Tensor, "n gh gw"]:
        """Return the index of the nearest cluster of every token."""
        return labels(self.tokens, clusters).view(-1, *self.grid).cpu()

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
        return torch.stack(self.truth) != background

    def scored_truth(self) -> tuple[UInt8[Tensor, "side side"], ...]:
        """Return the label maps of the scored images."""
        return self.truth[self.train - len(self.attention) :]

    def foreground_scores(self, mask: Bool[Tensor, "n gh gw"], point: Point) -> list[Score]:
        """Return the foreground IoU in %, the mean over the scored images, of the attention masks and of `mask` (CBFE)."""
        truth = self.labelled()[self.train - len(mask) :]
        masks = {"attention": self.attention, "cbfe": enlarged(mask, self.side)}
        ious = {name: round(100 * jaccard(of_all[self.train :], truth), 4) for name, of_all in masks.items()}
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

    threshold: the least precision of a foreground cluster. edges, all_edges: pairs of clusters that lie side by side.
    """

    threshold: float
    mask: Bool[Tensor, "n gh gw"]
    parts: Int[Tensor, "n gh gw"]
    edges: list[Edge]
    everything: Int[Tensor, "n gh gw"]
    all_edges: list[Edge]
