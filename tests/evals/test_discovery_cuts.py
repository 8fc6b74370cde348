"""LOST and TokenCut: cases that can be computed by hand, plain loops, and what must not change the answer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import ndimage

from densebench.evals.discovery import eigenvectors, graphs
from densebench.evals.discovery.eigenvectors import second_eigenvectors
from densebench.evals.discovery.findings import box_of, component, flaw_of
from densebench.evals.discovery.lost import lost
from densebench.evals.discovery.tokencut import EPSILON, graph_weights, halves, tokencut
from densebench.evals.discovery.views import Patches

SIDE, PATCH = 4, 16
WHERE = Patches(SIDE * PATCH, SIDE * PATCH, SIDE, SIDE, 16.0, 16.0)
OBJECT = np.zeros((SIDE, SIDE), bool)
OBJECT[1:3, 1:3] = True
MIDDLE = (16, 16, 48, 48)


def two_kinds(product):
    """Features of a 4 x 4 grid: object patches in the middle and ground around it, whose dot product is `product`."""
    ground, thing = torch.tensor([1.0, 0.0]), torch.tensor([product, (1 - product**2) ** 0.5])
    return torch.where(torch.from_numpy(OBJECT).flatten()[:, None], thing, ground)[None]


def box_found(mask, seed):
    return box_of(component(mask.reshape(SIDE, SIDE).numpy(), int(seed)), WHERE)


def drawn(count=1, n=16, d=6, seed=0, shift=0.0):
    return torch.randn(count, n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_lost_finds_the_patches_that_are_like_few():
    found = lost(graphs.products(two_kinds(-0.1)))
    assert set(found.degree[0, OBJECT.ravel()].tolist()) == {3} and set(found.degree[0, ~OBJECT.ravel()].tolist()) == {11}
    assert int(found.seed) == 5, "the first of four patches with the same degree"
    assert box_found(found.mask[0], found.seed) == MIDDLE


def test_lost_takes_the_whole_picture_where_all_products_are_positive():
    found = lost(graphs.products(two_kinds(0.1)))
    assert set(found.degree.flatten().tolist()) == {15} and int(found.seed) == 0 and float(found.density) == 1
    assert box_found(found.mask[0], found.seed) == (0, 0, 64, 64)


def test_lost_does_not_join_patches_whose_product_is_zero():
    found = lost(graphs.products(two_kinds(0.0)))
    assert box_found(found.mask[0], found.seed) == MIDDLE


def naive_lost(features, candidates):
    """LOST for one picture by plain loops: degrees, seed and mask."""
    n = len(features)
    product = [[float(sum(a * b for a, b in zip(features[p], features[q], strict=True))) for q in range(n)] for p in range(n)]
    degree = [sum(1 for q in range(n) if q != p and product[p][q] > 0) for p in range(n)]
    order = sorted(range(n), key=lambda p: (degree[p], p))
    alike = [p for p in order[:candidates] if product[order[0]][p] > 0]
    return degree, order[0], [sum(product[p][q] for p in alike) > 0 for q in range(n)]


@pytest.mark.parametrize("candidates", [1, 5, 100])
def test_lost_is_what_plain_loops_give(candidates):
    features = drawn(count=5, shift=0.3).double()
    found = lost(graphs.products(features), candidates)
    for number, own in enumerate(features.tolist()):
        degree, seed, mask = naive_lost(own, candidates)
        assert found.degree[number].tolist() == degree and int(found.seed[number]) == seed
        assert found.mask[number].tolist() == mask


def test_two_blocks_have_the_eigenvalue_and_the_ratio_of_the_formula():
    weights = torch.full((1, 16, 16), EPSILON, dtype=torch.float64)
    inside = torch.from_numpy(OBJECT).flatten()
    weights[0][inside[:, None] == inside] = 1.0
    found = second_eigenvectors(weights)
    first, second = 4 + 12 * EPSILON, 12 + 4 * EPSILON
    assert float(found.values[0, 0]) == pytest.approx(EPSILON * (12 / first + 4 / second), rel=1e-9)
    assert float(found.values[0, 0]) == pytest.approx(3.333e-5, rel=1e-3)
    thing, ground = found.vector[0][inside], found.vector[0][~inside]
    assert (thing / ground[0]).tolist() == pytest.approx([-9.0] * 4, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_picks_the_object_whatever_the_sign(sign):
    vector = sign * torch.where(torch.from_numpy(OBJECT).flatten(), -9.0, 1.0).double()[None]
    mask, seed, scaled = halves(vector)
    assert mask[0].tolist() == OBJECT.ravel().tolist() and int(seed) == 5 and float(scaled[0, 5]) == 1
    assert box_found(mask[0], seed) == MIDDLE


def test_tokencut_finds_the_block():
    found = tokencut(graphs.cosines(two_kinds(-0.1)), 0.2)
    assert box_found(found.mask[0], found.seed) == MIDDLE
    assert float(found.density) == pytest.approx((4 * 3 + 12 * 11) / (16 * 15))


def naive_tokencut(features, tau, binary):
    """TokenCut for one picture: the weights by loops, the problem as it is written, the split by the rules of its text."""
    n, length = len(features), np.sqrt((features**2).sum(1))
    weights = np.empty((n, n))
    for p in range(n):
        for q in range(n):
            cosine = float(features[p] @ features[q]) / (length[p] * length[q])
            edge = (cosine > tau if binary else cosine >= tau) or p == q
            weights[p, q] = (1.0 if binary else cosine) if edge else 1e-5
    degrees = np.diag(weights.sum(1))
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])
    vector = vectors[:, 0]
    size = np.abs(vector)
    mask, seed = vector > vector.mean(), int(np.flatnonzero(size > (1 - 1e-7) * size.max())[0])  # alike patches tie
    return values, (mask if mask[seed] else ~mask), seed, weights


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("tau", [0.0, 0.2, 0.4])
def test_tokencut_is_what_the_problem_as_written_gives(tau, binary):
    features = drawn(count=6, d=5, n=24, seed=3).double()
    found = tokencut(graphs.cosines(features), tau, binary)
    for number, own in enumerate(features.numpy()):
        values, mask, seed, weights = naive_tokencut(own, tau, binary)
        edges = np.array(weights) != 1e-5
        assert float(found.density[number]) == pytest.approx((edges.sum() - 24) / (24 * 23))
        assert float(found.eigengap[number]) == pytest.approx(values[1] - values[0], rel=1e-6)
        assert int(found.seed[number]) == seed and found.mask[number].tolist() == mask.tolist()


def clustered(n, count=3, clusters=6):
    """Features of `count` pictures whose patches lie around a few directions."""
    generator = torch.Generator().manual_seed(n)
    centres = torch.randn(count, clusters, 16, generator=generator)
    chosen = torch.randint(clusters, (count, n, 1), generator=generator).expand(-1, -1, 16)
    return centres.gather(1, chosen) + 0.6 * torch.randn(count, n, 16, generator=generator)


@pytest.mark.parametrize("binary", [True, False])
def test_a_cosine_of_exactly_tau_is_an_edge_only_where_edges_have_weights(binary):
    """TokenCut's code asks for more than tau, but its --no-binary-graph replaces what is below it."""
    features = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]], dtype=torch.float64)
    cut = tokencut(graphs.cosines(features), 0.6, binary)
    assert float(cut.density) == pytest.approx(0 if binary else 2 / 6)


@pytest.mark.parametrize("n", [eigenvectors.DENSE, 180])
def test_vectors_of_large_graphs_are_those_of_a_dense_solver(n):
    cosines = graphs.cosines(clustered(n))
    edges = (cosines > 0.2).clone()
    edges.diagonal(dim1=1, dim2=2).fill_(True)
    weights = graph_weights(cosines, edges, binary=True)
    found = second_eigenvectors(weights)
    assert float(found.residual.max()) < 1e-9
    for own, vector, values in zip(weights.numpy(), found.vector.numpy(), found.values.numpy(), strict=True):
        degrees = np.diag(own.sum(1))
        expected, vectors = scipy.linalg.eigh(degrees - own, degrees, subset_by_index=[1, 2])
        assert values == pytest.approx(expected, abs=1e-9)
        lengthened = vectors[:, 0] / np.linalg.norm(vectors[:, 0])
        assert vector * np.sign(vector @ lengthened) == pytest.approx(lengthened, abs=1e-7)
        assert vector[np.abs(vector).argmax()] > 0


def test_what_does_not_converge_is_solved_as_a_whole(monkeypatch):
    weights = graph_weights(graphs.cosines(clustered(140)), graphs.cosines(clustered(140)) > 0.2, binary=True)
    usual = second_eigenvectors(weights)
    monkeypatch.setattr(eigenvectors, "MOST", 1)
    late = second_eigenvectors(weights)
    assert torch.allclose(usual.vector, late.vector, atol=1e-7) and float(late.residual.max()) < 1e-12


def test_the_company_in_which_a_graph_is_cut_changes_nothing():
    """A chain of patches, which converges late, must not make the others go on."""
    cosines = graphs.cosines(clustered(140))
    place = torch.arange(140)
    edges = torch.stack([*(cosines[:2] > 0.2), (place[:, None] - place).abs() < 2])
    weights = graph_weights(cosines, edges, binary=True)
    together, alone = second_eigenvectors(weights), [second_eigenvectors(each[None]) for each in weights]
    for part in together._fields:
        assert torch.equal(getattr(together, part), torch.cat([getattr(each, part) for each in alone]))


def test_a_graph_of_few_different_patches_is_solved_in_a_small_space(monkeypatch):
    """Its Krylov space is exhausted after a few products; what is added then must stay orthogonal."""
    solved, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: solved.append(matrix.shape[1]) or eigh(matrix))
    block = torch.arange(150) // 60
    weights = torch.where(block[:, None] == block, 1.0, EPSILON).double()[None]
    monkeypatch.setattr(eigenvectors, "CHECKED", 12)  # long after it is exhausted
    found = second_eigenvectors(weights)
    assert max(solved) == 12 * eigenvectors.BLOCK and float(found.residual) < 1e-12
    degrees = np.diag(weights[0].sum(1).numpy())
    expected = scipy.linalg.eigh(degrees - weights[0].numpy(), degrees, subset_by_index=[1, 2], eigvals_only=True)
    assert found.values[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_equal_eigenvalues_are_seen_as_a_gap_of_zero():
    """Three blocks of one size: any mixture of their two cuts is as good."""
    block = torch.arange(150) // 50
    weights = torch.where(block[:, None] == block, 1.0, EPSILON).double()[None]
    found = second_eigenvectors(weights)
    gap = float(found.values[0, 1] - found.values[0, 0])
    assert abs(gap) < 1e-8 and flaw_of(np.eye(2, dtype=bool), 0.3, gap) == "several equal cuts"


def test_tokencut_ignores_the_length_of_features_and_both_the_order_of_channels():
    features = drawn(count=3, d=8, seed=5)
    lengths = 0.1 + torch.rand(3, 16, 1, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    expected = tokencut(graphs.cosines(features), 0.2)
    for other in (features * lengths, features[:, :, order]):
        assert tokencut(graphs.cosines(other), 0.2).mask.tolist() == expected.mask.tolist()
    found, shuffled = (lost(graphs.products(each)) for each in (features, features[:, :, order]))
    assert found.mask.tolist() == shuffled.mask.tolist() and found.seed.tolist() == shuffled.seed.tolist()


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_a_mirrored_picture_has_the_mirrored_box(method):
    grid = clustered(48, count=8, clusters=3).unflatten(1, (6, 8))
    mirrored = [_cut(method, each.flatten(1, 2)) for each in (grid, grid.flip(2))]
    boxes, others = (
        [box_of(component(mask.reshape(6, 8).numpy(), int(seed)), Patches(128, 96, 6, 8, 16.0, 16.0)) for mask, seed in each]
        for each in mirrored
    )
    assert [(128 - right, top, 128 - left, bottom) for left, top, right, bottom in others] == boxes


def _cut(method, features):
    if method == "lost":
        found = lost(graphs.products(features))
        ties = [int((row == row.min()).sum()) for row in found.degree]
    else:
        found = tokencut(graphs.cosines(features), 0.2)
        ties = (found.vector.abs() > 1 - 1e-7).sum(1).tolist()
    unique = [(mask, seed) for mask, seed, tied in zip(found.mask, found.seed, ties, strict=True) if tied == 1]
    assert len(unique) > 2
    return unique  # a tie goes to the lower index, which mirroring changes


def test_a_component_has_four_neighbours_a_patch():
    mask = np.eye(3, dtype=bool)
    mask[0, 1] = True
    assert component(mask, 0).tolist() == (mask & (ndimage.label(mask)[0] == 1)).tolist()
    assert component(mask, 0).sum() == 3 and component(mask, 8).sum() == 1 and not component(mask, 2).any()


def test_alikeness_is_symmetric_to_the_last_bit(monkeypatch):
    """Even where a product of matrices is not, which on some devices depends on the order of sums."""
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.matmul(a, b) + 1e-7 * torch.arange(a.shape[1]))
    for pairs in (graphs.products(drawn()), graphs.cosines(drawn())):
        assert torch.equal(pairs, pairs.mT)


def test_constant_features_have_the_density_one_and_a_finite_cut():
    cut = tokencut(graphs.cosines(torch.ones(1, 120, 4)), 0.2)
    assert float(cut.density) == 1 and bool(cut.vector.isfinite().all())
    assert flaw_of(np.ones((3, 3), bool), 1.0) == "nearly all patches alike"
    assert lost(graphs.products(torch.ones(1, 9, 4))).mask.all()


def test_zero_features_find_nothing():
    found = lost(graphs.products(torch.zeros(1, 9, 4)))
    part = component(found.mask.reshape(3, 3).numpy(), int(found.seed))
    assert not part.any() and flaw_of(part, 0.5) == "no object"


def test_a_graph_without_edges_shows_no_object():
    features = torch.eye(9)[None]
    for found in (lost(graphs.products(features)), tokencut(graphs.cosines(features), 0.2)):
        part = component(found.mask.reshape(3, 3).numpy(), int(found.seed))
        assert float(found.density) == 0 and flaw_of(part, float(found.density)) == "no two patches alike"


def test_what_all_patches_share_is_subtracted():
    features = drawn(count=2, shift=5.0)
    assert float(graphs.density(graphs.products(features) > 0)[0]) == 1
    centred = graphs.centred(features, "mean")
    assert float(graphs.density(graphs.products(centred) > 0)[0]) < 0.7
    assert centred.mean(1).abs().max() < 1e-5
    whole = graphs.centred(features, "map")
    for own, normalised in zip(features.double(), whole, strict=True):  # one mean and one deviation for all patches and channels
        assert torch.allclose(normalised.double(), (own - own.mean()) / own.std(correction=0), atol=1e-4)
    assert graphs.centred(features, "none") is features
