"""Mean-shift on tokens, the grid of queries and fixed positions: plain loops, closed forms, autograd's own check.

Sources: Su et al., FLSL, NeurIPS 2023, equation 4 (non-parametric self-attention as one step of mean-shift) and equation 12 (the
same towards another view's tokens), and its grid sampling of queries; He et al., Masked Autoencoders, 2022, for the positions.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from densebench.errors import UserError
from densebench.pretrain.flsl.mean_shift import grid_queries, mean_shift
from densebench.training.networks import sincos_positions

GRIDS = [((14, 14), 3), ((6, 6), 2), ((14, 14), 2), ((5, 8), 3), ((8, 5), 3), ((7, 4), 2), ((4, 9), 4), ((3, 2), 1), ((5, 5), 5)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def shifted_naively(queries, tokens, scale):
    """Equation 4, one query and one channel at a time."""
    found = torch.zeros_like(queries)
    for b in range(len(queries)):
        for q, query in enumerate(queries[b].tolist()):
            weights = [math.exp(scale * sum(x * y for x, y in zip(query, token, strict=True))) for token in tokens[b].tolist()]
            for channel in range(queries.shape[2]):
                total = sum(weight * token[channel] for weight, token in zip(weights, tokens[b].tolist(), strict=True))
                found[b, q, channel] = total / sum(weights)
    return found


@pytest.mark.parametrize("scale", [0.0, 0.0051, 0.7, 3.0])
@pytest.mark.parametrize(("b", "q", "n", "d"), [(3, 5, 7, 4), (2, 9, 4, 6), (1, 1, 6, 3), (2, 3, 1, 5)])
def test_mean_shift_is_the_naive_one(b, q, n, d, scale):
    queries, tokens = normal(b, q, d, seed=1), normal(b, n, d, seed=2)
    found = mean_shift(queries, tokens, scale)
    torch.testing.assert_close(found, shifted_naively(queries, tokens, scale))
    torch.testing.assert_close(found, F.scaled_dot_product_attention(queries, tokens, tokens, scale=scale))


def test_mean_shift_by_hand():
    """Lengths count: dot products, not cosines, and the tokens themselves are averaged."""
    tokens = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    queries = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    found = mean_shift(queries, tokens, math.log(3))  # logits of 2 and 0, and of 0 and 3, times ln 3: weights 9 : 1 and 1 : 27
    torch.testing.assert_close(found, torch.tensor([[[2 * 0.9, 0.1], [2 / 28, 27 / 28]]]))


def test_equal_tokens_are_their_own_mode():
    token = normal(2, 1, 6)
    tokens = token.expand(2, 9, 6).contiguous()
    torch.testing.assert_close(mean_shift(tokens[:, :4], tokens, 0.3), tokens[:, :4])


def test_without_scale_every_query_goes_to_the_mean():
    queries, tokens = normal(2, 5, 6), normal(2, 7, 6, seed=1)
    torch.testing.assert_close(mean_shift(queries, tokens, 0.0), tokens.mean(1, keepdim=True).expand(2, 5, 6))


def test_a_large_scale_takes_the_token_with_the_largest_product():
    """Not the nearest one: the long token wins although the short one points the query's way. Nothing overflows."""
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 3.0], [-1.0, 0.0], [0.0, -2.0]]])
    queries = torch.tensor([[[1.0, 0.0], [0.0, -1.0], [-20.0, 1.0]]])
    for dtype in (torch.float32, torch.float64):
        found = mean_shift(queries.to(dtype), tokens.to(dtype), 1e4)
        torch.testing.assert_close(found, tokens[:, [1, 3, 2]].to(dtype))
        assert found.dtype == dtype


def test_a_query_climbs_to_the_mode_of_its_cluster():
    """Two tight bundles of unit vectors: one step goes to the bundle's middle, further steps stay there."""
    around = F.normalize(torch.eye(2, dtype=torch.float64).repeat_interleave(20, 0) + 0.05 * normal(40, 2, seed=3), dim=1)[None]
    once = mean_shift(around, around, 60.0)
    middles = torch.stack([around[0, :20].mean(0), around[0, 20:].mean(0)]).repeat_interleave(20, 0)
    spread = (around[0] - middles).norm(dim=1)
    assert (once[0] - middles).norm(dim=1).mean() < 0.6 * spread.mean()
    many = once
    for _ in range(50):
        many = mean_shift(many, around, 60.0)
    assert many[0, :20].std(0).max() < 1e-6
    assert many[0, 20:].std(0).max() < 1e-6
    torch.testing.assert_close(mean_shift(many, around, 60.0), many, rtol=0, atol=1e-9)


def test_images_and_queries_keep_apart_and_the_order_of_tokens_is_nothing():
    queries, tokens = normal(3, 5, 4), normal(3, 6, 4, seed=1)
    together = mean_shift(queries, tokens, 0.8)
    for i in range(3):
        torch.testing.assert_close(mean_shift(queries[i : i + 1], tokens[i : i + 1], 0.8)[0], together[i])
    changed, others = tokens.clone(), queries.clone()
    changed[1] += 1
    others[2, 3] += 1
    assert torch.equal(mean_shift(queries, changed, 0.8)[[0, 2]], together[[0, 2]])
    assert not torch.allclose(mean_shift(queries, changed, 0.8)[1], together[1])
    differs = (mean_shift(others, tokens, 0.8) - together).abs().amax(2) > 1e-12
    assert differs.nonzero().tolist() == [[2, 3]]
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(mean_shift(queries, tokens[:, order], 0.8), together)


def test_gradients_reach_queries_and_tokens():
    """Through the weights and through the average: nothing is detached."""
    queries, tokens = normal(2, 3, 4).requires_grad_(), normal(2, 5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, t: mean_shift(q, t, 0.6), (queries, tokens))
    first = mean_shift(queries, tokens, 0.6)[0].square().sum()
    for gradient in torch.autograd.grad(first, (queries, tokens)):
        assert gradient[0].abs().min() > 0
        assert (gradient[1] == 0).all()


def queries_naively(noise, grid, window, pick):
    (rows, columns), found = grid, []
    for numbers in noise.tolist():
        top = 0 if numbers[0] < 0.5 else rows - rows // window * window
        left = 0 if numbers[1] < 0.5 else columns - columns // window * window
        cell = 0
        image = []
        for i in range(rows // window):
            for j in range(columns // window):
                patch = 0 if pick == "first" else math.floor(numbers[2 + cell] * window**2)
                row, column = top + i * window + patch // window, left + j * window + patch % window
                image.append(row * columns + column)
                cell += 1
        found.append(image)
    return torch.tensor(found)


@pytest.mark.parametrize("pick", ["first", "random"])
@pytest.mark.parametrize(("grid", "window"), GRIDS)
def test_queries_are_the_naive_ones(grid, window, pick):
    cells = (grid[0] // window) * (grid[1] // window)
    noise = uniform(64, 2 + cells)
    found = grid_queries(noise, grid, window, pick)
    assert found.dtype == torch.long
    assert torch.equal(found, queries_naively(noise, grid, window, pick))


@pytest.mark.parametrize(
    ("corner", "start"),
    [((0.1, 0.2), 0), ((0.1, 0.5), 2), ((0.5, 0.1), 2 * 14), ((0.999, 0.7), 2 * 14 + 2), ((0.4999, 0.4999), 0)],
)
def test_the_published_grid_by_hand(corner, start):
    """14 x 14 patches, windows of 3: 16 queries, and the two rows and columns that are left over lie on either side."""
    noise = torch.cat([torch.tensor(corner), uniform(16)])[None]
    wanted = [start + 3 * 14 * i + 3 * j for i in range(4) for j in range(4)]
    assert grid_queries(noise, (14, 14), 3, "first").tolist() == [wanted]


def test_a_window_by_hand():
    """2 x 3 windows of 2 x 2 patches in a grid of 4 x 7: cells row by row, patches row by row in the window, left or right."""
    noise = torch.tensor([[0.9, 0.0, 0.0, 0.25, 0.5, 0.75, 0.24, 0.99], [0.0, 0.5, 0.99, 0.0, 0.3, 0.6, 0.0, 0.2]])
    wanted = [[0, 3, 4 + 7, 14 + 1 + 7, 14 + 2, 14 + 5 + 7], [1 + 1 + 7, 3, 5 + 1, 14 + 1 + 7, 14 + 3, 14 + 5]]
    assert grid_queries(noise, (4, 7), 2, "random").tolist() == wanted
    assert grid_queries(noise, (4, 7), 2, "first").tolist() == [[0, 2, 4, 14, 16, 18], [1, 3, 5, 15, 17, 19]]


@pytest.mark.parametrize("window", range(1, 8))
def test_every_query_lies_in_a_window_of_its_own(window):
    """The largest number below one included: its patch is the window's last, not the next window's first."""
    rows, columns = 2 * window + window // 2, 3 * window + window // 3
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.cat([uniform(40, 8), largest.expand(1, 8), torch.zeros(1, 8)])
    found = grid_queries(noise, (rows, columns), window, "random")
    assert found.shape == (42, 6)
    for numbers, image in zip(noise.tolist(), found.tolist(), strict=True):
        top, left = (numbers[0] >= 0.5) * (rows - 2 * window), (numbers[1] >= 0.5) * (columns - 3 * window)
        windows = [((index // columns - top) // window, (index % columns - left) // window) for index in image]
        assert windows == [(i, j) for i in range(2) for j in range(3)]
    assert found[40].tolist() == queries_naively(noise[40:41].double(), (rows, columns), window, "random")[0].tolist()
    assert found[40, -1] == rows * columns - 1
    assert found[41, 0] == 0


def test_every_patch_of_a_window_is_as_likely_and_the_first_pick_needs_no_luck():
    noise = uniform(2000, 11)
    found = grid_queries(noise, (9, 9), 3, "random")
    for cell in range(9):
        patches = torch.div(found[:, cell], 9, rounding_mode="floor") % 3 * 3 + found[:, cell] % 3
        assert stats.chisquare(torch.bincount(patches, minlength=9)).pvalue > 1e-3
    other = torch.cat([noise[:, :2], uniform(2000, 9, seed=1)], 1)
    assert torch.equal(grid_queries(other, (14, 11), 4, "first"), grid_queries(noise, (14, 11), 4, "first"))
    assert len(grid_queries(noise, (14, 11), 4, "first").unique(dim=0)) == 4


def test_only_where_the_window_does_not_divide_the_grid_does_the_corner_matter():
    noise = uniform(50, 14)
    assert len(grid_queries(noise, (9, 12), 3, "first").unique(dim=0)) == 1
    assert len(grid_queries(noise, (10, 12), 3, "first").unique(dim=0)) == 2
    assert len(grid_queries(noise, (9, 13), 3, "first").unique(dim=0)) == 2
    for number, (grid, step) in enumerate([((10, 12), 12), ((9, 13), 1)]):
        found = grid_queries(noise, grid, 3, "first")[:, 0]
        assert torch.equal(found, (noise[:, number] >= 0.5).long() * step)


@pytest.mark.parametrize("grid", [(2, 6), (6, 2), (2, 2)])
@pytest.mark.parametrize("pick", ["first", "random"])
def test_a_window_larger_than_the_grid_is_refused(grid, pick):
    with pytest.raises(UserError):
        grid_queries(uniform(2, 2), grid, 3, pick)


def positions_naively(dim, rows, columns):
    """One number at a time: the column's sines and cosines, then the row's."""
    table = []
    for row in range(rows):
        for column in range(columns):
            line = []
            for place in (column, row):
                for wave in (math.sin, math.cos):
                    line += [wave(place * 10000 ** (-i / (dim / 4))) for i in range(dim // 4)]
            table.append(line)
    return torch.tensor([table])


@pytest.mark.parametrize(("dim", "rows", "columns"), [(4, 3, 5), (8, 1, 6), (48, 5, 2), (192, 6, 6), (384, 14, 14)])
def test_positions_are_the_naive_ones(dim, rows, columns):
    found = sincos_positions(dim, (rows, columns))
    assert found.shape == (1, rows * columns, dim)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, positions_naively(dim, rows, columns), rtol=0, atol=2e-6)


def test_positions_by_hand():
    """Grid of 2 x 3, eight channels: frequencies 1 and 1/100; the fourth patch begins the second row."""
    found = sincos_positions(8, (2, 3))[0]
    s, c = math.sin, math.cos
    assert found[2].tolist() == pytest.approx([s(2), s(0.02), c(2), c(0.02), 0, 0, 1, 1], abs=1e-6)
    assert found[3].tolist() == pytest.approx([0, 0, 1, 1, s(1), s(0.01), c(1), c(0.01)], abs=1e-6)


def test_products_of_positions_depend_on_how_far_apart_they_are():
    found = sincos_positions(16, (4, 5))[0].view(4, 5, 16).double()
    for down, right in ((0, 1), (1, 0), (2, 3)):
        products = (found[: 4 - down, : 5 - right] * found[down:, right:]).sum(2)
        assert products.max() - products.min() < 1e-5
    assert found.square().sum(2).sub(8).abs().max() < 1e-5


@pytest.mark.parametrize("dim", [2, 6, 30, 191])
def test_positions_need_a_multiple_of_four(dim):
    with pytest.raises(UserError):
        sincos_positions(dim, (3, 3))
