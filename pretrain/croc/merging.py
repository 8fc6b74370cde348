"""The clustering of CrOC: from many centroids merge the two most similar until two are left, then take the best number.

Source: CrOC (Stegmüller et al., CVPR 2023), section 3.3, and its official code. Where they part, every choice is a field of
`Rules`, whose defaults are the code's.

A problem is one attention head of one image. All problems are solved together: each merges one pair in every step, so all shapes
are known beforehand, and nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.distances import distances_between
from densebench.numerics.sinkhorn import rescaled, sinkhorn


@dataclass(frozen=True)
class Rules:
    """How clusters are merged, weighed and chosen.

    start: number of centroids at the beginning (K_start). most: largest number of clusters that may be chosen. lambda_pos: weight
    of the positional cost. sharpness, iterations: of Sinkhorn's algorithm. score_temp: temperature of the softmax that turns
    scores into marginals. uniform: equal marginals for all patches and centroids. scores_are_shares: scores are attention, so no
    softmax is taken. merge: centroids are compared by "dot" product, unnormalised, or by "cosine". follow: marginals and
    positions of centroids are computed from the "plan", or from the "tokens" that were merged into them (the paper's Y). quality:
    the number of clusters is chosen by the "total" transport cost, or by its "semantic" part alone. assign: a patch goes to its
    largest share of the plan normalised by "column" in each view, or by "row"; with "row" these shares, unmasked, are also the
    weights of patches in objects. group: number of images over which the cost is rescaled together (0: all).
    """

    start: int = 12
    most: int = 12
    lambda_pos: float = 4.0
    sharpness: float = 20.0
    iterations: int = 5
    score_temp: float = 2.0
    uniform: bool = False
    scores_are_shares: bool = False
    merge: str = "dot"
    follow: str = "plan"
    quality: str = "total"
    assign: str = "column"
    group: int = 0


@dataclass(frozen=True)
class Clusters:
    """The clusters of p problems, with room for `most` in each.

    weights: of the patches in the clusters, in views 1 and 2; 0 for pruned clusters. valid: which clusters both views show.
    count: the number of clusters before pruning.
    """

    weights: tuple[Float[Tensor, "p n most"], Float[Tensor, "p n most"]]
    valid: Bool[Tensor, "p most"]
    count: Int[Tensor, " p"]


def merge_clusters(
    tokens: Float[Tensor, "p joint d"],
    positions: Float[Tensor, "p joint 2"],
    scores: Float[Tensor, "p joint"],
    noise: Float[Tensor, "p joint"],
    rules: Rules,
) -> Clusters:
    """Return the clusters of every problem, with the best number of them, on the joint axis (view 1, then view 2).

    tokens: keys, queries, values or last tokens. positions: of patches, px in the original image. scores: similarity of a patch
    to the class token, or its attention. noise: uniform, to sample the first centroids without replacement.
    """
    best = None
    for step in steps(tokens, positions, scores, noise, rules):
        if step.plan.shape[2] <= rules.most:
            best = _better(best, step, rules)
    assert best is not None
    return _split(best[0], best[2], rules)


@dataclass(frozen=True)
class Step:
    """One step of the merging: the transport plan from patches to k centroids, and its cost per problem."""

    plan: Float[Tensor, "p joint k"]
    quality: Float[Tensor, " p"]


def steps(
    tokens: Float[Tensor, "p joint d"],
    positions: Float[Tensor, "p joint 2"],
    scores: Float[Tensor, "p joint"],
    noise: Float[Tensor, "p joint"],
    rules: Rules,
) -> Iterator[Step]:
    """Yield the clusterings into start, start - 1, ..., 2 clusters. Arguments as in `merge_clusters`."""
    tokens = F.normalize(tokens.float(), dim=2)
    rows = patch_marginal(scores, rules)
    chosen = sample(rows, noise, rules.start)
    source = (
        F.one_hot(chosen, tokens.shape[1]).to(tokens.dtype).transpose(1, 2)
    )  # Y: a column holds the tokens that a centroid is the mean of
    plan = source
    if rules.uniform or rules.scores_are_shares or rules.follow == "tokens":
        columns = centroid_marginal(source, rows, rules)
    else:
        columns = torch.softmax(scores.gather(1, chosen) / rules.score_temp, dim=1)
    for count in range(rules.start, 1, -1):
        weights = _columns_to_one(plan)
        centroids = torch.bmm(weights.transpose(1, 2), tokens)
        centres = torch.bmm((weights if rules.follow == "plan" else source).transpose(1, 2), positions)
        plan, quality = transport(tokens, positions, centroids, centres, rows, columns, rules)
        yield Step(plan, quality)
        if count > 2:
            pair = closest_pair(torch.bmm(_columns_to_one(plan).transpose(1, 2), tokens), rules.merge)
            plan = merge_pair(plan, pair, 1.0)
            source = merge_pair(source, pair, 0.5)
            columns = centroid_marginal(plan if rules.follow == "plan" else source, rows, rules)


def _columns_to_one(plan: Tensor) -> Tensor:
    return plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-12)


def patch_marginal(scores: Tensor, rules: Rules) -> Tensor:
    """Return the marginal of patches, `[p joint]`, which sums to 1."""
    if rules.uniform:
        return torch.full_like(scores, 1.0 / scores.shape[1])
    if rules.scores_are_shares:
        return scores / scores.sum(dim=1, keepdim=True)
    return torch.softmax(scores / rules.score_temp, dim=1)


def sample(shares: Tensor, noise: Tensor, count: int) -> Tensor:
    """Return the indices `[p count]` of tokens drawn without replacement in proportion to their shares (exponential races)."""
    waiting = -torch.log1p(-noise) / shares.clamp(min=1e-12)
    return waiting.topk(count, dim=1, largest=False).indices


def centroid_marginal(plan: Tensor, rows: Tensor, rules: Rules) -> Tensor:
    """Return the marginal of centroids `[p k]`: mean weights of their patches, divided by their sum ("tokens": their softmax)."""
    if rules.uniform:
        return torch.full_like(plan[:, 0], 1.0 / plan.shape[2])
    means = torch.einsum("pn,pnk->pk", rows, _columns_to_one(plan))
    if rules.follow == "tokens":
        return torch.softmax(means, dim=1)
    return means / means.sum(dim=1, keepdim=True)


def transport(
    tokens: Tensor, positions: Tensor, centroids: Tensor, centres: Tensor, rows: Tensor, columns: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Return the unconverged transport plan `[p joint k]` (equation 11) and its cost per problem `[p]` (equation 13)."""
    semantic = -torch.bmm(tokens, F.normalize(centroids, dim=2).transpose(1, 2))
    away = distances_between(positions, centres)
    away = away / away.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    cost = rescaled(semantic + rules.lambda_pos * away, rules.group)
    plan = sinkhorn(cost, rows, columns, rules.sharpness, rules.iterations)
    return plan, (plan * (cost if rules.quality == "total" else semantic)).sum(dim=(1, 2))


def _better(best: tuple[Tensor, Tensor, Tensor] | None, step: Step, rules: Rules) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each problem the cheaper of two clusterings, on a tie the one with more clusters; plans have equal widths."""
    count = step.plan.shape[2]
    padded = F.pad(step.plan, (0, rules.most - count))
    counts = torch.full_like(step.quality, count, dtype=torch.long)
    if best is None:
        return padded, step.quality, counts
    cheaper = step.quality < best[1]
    chosen = torch.where(cheaper[:, None, None], padded, best[0])
    return chosen, torch.where(cheaper, step.quality, best[1]), torch.where(cheaper, counts, best[2])


def closest_pair(centroids: Tensor, measure: str) -> Tensor:
    """Return the two most similar centroids of each problem, `[p 2]`; the first pair in row order on a tie."""
    if measure == "cosine":
        centroids = F.normalize(centroids, dim=2)
    similar = torch.bmm(centroids, centroids.transpose(1, 2))
    count = similar.shape[1]
    itself = torch.eye(count, dtype=torch.bool, device=similar.device)
    flat = similar.masked_fill(itself, -torch.inf).flatten(1).argmax(dim=1)
    return torch.stack([flat // count, flat % count], dim=1)


def merge_pair(columns: Tensor, pair: Tensor, factor: float) -> Tensor:
    """Return the columns without two, and `factor` times their sum at the end: `[p n k]` to `[p n k-1]`."""
    count = columns.shape[2]
    number = torch.arange(count, device=columns.device)
    merged = (number == pair[:, :1]) | (number == pair[:, 1:])
    others = (number + count * merged).argsort(dim=1)[:, : count - 2]
    n = columns.shape[1]
    both = columns.gather(2, pair[:, None].expand(-1, n, -1)).sum(dim=2, keepdim=True)
    return torch.cat([columns.gather(2, others[:, None].expand(-1, n, -1)), factor * both], dim=2)


def _split(plan: Tensor, count: Tensor, rules: Rules) -> Clusters:
    """Return the clusters of a plan: assign patches (equation 15), prune clusters in one view only (16), weight the patches."""
    first, second = plan.chunk(2, dim=1)
    views = [_columns_to_one(part) for part in (first, second)]
    if rules.assign == "row":
        views = [part / part.sum(dim=2, keepdim=True).clamp(min=1e-12) for part in (first, second)]
    used = torch.arange(plan.shape[2], device=plan.device) < count[:, None]
    masks = [F.one_hot(v.masked_fill(~used[:, None], -1.0).argmax(dim=2), plan.shape[2]).to(plan.dtype) for v in views]
    sizes = [mask.sum(dim=1) for mask in masks]
    valid = (sizes[0] > 0) & (sizes[1] > 0)
    if rules.assign == "column":
        views = [view * mask for view, mask in zip(views, masks, strict=True)]
    return Clusters((views[0] * valid[:, None], views[1] * valid[:, None]), valid, count)
