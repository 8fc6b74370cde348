"""Foreground by attention and by clusters (Leopart, CVPR 2022, section 3.3): loops, hand-computed cases."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import ndimage

from densebench.errors import UserError
from densebench.numerics.foreground import best_cut, foreground, jaccard, mask_of, precisions, without_specks


def test_the_foreground_does_not_depend_on_scale_or_other_images():
    attention = torch.rand(5, 42, generator=torch.Generator().manual_seed(0)) ** 6
    together = foreground(attention, (6, 7), 0.65)
    for n in range(5):
        assert torch.equal(foreground(7 * attention[n : n + 1], (6, 7), 0.65)[0], together[n])
    assert 0 < int(together.sum()) < together.numel() / 2


@pytest.mark.parametrize("grid", [(4, 5), (7, 9), (28, 28)])
@pytest.mark.parametrize("mass", [0.4, 0.65, 0.9])
def test_the_foreground_is_that_of_a_blur_with_mirrored_borders(grid, mass):
    """Gaussian of 7 x 7 patches, sigma 0.6, mirrored without the border itself: scipy's own, in float64."""
    attention = torch.rand(6, grid[0] * grid[1], generator=torch.Generator().manual_seed(sum(grid))) ** 6
    found = foreground(attention, grid, mass)
    for own, mask in zip(attention.double().view(6, *grid).numpy(), found, strict=True):
        smooth = ndimage.gaussian_filter(own, 0.6, mode="mirror", truncate=3 / 0.6).ravel()
        order = np.argsort(-smooth, kind="stable")
        count = int(np.searchsorted(np.cumsum(smooth[order]) / smooth.sum(), mass)) + 1
        expected = np.zeros(len(smooth), bool)
        expected[order[:count]] = True
        assert np.array_equal(mask.numpy(), expected)


def naive_specks(mask, size):
    result = np.zeros_like(mask)
    for n, row, column in np.argwhere(mask):
        part, border = {(row, column)}, [(row, column)]
        while border:
            y, x = border.pop()
            for there in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                inside = 0 <= there[0] < mask.shape[1] and 0 <= there[1] < mask.shape[2]
                if inside and there not in part and mask[n, there[0], there[1]]:
                    part.add(there)
                    border.append(there)
        result[n, row, column] = len(part) > size
    return result


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.4])
def test_specks_are_those_of_a_flood_fill(size, density):
    mask = np.random.default_rng(size).random((6, 7, 12)) < density
    found = without_specks(torch.from_numpy(mask), size)
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), naive_specks(mask, size))


def test_specks_of_one_and_two_patches_go_by_default():
    kept = ["1..11...", ".1......", "..1..1.1", ".....1..", "1....111", "1......."]
    mask = torch.tensor([[[c == "1" for c in line] for line in kept], [[False] * 8] * 6])
    expected = ["1.......", ".1......", "..1..1..", ".....1..", ".....111", "........"]
    before = mask.clone()
    found = without_specks(mask)
    # the lone patch in row 2 touches nothing, nor does the pair at the left; corners join, ends of rows do not
    assert found[0].tolist() == [[c == "1" for c in line] for line in expected]
    assert not found[1].any()
    assert torch.equal(mask, before)


@functools.cache
def drawn(seed, n=6, side=9, k=12):
    """Cluster maps in which clusters come and go (the last nowhere), masks that prefer some of them, and a truth."""
    rng = np.random.default_rng(seed)
    clusters = np.stack([rng.choice(rng.permutation(k - 1)[:7], (side, side + 2)) for _ in range(n)])
    mask = rng.random(clusters.shape) < np.linspace(0.05, 0.95, k)[clusters]
    truth = rng.random(clusters.shape) < np.where(clusters > 7, 0.8, 0.15)
    truth[1] = False
    return torch.from_numpy(clusters), torch.from_numpy(mask), torch.from_numpy(truth)


@pytest.mark.parametrize("seed", range(3))
def test_precisions_are_means_over_images_that_show_a_cluster(seed):
    clusters, mask, _ = drawn(seed)
    found = precisions(clusters, mask, 12)
    for cluster in range(12):
        shares = [m[c == cluster].double().mean().item() for c, m in zip(clusters, mask, strict=True) if (c == cluster).any()]
        assert found[cluster].item() == pytest.approx(np.mean(shares) if shares else np.nan, nan_ok=True, abs=1e-6)
    assert found[11].isnan()


def naive_jaccard(mask, truth):
    both = [(int((m & t).sum()), int((m | t).sum())) for m, t in zip(np.asarray(mask), np.asarray(truth), strict=True)]
    return float(np.mean([i / u if u else 0.0 for i, u in both]))


def test_jaccard_is_a_mean_over_images():
    _, mask, truth = (one.clone() for one in drawn(0))
    assert jaccard(mask, truth) == pytest.approx(naive_jaccard(mask, truth), abs=1e-6)
    mask[1] = False  # empty in both
    assert jaccard(mask, truth) == pytest.approx(naive_jaccard(mask, truth), abs=1e-6)
    assert jaccard(truth, truth) == pytest.approx(5 / 6)
    assert jaccard(mask, ~mask) == 0


def naive_cut(precision, clusters, truth, shares=(0.55, 0.75), step=0.05):
    """The start, and its precision rounded."""
    precision, k = np.nan_to_num(np.asarray(precision).astype(float)), len(precision)
    order, best = np.argsort(precision, kind="stable"), (-1.0, None)
    for start in range(int(shares[0] * k), int(shares[1] * k)):
        best = max(best, (naive_jaccard(np.isin(clusters, order[start:]), truth), start))
    value = precision[order[best[1]]]
    return best[1], min(
        (round(i * step, 9) for i in range(round(1 / step))), key=lambda grid: (round(abs(value - grid), 9), grid)
    )


@pytest.mark.parametrize("more", [{}, {"shares": (0.2, 0.95)}, {"shares": (0.1, 1.0), "step": 0.01}], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_the_best_cut_is_found_by_trying_all(seed, more):
    clusters, mask, truth = drawn(seed)
    precision = precisions(clusters, mask, 12)  # NaN for the last, which counts as 0
    assert best_cut(precision, clusters, truth, **more) == pytest.approx(
        naive_cut(precision, clusters, truth, **more)[1], abs=1e-6
    )
    starts = {naive_cut(precisions(*drawn(s)[:2], 12), drawn(s)[0], drawn(s)[2], (0.1, 1.0))[0] for s in range(6)}
    assert len(starts) > 1


def cut_of(values, clusters=((0, 1, 2, 3),), truth=(False, False, True, True), **more):
    found = torch.tensor([clusters]), torch.tensor([[truth]])
    return best_cut(torch.tensor(values, dtype=torch.float64), *found, **more)


@pytest.mark.parametrize(
    ("value", "step", "rounded"),
    [(0.62, 0.05, 0.6), (0.63, 0.05, 0.65), (0.99, 0.05, 0.95), (0.01, 0.05, 0.0), (0.125, 0.25, 0.0), (0.375, 0.25, 0.25),
     (0.625, 0.25, 0.5), (0.9, 0.25, 0.75)],
)  # fmt: skip
def test_a_cut_is_rounded_to_the_nearest_step_and_down_in_between(value, step, rounded):
    assert cut_of([0.0, 0.0, value, 1.0], shares=(0.5, 0.75), step=step) == pytest.approx(rounded, abs=1e-9)


def test_of_equal_cuts_the_last_counts_and_only_those_between_the_shares():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert cut_of(values, ((0, 7),), (False, True), shares=(0.25, 0.9)) == pytest.approx(0.7)  # starts 2 to 6 agree
    assert cut_of(values, ((0, 7),), (False, True)) == pytest.approx(0.6)  # 0.75 * 8 is not among the starts
    assert cut_of(values, ((0, 3, 4, 7),), (False, False, True, True)) == pytest.approx(0.5)
    assert cut_of(values, ((0, 3, 1, 7),), (False, True, True, True)) == pytest.approx(0.6)  # starts at 4, no lower
    reverse = cut_of(values[::-1], ((7, 4, 3, 0),), (False, False, True, True))
    assert reverse == pytest.approx(0.5)


def test_the_mask_is_made_of_whole_clusters():
    clusters, _, _ = drawn(0)
    precision = torch.tensor([0.5, 0.25, 0.75, 0.49, *[0.1] * 7, torch.nan])
    assert torch.equal(mask_of(clusters, precision, 0.5), (clusters == 0) | (clusters == 2))
    assert mask_of(clusters, precision, 0.1).all()
    for threshold in (0.8, 1.0):
        with pytest.raises(UserError, match=rf"(?s)(?=.*{threshold:g})(?=.*0\.75)"):
            mask_of(clusters, precision, threshold)
