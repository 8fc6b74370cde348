"""Labels that travel through a video by the similarity of frozen features.

Jabri et al., Space-Time Correspondence as a Contrastive Random Walk, NeurIPS 2020, in the form of DINO (Caron et al., ICCV 2021):
a patch takes the labels of the k most similar patches that lie near it in the context frames (the first one and the last few),
weighted by exp(cosine / temperature). Labels stay soft from frame to frame.

A query is compared with its window alone: a tile of queries is multiplied with the keys that at least one of them can see, so
that memory does not grow with the square of the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Shape = Literal["square", "circle"]
TILE = (8, 16)  # rows and columns of queries that are compared at a time, at most
GROUP = 32  # affinities in a group, of which the maximum is looked at first


class Window(NamedTuple):
    """Which patches of the context frames a query takes labels from, and how.

    radius: of the window, in patches; None: the whole frame. shape: "square" (within the radius in rows and in columns) or
    "circle" (within it in distance). k: how many, over all context frames together. temperature: cosines are divided by it.
    """

    radius: int | None = 12
    shape: Shape = "square"
    k: int = 5
    temperature: float = 0.1


def propagate(
    queries: Float[Tensor, "b h w d"],
    keys: Float[Tensor, "b t h w d"],
    labels: Float[Tensor, "b t h w c"],
    window: Window,
    at_once: int = 2**22,
) -> Float[Tensor, "b h w c"]:
    """Return the labels of b frames from those of t context frames each. Features have length one. For every patch q of a frame:

        keys    = the patches of the context frames that q's window holds
        nearest = the k keys of greatest cosine q . key, and those that equal the k-th
        weights = softmax over nearest of q . key / temperature
        label   = sum of weights times the labels of nearest

    Keys that are as similar as the k-th count too, so that more than k may count; weights sum to one. Where a window holds fewer
    than k keys all of them count. `at_once` bounds the number of affinities that are held; it changes no result.
    """
    result = torch.empty(*queries.shape[:3], labels.shape[-1], dtype=labels.dtype, device=labels.device)
    for rows, columns, key_rows, key_columns in _tiles(queries.shape[1], queries.shape[2], window.radius):
        tile = queries[:, rows, columns].flatten(1, 2)
        hidden = ~visible(rows, columns, key_rows, key_columns, window, queries.device)
        step = max(1, at_once // (keys.shape[1] * hidden.numel()))
        parts = []
        for start in range(0, len(tile), step):
            some = slice(start, start + step)
            near = keys[some, :, key_rows, key_columns].flatten(1, 3)
            near_labels = labels[some, :, key_rows, key_columns].flatten(1, 3)
            affinity = tile[some] @ near.transpose(1, 2)
            affinity.unflatten(2, (keys.shape[1], -1)).masked_fill_(hidden[None, :, None], -torch.inf)
            parts.append(gathered(affinity, near_labels, window.k, window.temperature))
        result[:, rows, columns] = torch.cat(parts).unflatten(1, (rows.stop - rows.start, columns.stop - columns.start))
    return result


def _tiles(height: int, width: int, radius: int | None) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Yield rows and columns of a tile of queries, and the rows and columns of the keys that one of them may see."""
    radius = max(height, width) if radius is None else radius
    for rows, columns in itertools.product(_even(height, TILE[0]), _even(width, TILE[1])):
        key_rows = slice(max(rows.start - radius, 0), min(rows.stop + radius, height))
        key_columns = slice(max(columns.start - radius, 0), min(columns.stop + radius, width))
        yield rows, columns, key_rows, key_columns


def _even(length: int, most: int) -> list[slice]:
    """Return the fewest equal parts of a length that are no longer than `most`."""
    count = math.ceil(length / most)
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def visible(
    rows: slice, columns: slice, key_rows: slice, key_columns: slice, window: Window, device: torch.device | str = "cpu"
) -> Bool[Tensor, "queries keys"]:
    """Return which keys of a part of a frame each query of another part sees, both row by row."""
    down, right = (
        torch.arange(of.start, of.stop, device=device)[:, None] - torch.arange(to.start, to.stop, device=device)
        for of, to in ((rows, key_rows), (columns, key_columns))
    )
    if window.radius is None:
        near = torch.ones(len(down), len(right), down.shape[1], right.shape[1], dtype=torch.bool, device=device)
    elif window.shape == "circle":
        near = down.square()[:, None, :, None] + right.square()[None, :, None, :] <= window.radius**2
    else:
        near = (down.abs() <= window.radius)[:, None, :, None] & (right.abs() <= window.radius)[None, :, None, :]
    return near.flatten(2).flatten(0, 1)


def gathered(
    affinity: Float[Tensor, "b q n"], labels: Float[Tensor, "b n c"], k: int, temperature: float
) -> Float[Tensor, "b q c"]:
    """Return the labels of the k keys of greatest affinity, and of those that equal the k-th.

    They are weighted by exp(affinity / temperature).
    An affinity of -inf never counts; every query must have a finite one.
    """
    values, index = greatest(affinity, k + 1)
    weights = (values[..., :k] / temperature).softmax(-1)
    frame = torch.arange(len(labels), device=labels.device)[:, None, None]
    result = torch.einsum("bqk,bqkc->bqc", weights, labels[frame, index[..., :k]])
    if values.shape[-1] <= k:
        return result
    tied, least = values[..., k] == values[..., k - 1], values[..., k - 1 : k]
    if affinity.is_cuda:  # the host would have to wait to know whether any is tied, so all are computed
        return torch.where(tied[..., None], at_least(least, affinity, labels, temperature), result)
    if bool(tied.any()):
        frames, queries = tied.nonzero(as_tuple=True)
        some = affinity[frames, queries], labels[frames]
        result[frames, queries] = at_least(least[frames, queries][:, None], some[0][:, None], some[1], temperature)[:, 0]
    return result


def at_least(
    least: Float[Tensor, "b q 1"], affinity: Float[Tensor, "b q n"], labels: Float[Tensor, "b n c"], temperature: float
) -> Float[Tensor, "b q c"]:
    """Return the labels of all keys whose affinity is at least `least`, weighted by exp(affinity / temperature)."""
    chosen = affinity.masked_fill(affinity < least, -torch.inf)
    return (chosen / temperature).softmax(-1) @ labels


def greatest(values: Float[Tensor, "*b n"], k: int) -> tuple[Float[Tensor, "*b k"], Int[Tensor, "*b k"]]:
    """Return the k greatest values (all where there are fewer), in descending order, and their indices: a `topk` for large n.

    The k greatest lie in the k groups with the greatest maxima, so that only those are sorted.
    """
    groups = values.shape[-1] // GROUP
    if groups <= 2 * k:
        return values.topk(min(k, values.shape[-1]), dim=-1)
    grouped, rest = values[..., : groups * GROUP].unflatten(-1, (groups, GROUP)), values[..., groups * GROUP :]
    best = grouped.amax(-1).topk(k, dim=-1).indices
    members = grouped.gather(-2, best[..., None].expand(*best.shape, GROUP)).flatten(-2)
    index = (best[..., None] * GROUP + torch.arange(GROUP, device=values.device)).flatten(-2)
    tail = torch.arange(groups * GROUP, values.shape[-1], device=values.device).expand(*best.shape[:-1], -1)
    top, order = torch.cat([members, rest], dim=-1).topk(k, dim=-1)
    return top, torch.cat([index, tail], dim=-1).gather(-1, order)


def stretched(labels: Float[Tensor, "c h w"], constant: float = torch.inf) -> Float[Tensor, "c h w"]:
    """Return every channel scaled to 0..1: less its least, divided by what is then its greatest.

    A channel without a positive value stays as it is. One that is the same positive number everywhere becomes `constant`:
    infinite, so that it wins (DINO divides 0 by 0 there, and takes the result for the greatest), or 0 (DINOv3 sets it to that).
    """
    low, high = labels.amin((1, 2), keepdim=True), labels.amax((1, 2), keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (labels - low) / torch.where(span > 0, span, 1.0), constant)
    return torch.where(high > 0, scaled, labels)
