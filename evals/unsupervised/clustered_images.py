"""The images of both splits, which are clustered together: their tokens, masks and maps."""

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
    """Tokens, masks and label maps of train's images and then of the scored ones.

    side: of the maps that are compared, in px. train: how many images come from train. truth: of all images, or of the scored
    ones alone.
    """

    tokens: Float[Tensor, "t d"]
    grid: tuple[int, int]
    side: int
    train: int
    attention: Bool[Tensor, "n side side"]
    truth: tuple[UInt8[Tensor, "side side"], ...]
    space: LabelSpace

    def maps(self, clusters: Clusters) -> Int[Tensor, "n gh gw"]:
        """Return the nearest cluster of every token."""
        return labels(self.tokens, clusters).view(-1, *self.grid).cpu()

    def halves(self, maps: Tensor) -> list[tuple[Tensor, Bool[Tensor, "half side side"]]]:
        """Return train's part and the scored part of maps, each with its attention masks."""
        return [(maps[part], self.attention[part]) for part in (slice(self.train), slice(self.train, None))]

    def pixels(self) -> Int[Tensor, "cells"]:
        """Return how often each token of an image stands in its enlarged map; only the proportion counts."""
        cells = self.grid[0] * self.grid[1]
        times = torch.bincount(enlarged(torch.arange(cells).view(1, *self.grid), self.side).flatten(), minlength=cells)
        return times // max(1, math.gcd(*times.tolist()))

    def labelled(self) -> Bool[Tensor, "n side side"]:
        """Return where there is no background; void counts as foreground, as in the reference."""
        background = (self.space.dataset.background or 0) + (self.space.other != "off")
        return torch.stack(self.truth) != background

    def scored_truth(self) -> tuple[UInt8[Tensor, "side side"], ...]:
        """Return the label maps of the scored images."""
        return self.truth[self.train - len(self.attention) :]

    def foreground_scores(self, mask: Bool[Tensor, "n gh gw"], point: Point) -> list[Score]:
        """Return the IoU of the foreground in %, the mean over the scored images, of attention masks and of clusters (`mask`)."""
        truth = self.labelled()[self.train - len(mask) :]
        masks = {"attention": self.attention, "cbfe": enlarged(mask, self.side)}
        ious = {name: round(100 * jaccard(of_all[self.train :], truth), 4) for name, of_all in masks.items()}
        return [Score("foreground_iou", name, iou, axes=dict(point), direction="higher") for name, iou in ious.items()]


def enlarged(maps: Tensor, side: int) -> Tensor:
    """Return maps [n h w] as squares of `side` px, by nearest neighbours."""
    rows, columns = (
        F.interpolate(torch.arange(n)[None, None].float(), side, mode="nearest")[0, 0].long() for n in maps.shape[1:]
    )
    return maps[:, rows[:, None], columns]


@dataclass(frozen=True)
class Fine:
    """Fine clusters of the foreground (`parts`, the last one is the background) and of everything, with their neighbourhoods."""

    threshold: float
    mask: Bool[Tensor, "n gh gw"]
    parts: Int[Tensor, "n gh gw"]
    edges: list[Edge]
    everything: Int[Tensor, "n gh gw"]
    all_edges: list[Edge]
